"""Episodes at the console: the list, its filters, edits beside the data, and what is drawn of one."""

from __future__ import annotations

import numpy as np
import pytest

from user_bringup.console.episode_list import (
    EpisodeList,
    Filter,
    image_columns,
    key_text,
    marks,
    picture,
    row_of,
    traces,
)
from user_core.errors import StoreError
from user_core.types import Outcome
from user_learner.edits.entries import Edit
from user_learner.replay import StoreWriter
from user_testing.worlds.replay import Actor, Plan, fill


@pytest.fixture
def episodes(tmp_path):
    """A store with some episodes."""
    with StoreWriter(tmp_path / "store") as writer:
        fill(writer, Actor(), [Plan(5), Plan(9), Plan(7)])
    found = EpisodeList(tmp_path / "store")
    yield found
    found.close()


def test_the_newest_come_first_and_a_filter_counts(episodes):
    found, matching, total = episodes.find(Filter())
    assert matching == total == len(found) > 2
    assert [e.key.number for e in found] == sorted((e.key.number for e in found), reverse=True)
    longest = max(e.rows - 1 for e in found)
    assert all(e.rows - 1 > longest - 1 for e in episodes.find(Filter(longer_than=longest - 1))[0])
    assert episodes.find(Filter(text="no such task"))[1] == 0
    assert episodes.find(Filter(robot=found[0].robot))[1] > 0
    assert len(episodes.find(Filter(), most=1)[0]) == 1


def test_what_is_excluded_and_relabelled_is_shown_so_and_can_be_undone(episodes):
    one = episodes.find(Filter())[0][0]
    excluded = episodes.edit(Edit.exclude([one.key], "camera was loose", "anna"))
    assert one.key not in [e.key for e in episodes.find(Filter())[0]]
    assert [e.key for e in episodes.find(Filter(excluded=True))[0]] == [one.key]
    episodes.edit(Edit.relabel([one.key], Outcome.FAILURE, author="anna"))
    episodes.edit(Edit.tag([one.key], add=["odd"], author="anna"))
    assert [e.author for e in episodes.history(one.key)] == ["anna"] * 3
    episodes.edit(Edit.undo(excluded.number, author="ben"))
    row = row_of(one, episodes.edits_of(one.key))
    assert (row["outcome"], row["tags"]) == ("failure", "odd")
    assert [e.key for e in episodes.find(Filter(tag="odd"))[0]] == [one.key]
    assert len(episodes.history(one.key)) == 2


def test_an_episode_that_is_not_there_and_a_store_that_is_not_are_said(episodes, tmp_path):
    with pytest.raises(StoreError, match="one of the store"):
        episodes.episode("nobody~0~0")
    with pytest.raises(StoreError):
        EpisodeList(tmp_path / "none").find(Filter())


def test_an_episode_is_read_whole(episodes):
    one = episodes.find(Filter())[0][0]
    info, columns = episodes.episode(key_text(one.key))
    assert len(columns["reward"]) == info.rows
    assert set(traces(columns)) >= {"reward", "action"}
    assert all(len(line) == info.rows for lines in traces(columns).values() for line in lines)


def test_spans_in_which_a_person_acted_or_the_gate_changed_something():
    action = np.zeros((7, 2), np.float32)
    proposed = action.copy()
    proposed[1:3, 0] = 1.0
    columns = {
        "acted_by": np.array([0, 0, 0, 1, 1, 0, 0], np.uint8),
        "action": action, "proposed_action": proposed,
    }  # fmt: skip
    assert marks(columns) == {"person": [(3, 4)], "script": [], "changed by the gate": [(1, 2)]}


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
