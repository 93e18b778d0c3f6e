"""Retention, history, merging, export and import, and the commands for them."""

import json
import os
import shutil
import zipfile
from dataclasses import replace

import numpy as np
import pytest

from user_core.codecs.trajectory import EpisodeFileReader
from user_core.errors import CodecError, SchemaMismatch, StoreError
from user_core.types import EpisodeKey, EpisodeSource
from user_learner.cli.replay import main
from user_learner.replay import ChunkStatus, RetentionConfig, StoreReader, StoreWriter
from user_learner.replay.maintenance import verify
from user_learner.replay.transfer import export_episodes, import_episodes, merge
from user_learner.sampling import History, ReplaySource, Stratum
from user_testing.worlds.replay import (
    IMAGE_SCHEMA,
    QUICK,
    SCHEMA,
    STILL,
    Actor,
    Plan,
    assert_holds,
    fill,
    joined,
    same_columns,
)

CONFIG = QUICK.replace(segment_bytes=1)
DEMONSTRATION, EVALUATION = EpisodeSource.DEMONSTRATION, EpisodeSource.EVALUATION


def store(path, *filling, config=CONFIG):
    with StoreWriter(path, config=config) as writer:
        return [chunk for actor, plans in filling for chunk in fill(writer, actor, plans)]


# Retention


def test_nothing_is_forgotten_unless_a_policy_says_so(tmp_path):
    with StoreWriter(tmp_path, config=CONFIG) as writer:
        fill(writer, Actor(chunk_rows=500), [Plan(3000)])
        assert writer.retain() == []
        assert writer.retain(RetentionConfig(max_rows=10_000)) == []


def test_the_oldest_online_segments_go_first_and_demonstrations_never(tmp_path):
    demonstrator = Actor(1, chunk_rows=500)
    online, evaluated = Actor(2, chunk_rows=500), Actor(3, chunk_rows=500)
    with StoreWriter(tmp_path, config=CONFIG) as writer:
        kept = fill(writer, demonstrator, [Plan(1500, source=DEMONSTRATION)])
        fill(writer, online, [Plan(1023)] * 2)
        fill(writer, evaluated, [Plan(1023, source=EVALUATION)])
        fill(writer, online, [Plan(1023)] * 3)
        with ReplaySource(tmp_path, STILL) as source:
            source.sample(8)
            before = mapped_files(tmp_path)
            gone = writer.retain(RetentionConfig(max_rows=5000))
            assert [g.source.name for g in gone] == ["ONLINE", "ONLINE", "EVALUATION"]
            assert source.refresh()
            assert set(source.sample(4000).observation["place"][:, 0]) == {1, 2}
            assert len(source) == 1500 + 3 * 1023
            assert source.collected(EpisodeSource.ONLINE) == 5 * 1023  # that ever came
            assert len(mapped_files(tmp_path)) < len(before)  # their disk space is free
        assert writer.retain(RetentionConfig(max_rows=1)) != []
        assert writer.append(kept[0]).status == ChunkStatus.DUPLICATE
        more = fill(writer, online, [Plan(50)])
    reader = StoreReader(tmp_path)
    episodes = {episode.key: episode for episode in reader.episodes()}
    for chunks in (kept, more):
        for key, columns in joined(chunks).items():
            assert same_columns(reader.read_episode(episodes[key]), columns)
    reader.close()
    report = verify(tmp_path)
    assert report.ok, report.errors
    assert any("retired" in line for line in report.warnings)
    names = sorted(path.name for path in (tmp_path / "segments").iterdir())
    assert len(names) == 2 + 1  # demonstrations, and what is being filled


def mapped_files(path):
    from pathlib import Path

    lines = Path("/proc/self/maps").read_text().splitlines()
    return {line.split()[-1] for line in lines if str(path) in line and "deleted" not in line}


def test_an_episode_that_lost_its_front_keeps_the_rest(tmp_path):
    with StoreWriter(tmp_path, config=CONFIG) as writer:
        fill(writer, Actor(chunk_rows=500), [Plan(2500)])
        writer.retain(RetentionConfig(max_bytes=1600 * 64))
        with ReplaySource(tmp_path, STILL.replace(n_step=3)) as source:
            assert len(source) == 2500 - 1024
            rows = source.sample(3000).observation["place"][:, 2]
            assert (rows.min(), rows.max()) == (1024, 2499)
    report = verify(tmp_path)
    assert report.ok, report.errors


def test_a_crash_between_forgetting_and_deleting_leaves_no_file(tmp_path):
    with StoreWriter(tmp_path, config=CONFIG) as writer:
        fill(writer, Actor(chunk_rows=500), [Plan(2500)])
        shutil.copytree(tmp_path / "segments" / "00000001", tmp_path / "kept")
        writer.retain(RetentionConfig(max_rows=2000))
    (tmp_path / "kept").rename(tmp_path / "segments" / "00000001")
    StoreWriter(tmp_path, config=CONFIG).close()
    assert not (tmp_path / "segments" / "00000001").exists()


# History


def test_older_stores_are_drawn_from_as_well_and_not_written(tmp_path):
    store(tmp_path / "a", (Actor(1, chunk_rows=100), [Plan(1500)]))
    store(tmp_path / "b", (Actor(2), [Plan(30, source=EVALUATION)]), config=QUICK)
    store(tmp_path / "live", (Actor(3), [Plan(70)]))
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "a").rglob("*") if p.is_file()}
    history = (
        History(path=str(tmp_path / "a")),
        History(path=str(tmp_path / "b"), source=DEMONSTRATION),
    )
    with ReplaySource(tmp_path / "live", STILL, history) as source:
        assert len(source) == 1600
        batch = source.sample(4000)
        actors = batch.observation["place"][:, 0]
        assert set(actors) == {1, 2, 3}
        assert (batch.extras["demonstration"] == (actors == 2)).all()
        assert set(batch.extras["row"][actors == 3] >> 48) == {0}
        assert set(batch.extras["row"][actors == 1] >> 48) == {1}
        assert (batch.next_observation["place"][:, 2] - batch.observation["place"][:, 2] == 1).all()
        assert source.collected() == 70
    newest = STILL.replace(strata=(Stratum(newest_steps=100),))
    with ReplaySource(tmp_path / "live", newest, history) as source:
        actors = source.sample(2000).observation["place"][:, 0]
        assert set(actors) == {1, 3}  # the live store is newer than the first of its history
    after = {p: p.stat().st_mtime_ns for p in (tmp_path / "a").rglob("*") if p.is_file()}
    assert {
        p: t for p, t in after.items() if p.suffix in (".col", ".log")
    }.items() <= before.items()


def test_history_with_another_schema_is_refused_with_the_difference(tmp_path):
    store(tmp_path / "live", (Actor(1), [Plan(5)]))
    store(tmp_path / "other", (Actor(1, schema=IMAGE_SCHEMA), [Plan(5)]))
    with pytest.raises(SchemaMismatch, match="image_wrist: only in the second"):
        ReplaySource(tmp_path / "live", STILL, [History(path=str(tmp_path / "other"))])
    with pytest.raises(StoreError, match="no replay store"):
        ReplaySource(tmp_path / "live", STILL, [History(path=str(tmp_path / "nothing"))])


@pytest.mark.root
def test_a_store_on_a_read_only_disk(tmp_path):
    import subprocess

    if os.geteuid() != 0:
        pytest.skip("mounting needs root")
    store(tmp_path / "store", (Actor(1), [Plan(25)]))
    (tmp_path / "mounted").mkdir()
    bind = ["mount", "-o", "bind,ro", tmp_path / "store", tmp_path / "mounted"]
    mount = subprocess.run(bind, capture_output=True, text=True)
    if mount.returncode:
        pytest.skip(f"cannot mount here: {mount.stderr.strip()}")
    try:
        with ReplaySource(tmp_path / "mounted", STILL) as source:
            assert len(source) == 25
            assert len(source.sample(10)) == 10
    finally:
        subprocess.run(["umount", "-l", tmp_path / "mounted"], check=True)


# Merging


def test_two_stores_become_one_without_doubling_a_chunk(tmp_path):
    """Both were fed by the same outbox for a while: the one went on where the other stopped."""
    actor, other = Actor(1, chunk_rows=7), Actor(2, chunk_rows=30)
    chunks = [chunk for _ in range(30) for chunk in actor.chunks(Plan(60))]
    with StoreWriter(tmp_path / "a", config=CONFIG) as a, StoreWriter(tmp_path / "b") as b:
        for chunk in chunks[:150]:
            a.append(chunk)
        for chunk in chunks:
            b.append(chunk)
        theirs = fill(b, other, [Plan(1100)])
    with StoreWriter(tmp_path / "a", config=CONFIG) as target:
        report = merge(tmp_path / "b", target)
        assert (report.chunks, report.duplicates) == (len(chunks) - 150 + len(theirs), 150)
        assert report.skipped == []
        again = merge(tmp_path / "b", target)
        assert (again.chunks, again.duplicates) == (0, len(chunks) + len(theirs))
        more = fill(target, actor, [Plan(10)])  # the producer goes on with the merged store
    reader = StoreReader(tmp_path / "a")
    assert_holds(reader, [*chunks, *theirs, *more])
    reader.close()
    assert verify(tmp_path / "a").ok
    assert verify(tmp_path / "b").ok


def test_what_retention_dropped_is_left_out_of_a_merge(tmp_path):
    actor = Actor(1, chunk_rows=100)
    with StoreWriter(tmp_path / "a", config=CONFIG) as writer:
        fill(writer, actor, [Plan(900), Plan(900), Plan(900)])
        writer.retain(RetentionConfig(max_rows=2000))
    with StoreWriter(tmp_path / "b", config=CONFIG) as target:
        report = merge(tmp_path / "a", target)
        assert len(report.skipped) == 1  # the chunk that lay in two segments
        assert target.acknowledged()[0].sequence == actor.sequence
    report = verify(tmp_path / "b")
    assert report.ok, report.errors
    with ReplaySource(tmp_path / "b", STILL) as source:
        batch = source.sample(500)
        assert ((batch.next_observation["place"] - batch.observation["place"]) == [0, 0, 1]).all()


def test_stores_of_different_schemas_are_not_merged(tmp_path):
    store(tmp_path / "a", (Actor(1), [Plan(5)]))
    store(tmp_path / "b", (Actor(1, schema=IMAGE_SCHEMA), [Plan(5)]))
    with StoreWriter(tmp_path / "a", config=CONFIG) as target:
        with pytest.raises(SchemaMismatch, match="image_wrist: only in the second"):
            merge(tmp_path / "b", target)


# Export and import


@pytest.mark.parametrize("compress", [False, True])
def test_episodes_travel_in_a_file(tmp_path, compress):
    plans = [Plan(40, source=DEMONSTRATION), Plan(1100, terminated=True), Plan(3, final=False)]
    chunks = store(tmp_path / "a", (Actor(1, schema=IMAGE_SCHEMA, chunk_rows=50), plans))
    report = export_episodes(tmp_path / "a", tmp_path / "file.npz", compress=compress)
    assert (report.episodes, report.skipped) == (3, [])
    with StoreWriter(tmp_path / "b", config=CONFIG) as target:
        report = import_episodes(tmp_path / "file.npz", target)
        assert (report.episodes, report.rows) == (3, 41 + 1101 + 3)
        again = import_episodes(tmp_path / "file.npz", target)
        assert (again.episodes, again.duplicates) == (0, 3)
    one, two = StoreReader(tmp_path / "a"), StoreReader(tmp_path / "b")
    assert_holds(two, chunks)
    strip = [replace(e, extents=()) for e in one.episodes()]
    assert [replace(e, extents=()) for e in two.episodes()] == strip
    one.close()
    two.close()
    assert verify(tmp_path / "b").ok
    arrays = np.load(tmp_path / "file.npz")  # without this package, and without pickle
    assert arrays["000000/observation.image_wrist"].shape == (41, 40, 41, 3)


def test_imported_episodes_can_be_demonstrations_and_survive_the_loss_of_the_index(tmp_path):
    chunks = store(tmp_path / "a", (Actor(1, chunk_rows=50), [Plan(40), Plan(1100)]))
    export_episodes(tmp_path / "a", tmp_path / "file.npz")
    with StoreWriter(tmp_path / "b", config=CONFIG) as target:
        import_episodes(tmp_path / "file.npz", target, DEMONSTRATION)
    (tmp_path / "b" / "index.sqlite").unlink()
    StoreWriter(tmp_path / "b", config=CONFIG).close()
    reader = StoreReader(tmp_path / "b")
    assert_holds(reader, chunks)
    assert {e.source for e in reader.episodes()} == {DEMONSTRATION}
    assert reader.meta.steps == {int(DEMONSTRATION): 1140}
    reader.close()
    report = verify(tmp_path / "b")
    assert report.ok, report.errors


def test_a_file_with_other_specs_is_refused_with_the_difference(tmp_path):
    store(tmp_path / "a", (Actor(1, schema=IMAGE_SCHEMA), [Plan(5)]))
    export_episodes(tmp_path / "a", tmp_path / "file.npz")
    with StoreWriter(tmp_path / "b", SCHEMA, CONFIG) as target:
        with pytest.raises(SchemaMismatch, match="image_wrist: only in the second"):
            import_episodes(tmp_path / "file.npz", target)
        assert target.commit() == []


def test_what_came_before_the_damage_is_taken(tmp_path):
    store(tmp_path / "a", (Actor(1), [Plan(5), Plan(6), Plan(7)]))
    export_episodes(tmp_path / "a", tmp_path / "file.npz")
    with zipfile.ZipFile(tmp_path / "file.npz") as archive:
        info = archive.getinfo("000001/action.npy")
        offset = info.header_offset + 30 + len(info.filename) + info.file_size
    data = bytearray((tmp_path / "file.npz").read_bytes())
    data[offset] ^= 1
    (tmp_path / "file.npz").write_bytes(data)
    with StoreWriter(tmp_path / "b", config=CONFIG) as target:
        with pytest.raises(CodecError, match="000001/action.npy"):
            import_episodes(tmp_path / "file.npz", target)
    reader = StoreReader(tmp_path / "b")
    assert [e.rows for e in reader.episodes()] == [6]
    reader.close()


def test_episodes_with_holes_are_left_out_of_an_export(tmp_path):
    actor = Actor(chunk_rows=3)
    chunks = actor.chunks(Plan(8))
    with StoreWriter(tmp_path / "a", config=CONFIG) as writer:
        for chunk in (chunks[0], actor.empty(chunks[1]), chunks[2]):
            writer.append(chunk)
    report = export_episodes(tmp_path / "a", tmp_path / "file.npz")
    assert report.skipped == ["episode actor1/1/0: rows 3 to 5 are missing"]
    with EpisodeFileReader(tmp_path / "file.npz") as file:
        assert len(file) == 0


# The command


def run(capsys, *arguments):
    status = main([str(argument) for argument in arguments])
    return status, " ".join(capsys.readouterr().out.split())


def test_the_commands(tmp_path, capsys):
    plans = [Plan(40, source=DEMONSTRATION, terminated=True), Plan(30)]
    store(tmp_path / "a", (Actor(1), plans))
    status, text = run(capsys, "info", tmp_path / "a", "--episodes", 5)
    assert status == 0
    assert "actor1/1/0" in text
    assert "observation.place" in text
    assert run(capsys, "verify", tmp_path / "a")[0] == 0
    file = tmp_path / "demos.npz"
    export = ("export", tmp_path / "a", file, "--source", "demonstration", "--compress")
    assert run(capsys, *export)[0] == 0
    assert run(capsys, "import", file, "--into", tmp_path / "b", "--as", "online")[0] == 0
    assert run(capsys, "merge", tmp_path / "a", "--into", tmp_path / "b")[0] == 1  # one episode
    reader = StoreReader(tmp_path / "b")
    sources = {e.key: e.source for e in reader.episodes()}
    reader.close()
    assert sources == {
        EpisodeKey("actor1", 1, 0): EpisodeSource.ONLINE,
        EpisodeKey("actor1", 1, 1): EpisodeSource.ONLINE,
    }
    status, text = run(capsys, "info", tmp_path / "nothing")
    assert status == 2
    assert "no replay store" in text


def test_the_command_finds_and_mends(tmp_path, capsys):
    store(tmp_path / "a", (Actor(1, chunk_rows=100), [Plan(1500)]))
    with open(tmp_path / "a" / "segments" / "00000001" / "records.col", "r+b") as file:
        file.seek(700)
        file.write(b"\xff\xff")
    status, text = run(capsys, "verify", tmp_path / "a")
    assert status == 1
    assert "checksum of records.col" in text
    status, text = run(capsys, "verify", tmp_path / "a", "--repair")
    assert status == 0
    assert "set aside" in text
    (tmp_path / "a" / "index.sqlite").write_bytes(b"")
    assert run(capsys, "verify", tmp_path / "a")[0] == 2
    status, text = run(capsys, "verify", tmp_path / "a", "--repair")
    assert status == 0
    assert "index rebuilt" in text


def test_an_exported_schema_keeps_units_and_bounds(tmp_path):
    with StoreWriter(tmp_path / "a", SCHEMA, CONFIG) as writer:
        fill(writer, Actor(1), [Plan(3)])
    export_episodes(tmp_path / "a", tmp_path / "file.npz")
    with zipfile.ZipFile(tmp_path / "file.npz") as archive:
        head = json.loads(archive.read("dataset.json"))
    assert head["schema"] == json.loads(json.dumps(SCHEMA.to_dict()))
