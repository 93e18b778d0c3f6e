"""Episodes at the console: the list, its filters, edits beside the data, and what is drawn of one."""

from __future__ import annotations

import contextlib
import json
import sqlite3
import threading

import numpy as np
import pytest

from user_bringup.console.pages.episode_list import (
    EpisodeList,
    image_columns,
    key_text,
    marks,
    picture,
    row_of,
    traces,
)
from user_core.errors import StoreError, SuiteError
from user_core.types import Outcome
from user_learner.cli.episodes import main as shell
from user_learner.edits.entries import Edit
from user_learner.edits.listing import EpisodeFilter
from user_learner.replay import StoreWriter
from user_learner.replay.index import WHOLE_SEGMENT, Damage, connect, set_aside
from user_learner.replay.segments import segment_directory
from user_testing.waiting import wait_until
from user_testing.worlds.replay import QUICK, Actor, Plan, fill


@pytest.fixture
def episodes(tmp_path):
    """A store with some episodes."""
    with StoreWriter(tmp_path / "store") as writer:
        fill(writer, Actor(), [Plan(5), Plan(9), Plan(7)])
    found = EpisodeList(tmp_path / "store")
    yield found
    found.close()


def test_the_newest_come_first_and_a_filter_counts(episodes):
    found = episodes.find(EpisodeFilter())
    assert found.matching == found.total == len(found.episodes) > 2
    numbers = [e.key.number for e in found.episodes]
    assert numbers == sorted(numbers, reverse=True)
    longest = max(e.steps for e in found.episodes)
    assert [e.steps for e in episodes.find(EpisodeFilter(min_steps=longest)).episodes] == [longest]
    assert episodes.find(EpisodeFilter(text="no such task")).matching == 0
    assert episodes.find(EpisodeFilter(text="REACH")).matching == found.total
    assert episodes.find(EpisodeFilter(robot=found.episodes[0].info.robot)).matching > 0
    assert len(episodes.find(EpisodeFilter(), most=1).episodes) == 1


def test_what_is_excluded_and_relabelled_is_shown_so_and_can_be_undone(episodes):
    one = episodes.find(EpisodeFilter()).episodes[0]
    excluded = episodes.edit(Edit.exclude([one.key], "camera was loose", "anna"))
    assert one.key not in [e.key for e in episodes.find(EpisodeFilter()).episodes]
    assert [e.key for e in episodes.find(EpisodeFilter(excluded=True)).episodes] == [one.key]
    episodes.edit(Edit.relabel([one.key], Outcome.FAILURE, author="anna"))
    episodes.edit(Edit.tag([one.key], add=["odd"], author="anna"))
    assert [e.author for e in episodes.history(one.key)] == ["anna"] * 3
    episodes.edit(Edit.undo(excluded.number, author="ben"))
    row = row_of(episodes.episode(key_text(one.key))[0])
    assert (row["outcome"], row["tags"]) == ("failure", "odd")
    assert [e.key for e in episodes.find(EpisodeFilter(tags=("odd",))).episodes] == [one.key]
    assert len(episodes.history(one.key)) == 2


def test_of_an_episode_that_was_cut_the_kept_steps_count_here_and_in_the_shell(episodes, capsys):
    longest = max(episodes.find(EpisodeFilter()).episodes, key=lambda e: e.steps)
    whole = longest.steps
    episodes.edit(Edit.cut([longest.key], 2, 5, author="anna"))
    (cut,) = [e for e in episodes.find(EpisodeFilter()).episodes if e.key == longest.key]
    assert row_of(cut)["steps"] == 3
    assert longest.key not in [e.key for e in episodes.find(EpisodeFilter(min_steps=4)).episodes]
    assert len(episodes.episode(key_text(longest.key))[1]["reward"]) == whole + 1, (
        "all is there to look at"
    )
    shell(["ls", str(episodes.path), "--long", "4", "--json"])
    rows = json.loads(capsys.readouterr().out)
    assert str(longest.key) not in [row["episode"] for row in rows]
    assert {row["episode"] for row in rows} == {
        str(e.key) for e in episodes.find(EpisodeFilter(min_steps=4)).episodes
    }


def test_a_store_that_could_not_be_read_ahead_is_read_at_the_next_visit(tmp_path, monkeypatch):
    episodes, failed = EpisodeList(tmp_path / "store"), []
    monkeypatch.setattr(threading, "excepthook", failed.append)

    def visit():
        episodes.read_ahead()
        wait_until(lambda: not episodes._reads_ahead, "it was tried")

    visit()  # it is not there yet
    with StoreWriter(tmp_path / "store") as writer:
        fill(writer, Actor(), [Plan(5)])
    with monkeypatch.context() as patch:
        patch.setattr(episodes, "_list", _locked)
        visit()
    assert not episodes.robots() and not failed
    visit()
    assert episodes.robots()
    episodes.close()


def _locked(view):
    raise sqlite3.OperationalError("database is locked")


class Gaps(Actor):
    """A camera's host slept for a second in each third episode; the gate changes nothing in each second."""

    def columns(self, episode, plan):
        columns = super().columns(episode, plan)
        if episode % 2:
            columns["proposed_action"] = columns["action"].copy()
        if episode % 3 == 0:
            columns["stamp_ns"] = columns["stamp_ns"] + 1_000_000_000 * (columns["stamp_ns"] > 5)
        return columns


def test_filters_that_need_it_have_episodes_measured_and_show_why(tmp_path):
    with StoreWriter(tmp_path / "store") as writer:
        fill(writer, Gaps(), [Plan(12) for _ in range(12)])
    episodes = EpisodeList(tmp_path / "store")
    wait_until(
        lambda: episodes.find(EpisodeFilter(anomalous=True)).quality.done == 12,
        "all are measured",
        30,
    )
    found = episodes.find(EpisodeFilter(anomalous=True, text="actor"))
    gaps = [e.key.number for e in found.episodes if "gaps" in row_of(e, found.quality)["findings"]]
    assert gaps == [9, 6, 3, 0]
    limited = episodes.find(EpisodeFilter(gate_limited=True)).episodes
    assert [e.key.number for e in limited] == [10, 8, 6, 4, 2, 0]
    both = episodes.find(EpisodeFilter(gate_limited=True, text="actor1/1/6")).episodes
    assert [e.key.number for e in both] == [6]
    episodes.close()


def test_a_store_without_episodes_is_soon_measured_whole(tmp_path):
    StoreWriter(tmp_path / "store").close()
    with contextlib.closing(EpisodeList(tmp_path / "store")) as episodes:
        assert not episodes.quality.quality.is_complete  # nobody has looked
        wait_until(
            lambda: episodes.find(EpisodeFilter(anomalous=True)).quality.is_complete,
            "that there is none",
        )


def test_nothing_is_measured_while_somebody_drives(tmp_path):
    with StoreWriter(tmp_path / "store") as writer:
        fill(writer, Actor(), [Plan(6) for _ in range(45)])
    drives, asked = [True], threading.Event()
    episodes = EpisodeList(tmp_path / "store", lambda: asked.set() or drives[0])
    episodes.find(EpisodeFilter(anomalous=True))
    assert asked.wait(60)
    assert episodes.find(EpisodeFilter(anomalous=True)).quality.done < 45
    drives[0] = False
    wait_until(
        lambda: episodes.find(EpisodeFilter(anomalous=True)).quality.done == 45,
        "then it goes on",
        30,
    )
    episodes.close()


def test_a_robot_that_succeeds_less_often_than_the_others_is_found(tmp_path):
    with StoreWriter(tmp_path / "store") as writer:
        for number, name, solved in ((1, "good", 9), (2, "poor", 3), (3, "new", 0)):
            tries = 10 if name != "new" else 3  # too few to say
            fill(
                writer,
                Actor(number, robot=name),
                [Plan(5, terminated=n < solved) for n in range(tries)],
            )
    episodes = EpisodeList(tmp_path / "store")
    found = episodes.find(EpisodeFilter(low_success=True)).episodes
    assert {e.info.robot for e in found} == {"poor"}
    assert len(found) == 10
    failed = episodes.find(EpisodeFilter(low_success=True, failed=True)).episodes
    assert len(failed) == 7
    episodes.close()


def test_an_episode_that_is_not_there_and_a_store_that_is_not_are_said(episodes, tmp_path):
    with pytest.raises(StoreError, match="one of the store"):
        episodes.episode("nobody~0~0")
    with pytest.raises(StoreError):
        EpisodeList(tmp_path / "none").find(EpisodeFilter())


def test_an_episode_in_a_damaged_segment_is_said_so_and_the_others_are_shown(tmp_path):
    store = tmp_path / "store"
    with StoreWriter(store, config=QUICK.replace(segment_bytes=1)) as writer:
        fill(writer, Actor(chunk_rows=2048), [Plan(1200), Plan(1200), Plan(1200)])
    with contextlib.closing(connect(store, writable=True)) as db:
        set_aside(db, [Damage(1, WHOLE_SEGMENT, "its checksum is wrong")])
    segment = sorted((store / "segments").iterdir())[-1]
    for file in segment.iterdir():
        file.unlink()
    episodes = EpisodeList(store)
    listed = episodes.find(EpisodeFilter()).episodes
    assert len(listed) == 3
    said = {e.key.number: episodes.damages(e) for e in listed}
    assert any("its checksum is wrong" in text for texts in said.values() for text in texts)
    gone = [
        e for e in listed if any(segment_directory(store, x[1]) == segment for x in e.info.extents)
    ]
    assert gone
    for episode in gone:
        with pytest.raises(SuiteError):
            episodes.episode(key_text(episode.key))
    sound = next(e for e in listed if e not in gone and not said[e.key.number])
    assert len(episodes.episode(key_text(sound.key))[1]["reward"]) == 1201
    episodes.close()


def test_an_episode_is_read_whole(episodes):
    one = episodes.find(EpisodeFilter()).episodes[0]
    episode, columns = episodes.episode(key_text(one.key))
    info = episode.info
    assert len(columns["reward"]) == info.rows
    assert set(traces(columns)) >= {"reward", "action"}
    assert all(len(line) == info.rows for lines in traces(columns).values() for line in lines)


def test_spans_in_which_a_person_acted_or_the_gate_changed_something():
    action = np.zeros((10, 2), np.float32)
    proposed = action.copy()
    proposed[1:9, 0] = 1.0
    columns = {
        "acted_by": np.array([0, 0, 0, 1, 1, 2, 4, 0, 3, 0], np.uint8),
        "action": action, "proposed_action": proposed,
    }  # fmt: skip
    proposed[7] = 0.0
    assert marks(columns) == {
        "person": [(3, 4)], "script": [(5, 5)], "fallback": [(6, 6)],
        "changed by the gate, or too late": [(1, 2), (6, 6), (8, 8)],
    }, "what a person or a script did is no change by the gate; what the fallback wanted is"  # fmt: skip


def test_pictures_are_found_and_numbers_that_are_not_finite_are_left_out():
    columns = {
        "observation.image": np.full((3, 8, 8, 3), 200, np.uint8),
        "observation.depth": np.zeros((3, 8, 8, 1), np.uint16),
        "reward": np.array([0.0, np.nan, 1.0], np.float32),
    }
    assert image_columns(columns) == ["observation.image"]
    assert picture(columns, "observation.image", 2)[:2] == b"\xff\xd8"
    assert picture(columns, "observation.image", 3) is None
    assert picture(columns, "observation.depth", 0) is None
    assert traces(columns)["reward"] == [[0.0, None, 1.0]]
