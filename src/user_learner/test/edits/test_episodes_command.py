"""``user episodes`` and ``user reward`` as a person and a program use them."""

import io
import json

import numpy as np
import pytest
from rich.console import Console

from user_core.interfaces import Reward, RewardOutcome
from user_core.types import EpisodeKey
from user_learner.cli import episodes, reward
from user_learner.edits import Edit, EditedEpisodes, EditLog
from user_learner.edits.columns import RewardColumn
from user_learner.edits.listing import EpisodeFilter, list_all, select
from user_learner.replay import StoreWriter
from user_learner.sampling import ReplaySource
from user_testing.worlds.replay import QUICK, STILL, Actor, Plan, fill, many_episodes


@pytest.fixture
def store(tmp_path):
    plans = [Plan(6, terminated=True), Plan(30), Plan(4, humans=frozenset({1})), Plan(5)]
    with StoreWriter(tmp_path, config=QUICK) as writer:
        fill(writer, Actor(), plans)
    return tmp_path


def user(command, *words):
    text = io.StringIO()
    status = command.main([str(w) for w in words], Console(file=text, width=200))
    return status, text.getvalue()


def listed(store, capsys, *words):
    capsys.readouterr()
    user(episodes, "ls", store, "--json", *words)
    return [item["number"] for item in json.loads(capsys.readouterr().out)]


def test_episodes_are_listed_and_filtered(store, capsys):
    assert listed(store, capsys) == [0, 1, 2, 3]
    assert listed(store, capsys, "--failed") == [1, 2, 3]
    assert listed(store, capsys, "--succeeded") == [0]
    assert listed(store, capsys, "--long", 20) == [1]
    assert listed(store, capsys, "--intervened") == [2]
    assert listed(store, capsys, "--robot", "arm", "--last", 2) == [2, 3]
    assert listed(store, capsys, "--robot", "other") == []
    assert listed(store, capsys, "--source", "demonstration") == []
    # the executed action differs from the proposed one in all steps of these episodes
    assert listed(store, capsys, "--gate-limited") == [0, 1, 2, 3]
    status, text = user(episodes, "ls", store)
    assert status == 0
    assert "4 episodes, 45 steps" in text


def test_edits_from_the_shell_are_seen_and_taken_back(store, capsys):
    assert (
        "no edits" in user(episodes, "log", store)[1]
        and "no columns" in user(reward, "columns", store)[1]
    )
    assert user(episodes, "exclude", store, "1", "3", "--reason", "the cup fell")[0] == 0
    assert user(episodes, "tag", store, "0-2", "--add", "blue")[0] == 0
    assert user(episodes, "relabel", store, "2", "--as", "success")[0] == 0
    assert user(episodes, "trim", store, "0", "--start", 1, "--stop", 4)[0] == 0
    assert user(episodes, "note", store, "0", "--text", "look at the [gripper]")[0] == 0
    assert listed(store, capsys) == [0, 2]
    assert listed(store, capsys, "--excluded") == [1, 3]
    assert listed(store, capsys, "--tag", "blue", "--all") == [0, 1, 2]
    assert listed(store, capsys, "--succeeded") == [0, 2]
    with ReplaySource(store, STILL) as source:
        assert len(source) == 3 + 4
    _, text = user(episodes, "show", store, "0")
    assert "[gripper]" in text and "cut" in text
    _, text = user(episodes, "log", store)
    assert "the cup fell" in text
    status, text = user(episodes, "undo", store, "1")
    assert (status, "edit 6: undo" in text) == (0, True)
    assert listed(store, capsys) == [0, 1, 2, 3]
    user(episodes, "undo", store)  # the last one that counts: the note
    _, text = user(episodes, "show", store, "0")
    assert "gripper" not in text.split("edits")[0]
    user(episodes, "exclude", store, "--failed", "--reason", "all at once")
    assert listed(store, capsys) == [0, 2]


def test_what_cannot_be_done_is_said(store):
    for words, expected in (
        (("exclude", store), "numbers, ranges, keys, or filters"),
        (("exclude", store, "9"), "0 to 3"),
        (("exclude", store, "1", "--failed"), "one of the two"),
        (("trim", store, "0", "--stop", "40"), "within 0 to 6"),
        (("tag", store, "0"), "tags"),
        (("undo", store, "7"), "entry to undo"),
        (("ls", store / "nowhere"), "no replay store"),
    ):
        status, text = user(episodes, *words)
        assert status == 2
        assert expected in text.replace("\n", " ")
    assert user(episodes, "undo", store)[0] == 1


class PlaceReward(Reward):
    """Judges by the row that comes after, and remembers how many steps it saw."""

    def __init__(self, config):
        self.seen = -1

    def reset(self):
        self.seen = 0

    def __call__(self, observation, action, next_observation, task):
        assert self.seen == int(observation["place"][2])
        self.seen += 1
        row = int(next_observation["place"][2])
        return RewardOutcome(10.0 * row, row == 3, row == 3)


def test_stored_data_is_judged_anew_into_a_column(store, capsys, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "edits_place_reward", sys.modules[__name__])
    plugin = "edits_place_reward:PlaceReward"
    status, text = user(reward, "relabel", store, "--reward", plugin, "--reason", "a better one")
    assert (status, "45 steps of 4 episodes" in text) == (0, True)
    column = RewardColumn(store, "PlaceReward")
    assert (column.provenance.plugin, column.provenance.reason) == (plugin, "a better one")
    with ReplaySource(store, STILL) as source:
        batch = source.sample(64)
        rows = batch.observation["place"][:, 2]
        np.testing.assert_array_equal(batch.reward, 10.0 * (rows + 1))
        np.testing.assert_array_equal(batch.discount == 0, rows == 2)
    with EditedEpisodes(store) as view:
        one = next(view.episodes())
        assert view.read(one)["reward"].tolist() == [10, 20, 30, 40, 50, 60, 0]
    # what came since is judged when it is asked again
    with StoreWriter(store, config=QUICK) as writer:
        fill(writer, Actor(2), [Plan(3)])
    status, text = user(reward, "relabel", store, "--reward", plugin)
    assert "3 steps of 1 episode judged (4 episodes had been before)" in text
    capsys.readouterr()
    user(reward, "columns", store, "--json")
    (about,) = json.loads(capsys.readouterr().out)
    assert (about["used"], about["steps"], about["episodes"]) == (True, 48, 5)
    # other parameters are another column
    status, text = user(reward, "relabel", store, "--reward", "task", "--column", "PlaceReward")
    assert (status, "another name" in text.replace("\n", " ")) == (2, True)
    user(reward, "use", store)
    with ReplaySource(store, STILL) as source:
        assert source.sample(8).reward.max() < 3
    assert user(reward, "use", store, "nothing")[0] == 2


class Failing(PlaceReward):
    """Fails in one episode, by something that is no error of ours."""

    def __call__(self, observation, action, next_observation, task):
        if observation["place"][1] == 1:
            raise KeyError("what")
        return RewardOutcome(float("nan") if observation["place"][1] == 2 else 1.0)


def test_a_reward_that_fails_leaves_out_that_episode(store, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "edits_failing_reward", sys.modules[__name__])
    status, text = user(reward, "relabel", store, "--reward", "edits_failing_reward:Failing")
    assert status == 1
    assert "11 steps of 2 episodes" in text
    assert "KeyError" in text and "finite" in text


def test_lists_of_many_episodes_are_right(tmp_path):
    """How fast they are, `benchmarks/data/episode_list.py` measures."""
    many_episodes(tmp_path, 3000)
    log = EditLog(tmp_path)
    log.append(Edit.exclude([EpisodeKey("actor1", 1, n) for n in range(0, 3000, 10)]))
    log.append(Edit.tag([EpisodeKey("actor1", 1, n) for n in range(0, 3000, 3)], ["x"]))
    with EditedEpisodes(tmp_path) as view:
        found = select(list_all(view), EpisodeFilter(failed=True, tags=("x",)))
    wanted = [n for n in range(1, 3000) if n % 3 == 0 and n % 10]
    assert [item.number for item in found] == wanted


def test_an_export_is_as_edits_say_unless_all_is_asked_for(store, tmp_path):
    from user_core.codecs.trajectory import EpisodeFileReader
    from user_learner.cli import replay

    user(episodes, "exclude", store, "1")
    user(episodes, "trim", store, "0", "--stop", 3)
    for words, rows in (((), [4, 5, 6]), (("--as-recorded",), [7, 31, 5, 6])):
        file = tmp_path / f"episodes{len(words)}.zip"
        assert user(replay, "export", store, file, *words)[0] == 0
        with EpisodeFileReader(file) as found:
            assert [len(one) for one in found] == rows


def test_tables_show_all_of_a_long_word_at_80_columns(store):
    """Cut short, a name cannot be copied into the next command."""
    given = "{goal_observation: the_position_of_the_goal, position_m: 0.015}"
    user(
        reward, "relabel", store, "--reward", "pose_threshold", "--params", given, "--column",
        "pose_threshold_narrow", "--reason", "the operator was too generous",
    )  # fmt: skip
    user(episodes, "exclude", store, "1", "--reason", "see_the_film_of_the_second_camera")
    for command, words, wanted in (
        (reward, "columns", ["pose_threshold_narrow", "the_position_of_the_goal", "0.015"]),
        (episodes, "log", ["see_the_film_of_the_second_camera", "exclude"]),
    ):
        text = io.StringIO()
        assert command.main([words, str(store)], Console(file=text, width=80)) == 0
        lines = [line.split("│")[1:-1] for line in text.getvalue().splitlines() if "│" in line]
        columns = ["".join(cell.strip() for cell in cells) for cells in zip(*lines, strict=True)]
        for word in wanted:
            assert any(word in column for column in columns), text.getvalue()
        assert "…" not in text.getvalue()


def test_episodes_that_are_left_out_for_the_same_reason_are_told_once(store):
    status, text = user(reward, "relabel", store, "--reward", "goal")
    assert status == 1
    assert text.count("achieved_goal") == 1
    assert "(and so for 3 more)" in text
    assert not text.startswith("\n")
