"""What the numbers of a store mean is kept beside them, and compared wherever data meet."""

import json
from dataclasses import replace
from io import StringIO

import pytest
from rich.console import Console

from user_core.codecs.trajectory import EpisodeFileReader
from user_core.errors import ConfigError, SchemaMismatch, StoreError
from user_core.reasons import MEANING_ACCEPTED, MEANING_UNKNOWN
from user_core.specs import ActionKind, ArraySpec
from user_learner.cli.replay import main
from user_learner.learner import DataConfig, LearnerConfig, check_meaning
from user_learner.replay import StoreWriter
from user_learner.replay.meaning import MEANING_NAME, read_meaning, write_meaning
from user_learner.replay.transfer import export_episodes, import_episodes, merge
from user_learner.sampling import History
from user_testing.worlds.replay import QUICK, SCHEMA, SPEC, Actor, Plan, fill

ARM = replace(
    SPEC, action=ArraySpec((2,), low=-0.05, high=0.05, unit="rad"), period_s=0.1,
    action_kind=ActionKind.JOINT_DELTA,
)  # fmt: skip
DEGREES = replace(
    SPEC, action=ArraySpec((2,), low=-180.0, high=180.0, unit="deg"), period_s=1 / 30,
    action_kind=ActionKind.JOINT_POSITION,
)  # fmt: skip
ALL = ["action_kind", "period", "bounds", "units"]


def store(path, spec=None, number=1, episodes=1):
    with StoreWriter(path, config=QUICK) as writer:
        fill(writer, Actor(number), [Plan(10)] * episodes)
    if spec is not None:
        write_meaning(path, spec)
    return path


def learner(tmp_path, spec, *, demonstrations="", accept=(), live=ARM):
    if not (tmp_path / "replay").exists():
        store(tmp_path / "replay", live)
    config = LearnerConfig(
        directory=tmp_path / "learner", store=tmp_path / "replay",
        data=DataConfig(accept_differences=tuple(accept)),
    )  # fmt: skip
    history = [History(path=str(path)) for path in [demonstrations] if path]
    return check_meaning(config, spec, history)


def test_demonstrations_that_mean_something_else_are_refused_by_a_learner(tmp_path):
    demonstrations = store(tmp_path / "demos", DEGREES)
    with pytest.raises(SchemaMismatch, match=r"data.accept_differences: \[action_kind, period"):
        learner(tmp_path, ARM, demonstrations=demonstrations)


def test_a_person_may_accept_differences_by_name(tmp_path):
    demonstrations = store(tmp_path / "demos", DEGREES)
    told = learner(tmp_path, ARM, demonstrations=demonstrations, accept=ALL)
    assert [reason.code for reason in told] == [MEANING_ACCEPTED] * 4
    with pytest.raises(ConfigError, match="accept_differences"):
        DataConfig(accept_differences=("everything",))


def test_the_live_store_is_compared_too_and_history_of_the_same_meaning_is_taken(tmp_path):
    demonstrations = store(tmp_path / "demos", ARM)
    assert learner(tmp_path, ARM, demonstrations=demonstrations) == []
    with pytest.raises(SchemaMismatch, match="replay"):
        learner(tmp_path, DEGREES, demonstrations=demonstrations)


def test_a_store_of_before_has_the_meaning_of_its_run_or_it_is_unknown_and_said(tmp_path):
    demonstrations = store(tmp_path / "elsewhere" / "demos")
    [reason] = learner(tmp_path, ARM, demonstrations=demonstrations)
    assert reason.code == MEANING_UNKNOWN and "demos" in reason.text
    old = store(tmp_path / "run" / "replay")
    assert read_meaning(old, SCHEMA).spec is None
    kept = tmp_path / "run" / "learner" / "robot_spec.json"
    kept.parent.mkdir()
    kept.write_text(json.dumps(ARM.to_dict()))
    assert read_meaning(old, SCHEMA).spec == ARM
    other = replace(ARM, observation={"x": ArraySpec((5,))})
    kept.write_text(json.dumps(other.to_dict()))  # of other shapes: not these rows'
    assert read_meaning(old, SCHEMA).spec is None


def test_the_learner_of_a_run_tells_its_store_what_it_means(tmp_path):
    kept = tmp_path / "learner" / "robot_spec.json"
    kept.parent.mkdir()
    kept.write_text(json.dumps(ARM.to_dict()))
    assert learner(tmp_path, ARM, live=None) == []
    kept.unlink()
    assert read_meaning(tmp_path / "replay", SCHEMA).spec == ARM


def test_stores_that_mean_different_things_are_not_merged(tmp_path):
    source = store(tmp_path / "degrees", DEGREES, number=2)
    with StoreWriter(store(tmp_path / "arm", ARM), config=QUICK) as target:
        with pytest.raises(SchemaMismatch, match="--accept"):
            merge(source, target)
        report = merge(source, target, accepted=ALL)
        assert report.rows == 11 and len(report.notes) == 4


def test_a_new_store_takes_the_meaning_over_and_files_carry_it(tmp_path):
    source = store(tmp_path / "arm", ARM)
    with StoreWriter(tmp_path / "joined", config=QUICK) as target:
        assert merge(source, target).notes == []
    export_episodes(tmp_path / "joined", tmp_path / "file")
    with EpisodeFileReader(tmp_path / "file") as episodes:
        assert episodes.meaning == ARM
    with StoreWriter(tmp_path / "imported", config=QUICK) as target:
        import_episodes(tmp_path / "file", target)
    assert read_meaning(tmp_path / "imported", SCHEMA).spec == ARM
    with StoreWriter(store(tmp_path / "other", DEGREES, number=2), config=QUICK) as target:
        with pytest.raises(SchemaMismatch, match="bounds -0.05 to 0.05"):
            import_episodes(tmp_path / "file", target)


def test_what_is_unknown_is_said_and_refuses_nothing(tmp_path):
    unknown = store(tmp_path / "old", number=2)
    with StoreWriter(store(tmp_path / "arm", ARM), config=QUICK) as target:
        [note] = merge(unknown, target).notes
        assert "unknown" in note
    with StoreWriter(store(tmp_path / "old2", number=3), config=QUICK) as target:
        [note] = merge(tmp_path / "arm", target).notes
        assert "unknown" in note
    assert read_meaning(tmp_path / "old2", SCHEMA).spec is None


def shown(*arguments):
    console = Console(file=StringIO(), width=200)
    status = main([str(a) for a in arguments], console)
    return status, console.file.getvalue()


def test_the_command_shows_what_a_store_means_and_counts_actions_outside_the_bounds(tmp_path):
    status, text = shown("info", store(tmp_path / "arm", ARM))
    for words in ("joint_delta", "10 Hz", "-0.05 to 0.05", "9 of 10 steps (90 %)"):
        assert words in text
    assert status == 0
    status, text = shown("info", store(tmp_path / "old"))
    assert status == 0 and "meaning unknown" in text
    source = store(tmp_path / "degrees", DEGREES, number=2)
    status, text = shown("merge", source, "--into", tmp_path / "arm")
    assert status == 2 and "action kind joint_position; period 30 Hz" in text
    status, _ = shown("merge", source, "--into", tmp_path / "arm", "--accept", ",".join(ALL))
    assert status == 0


def test_a_meaning_of_a_later_version_is_refused_with_words(tmp_path):
    path = store(tmp_path / "arm", ARM)
    (path / MEANING_NAME).write_text(json.dumps({"version": 99}))
    with pytest.raises(StoreError, match="version 99"):
        read_meaning(path, SCHEMA)


def test_the_hash_of_a_schema_is_what_it_was(tmp_path):
    assert SCHEMA.hash == "5e507d974ed4f9fb27851767e8f08ac303d8b3590887871e1fc39c64972ba044"
    with StoreWriter(store(tmp_path / "arm", ARM), config=QUICK) as writer:
        assert writer.schema is not None and writer.schema.hash == SCHEMA.hash


def test_a_second_robot_of_another_meaning_is_refused_while_it_sends(tmp_path):
    first, second = Actor(1), Actor(2)
    with StoreWriter(tmp_path / "store", config=QUICK) as writer:
        writer.expect("actor1", ARM)
        writer.expect("actor2", DEGREES)
        assert writer.append(first.chunks(Plan(3))[0]).status == "staged"
        chunk = second.chunks(Plan(3))[0]
        refused = writer.append(chunk)
        assert refused.status == "refused"
        assert refused.ack.error_code == "schema_mismatch"
        assert "joint_position" in refused.ack.error and "30 Hz" in refused.ack.error
        writer.append(second.empty(chunk))  # as an outbox does instead of a refused one
        writer.expect("actor2", ARM)  # the robot was configured anew
        assert writer.append(second.chunks(Plan(3))[0]).status == "staged"
        assert writer.append(Actor(3).chunks(Plan(3))[0]).status == "staged", "nobody knows"
    assert read_meaning(tmp_path / "store").spec == ARM
    accepting = QUICK.replace(accept_differences=tuple(ALL))
    with StoreWriter(tmp_path / "store", config=accepting) as writer:
        writer.expect("robot7.*", DEGREES)
        other = Actor(4)
        chunk = other.chunks(Plan(3))[0]
        chunk = replace(
            chunk, id=replace(chunk.id, producer="robot7.actor"),
            episode=replace(chunk.episode, producer="robot7.actor"), result=None,
        )  # fmt: skip
        assert writer.append(chunk).status == "staged"
        assert any("robot7.actor" in note and "accepted" in note for note in writer.meaning_notes())
