"""Demonstrations and evaluations, on the real simulator and store."""

import json
from contextlib import closing

import numpy as np
import pytest

from user_bringup.demos import record_demonstrations
from user_bringup.evaluation import evaluate
from user_bringup.rollout import roll_out
from user_core.config import Config
from user_core.errors import SchemaMismatch, SuiteError
from user_core.fakes import FakeRobot, FakeTeleop
from user_core.fakes.robot import FakeRobotConfig
from user_core.fakes.teleop import FakeTeleopConfig
from user_core.interfaces import Policy
from user_core.plugins import build
from user_core.rewards.task import TaskReward
from user_core.types import EpisodeSource, Outcome, Step
from user_learner.replay import StoreReader

REWARD = TaskReward(Config())


class Straight(Policy):
    """Goes straight to the goal of the fake robot."""

    def act(self, observation, *, deterministic=False):
        return np.clip((observation["goal"] - observation["position"]) * 5, -1, 1)[None]

    def arrays(self):
        return {}

    def load(self, arrays):
        pass


@pytest.fixture
def robot():
    robot = FakeRobot(FakeRobotConfig(episode_steps=30))
    robot.connect()
    with closing(robot):
        yield robot


def test_a_rollout_keeps_the_final_observation_and_tells_the_two_ends_apart(robot):
    good = roll_out(robot, lambda o: Straight().act(o.arrays)[0], REWARD, seed=1)
    assert good.outcome is Outcome.SUCCESS
    assert good.steps[-2].terminated
    assert not good.steps[-2].truncated
    lazy = roll_out(robot, lambda o: np.zeros(2, np.float32), REWARD, seed=1)
    assert lazy.outcome is Outcome.TIMEOUT
    assert lazy.length == 30
    assert lazy.steps[-2].truncated
    assert not lazy.steps[-2].terminated
    assert not isinstance(lazy.steps[-1], Step)
    cut = roll_out(robot, lambda o: np.zeros(2, np.float32), REWARD, seed=1, max_steps=5)
    assert cut.length == 5


def test_an_evaluation_counts_and_is_written(robot, tmp_path):
    result = evaluate(robot, Straight(), REWARD, episodes=5, policy_version=3)
    assert result.successes == 5
    result.write(tmp_path / "evaluation.json")
    assert json.loads((tmp_path / "evaluation.json").read_text())["policy_version"] == 3


def test_demonstrations_of_the_expert_are_in_the_store(tmp_path):
    params = {"robot": "panda", "task": "peg_insertion"}
    with closing(build("robots", "mujoco", params)) as robot:
        robot.connect()
        teleop = build("teleops", "expert")
        teleop.connect(robot.spec)
        recorded = record_demonstrations(
            robot, teleop, REWARD, tmp_path, 3, robot_name="panda", task="peg_insertion"
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


def test_failures_are_not_demonstrations(robot, tmp_path):
    class Lazy(FakeTeleop):
        def read(self, observation):
            command = super().read(observation)
            command.action[:] = 0
            return command

    teleop = Lazy(FakeTeleopConfig())
    teleop.connect(robot.spec)
    with pytest.raises(SuiteError, match="10 failures, 0 successes"):
        record_demonstrations(robot, teleop, REWARD, tmp_path, 3, robot_name="fake", task="x")


def test_a_store_of_another_robot_is_refused(robot, tmp_path):
    teleop = FakeTeleop(FakeTeleopConfig())
    teleop.connect(robot.spec)
    record_demonstrations(robot, teleop, REWARD, tmp_path, 1, robot_name="fake", task="x")
    other = FakeRobot(FakeRobotConfig(image_size=8))
    other.connect()
    with closing(other), pytest.raises(SchemaMismatch, match="image_front"):
        record_demonstrations(other, teleop, REWARD, tmp_path, 1, robot_name="fake", task="x")
