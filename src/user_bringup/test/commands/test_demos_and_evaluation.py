"""Demonstrations and evaluations, on the real simulator, gate and store."""

import json
from contextlib import ExitStack, contextmanager

import numpy as np
import pytest

from user_bringup.demos import record_demonstrations
from user_bringup.evaluation import evaluate
from user_bringup.local_robot import gate_summary, open_robot, robot_file_with, settings
from user_core.config import Config, from_mapping
from user_core.errors import ConfigError, SafetyError, SchemaMismatch, SuiteError
from user_core.fakes import FakeTeleop, FakeTeleopConfig
from user_core.interfaces import Policy
from user_core.plugins import build
from user_core.rewards import TaskReward
from user_core.types import EpisodeSource, Outcome
from user_hal.robot_file import RobotFile
from user_learner.replay import StoreReader
from user_learner.replay.meaning import read_meaning

REWARD = TaskReward(Config())
FAKE = {"robot": {"plugin": "fake", "params": {"episode_steps": 30}}}


class Straight(Policy):
    """Goes straight to the goal of the fake robot."""

    gain = 5.0

    def act(self, observation, *, deterministic=False):
        way = (observation["goal"] - observation["position"]) * self.gain
        return np.clip(way, -1, 1).astype(np.float32)[None]

    def arrays(self):
        return {}

    def load(self, arrays):
        pass


class Still(Straight):
    """Stays where it is."""

    gain = 0.0


class Wild(Straight):
    """Asks for what no robot can do."""

    def act(self, observation, *, deterministic=False):
        return np.full((1, 2), 50.0, np.float32)


@contextmanager
def opened(teleop=None, state_dir=None, **file):
    with open_robot(
        from_mapping(RobotFile, {**FAKE, **file}), teleop, state_dir=state_dir
    ) as robot:
        yield robot


class Quick(FakeTeleop):
    """A program: the simulation need not wait for it."""

    scripted = True


def person():
    return Quick(FakeTeleopConfig(engage_every=1))


def test_an_evaluation_counts_and_is_written(tmp_path):
    with opened() as robot:
        result = evaluate(robot, Straight(), REWARD, episodes=5, policy_version=3)
    assert result.successes == 5
    assert (result.aborted, result.unknown) == (0, 0)
    assert str(result.share) == "100% of 5 (57 to 100%)"
    assert result.gate["passed"] == round(result.mean_length * 5)
    result.write(tmp_path / "evaluation.json")
    assert json.loads((tmp_path / "evaluation.json").read_text())["policy_version"] == 3


def test_an_episode_that_is_cut_is_no_success():
    ends = []
    with opened() as robot:
        result = evaluate(robot, Still(), REWARD, episodes=2, on_episode=ends.append)
    assert result.successes == 0
    assert [end.outcome for end in ends] == [Outcome.TIMEOUT] * 2
    assert [end.length for end in ends] == [30, 30]


def test_what_the_gate_refuses_ends_the_episode_and_is_told():
    ends = []
    with opened() as robot:
        result = evaluate(robot, Wild(), REWARD, episodes=3, on_episode=ends.append)
        assert "3 refused (out_of_bounds 3)" in gate_summary(robot.hal.status())
    assert (result.successes, result.aborted) == (0, 3)
    assert result.gate["refused"] == result.gate["out_of_bounds"] == 3


def test_what_the_gate_changes_is_what_is_recorded(tmp_path):
    safety = {"bounds": {"low": [-0.4], "high": [0.4], "refuse_beyond": 1.0}}
    with opened(person(), safety=safety) as robot:
        record_demonstrations(robot, REWARD, tmp_path, 1, robot_name="fake", task="x")
        assert robot.hal.status().reasons["bounds"] > 0
    reader = StoreReader(tmp_path)
    try:
        columns = reader.read_episode(next(iter(reader.episodes())))
        assert np.abs(columns["action"][:-1]).max() <= 0.4
        assert np.abs(columns["proposed_action"][:-1]).max() > 0.9
    finally:
        reader.close()


def test_demonstrations_of_the_expert_are_in_the_store(tmp_path):
    file = from_mapping(
        RobotFile,
        {"robot": {"plugin": "mujoco", "params": {"robot": "panda", "task": "peg_insertion"}}},
    )
    with open_robot(file, build("teleops", "expert"), state_dir=None) as robot:
        recorded = record_demonstrations(
            robot, REWARD, tmp_path, 3, robot_name="panda", task="peg_insertion"
        )
    assert recorded.episodes == 3
    reader = StoreReader(tmp_path)
    try:
        episodes = list(reader.episodes())
        assert [e.source for e in episodes] == [EpisodeSource.DEMONSTRATION] * 3
        assert sum(e.rows for e in episodes) == recorded.steps + 3
        for episode in episodes:
            columns = reader.read_episode(episode)
            assert columns["reward"].sum() == 1
            assert columns["terminated"].sum() == 1
            assert columns["final"].tolist() == [False] * (episode.rows - 1) + [True]
            assert (columns["acted_by"][:-1] == 2).all()
    finally:
        reader.close()


def test_a_recording_that_is_ended_keeps_what_was_shown(tmp_path):
    shown = []

    def end(result):
        shown.append(result.outcome)
        if shown.count(Outcome.SUCCESS) == 2:
            raise KeyboardInterrupt

    params = {"robot": "panda", "task": "reach"}
    file = from_mapping(RobotFile, {"robot": {"plugin": "mujoco", "params": params}})
    with open_robot(file, build("teleops", "expert"), state_dir=None) as robot:
        with pytest.raises(KeyboardInterrupt):
            record_demonstrations(
                robot, REWARD, tmp_path, 5, robot_name="panda", task="reach", on_episode=end
            )
    reader = StoreReader(tmp_path)
    try:
        assert len(list(reader.episodes())) == 2
    finally:
        reader.close()


def test_failures_are_not_demonstrations(tmp_path):
    class Lazy(Quick):
        def read(self, observation):
            command = super().read(observation)
            command.action[:] = 0
            return command

    lazy = Lazy(FakeTeleopConfig(engage_every=1))
    with opened(lazy) as robot, pytest.raises(SuiteError, match="10 failures, 0 successes"):
        record_demonstrations(robot, REWARD, tmp_path, 3, robot_name="fake", task="x")


def test_a_store_of_another_robot_is_refused(tmp_path):
    with opened(person()) as robot:
        record_demonstrations(robot, REWARD, tmp_path, 1, robot_name="fake", task="x")
    images = {"robot": {"plugin": "fake", "params": {"image_size": 8}}}
    with opened(person(), **images) as robot, pytest.raises(SchemaMismatch, match="image_front"):
        record_demonstrations(robot, REWARD, tmp_path, 1, robot_name="fake", task="x")


def test_a_store_that_means_something_else_is_refused(tmp_path):
    slow = {"robot": {"plugin": "fake", "params": {"period_s": 0.2}}}
    with opened(person()) as robot:
        record_demonstrations(robot, REWARD, tmp_path, 1, robot_name="fake", task="x")
        assert read_meaning(tmp_path).spec == robot.hal.spec
        record_demonstrations(robot, REWARD, tmp_path, 1, robot_name="fake", task="x")
    with opened(person(), **slow) as robot, pytest.raises(SchemaMismatch, match="period 5 Hz"):
        record_demonstrations(robot, REWARD, tmp_path, 1, robot_name="fake", task="x")


def test_a_latched_emergency_stop_keeps_the_robot_where_it_is(tmp_path):
    state = str(tmp_path / "state")
    with opened(person(), state) as robot:
        robot.hal.press_emergency("a test")
        with pytest.raises(SafetyError, match="a test"):
            record_demonstrations(robot, REWARD, tmp_path / "a", 1, robot_name="fake", task="x")
    with opened(None, state) as robot, pytest.raises(SafetyError, match="reset-emergency-stop"):
        evaluate(robot, Straight(), REWARD, episodes=1)
    file = from_mapping(RobotFile, FAKE)
    with ExitStack() as stack:
        robot = stack.enter_context(open_robot(file, state_dir=state, reset_emergency_stop=True))
        assert evaluate(robot, Straight(), REWARD, episodes=1).successes == 1


def test_settings_are_paths_of_processes_and_win_over_the_file():
    given = settings(["hal.robot.params.episode_steps:=7", "hal.task:=x"], "hal", "actor")
    file = robot_file_with(from_mapping(RobotFile, FAKE), given["hal"])
    assert file.robot.params == {"episode_steps": 7}
    assert file.task == "x"
    with pytest.raises(ConfigError, match=r"hall.*hal\.KEY:=value or actor\.KEY:=value"):
        settings(["hall.task:=x"], "hal", "actor")
    with pytest.raises(ConfigError, match=r"hal\.safety\.watchdog_s"):
        robot_file_with(file, {"safety": {"watchdog_s": 0}})
