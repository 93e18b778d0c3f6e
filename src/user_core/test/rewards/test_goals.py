"""Goal rewards, and the reward of a step that judges by one."""

import numpy as np
import pytest

from user_core import plugins
from user_core.conformance import check_goal_reward, check_reward
from user_core.errors import ConfigError, PluginError, SpecError
from user_core.specs import ArraySpec, RobotSpec
from user_core.types import TaskFeedback

SPEC = RobotSpec(
    "arm",
    {"tcp_pose": ArraySpec((7,)), "goal_position": ArraySpec((3,))},
    ArraySpec((2,), low=-1.0, high=1.0),
)
HERE = {"achieved": "tcp_pose", "achieved_elements": [0, 1, 2], "desired": "goal_position"}


def judged(name="goal_distance", **params):
    reward = plugins.build("goal_rewards", name, params)
    achieved = np.float32([[0, 0, 0], [0.03, 0, 0], [0.3, 0.4, 0]])
    return reward(achieved, np.zeros((3, 3), np.float32))


def test_a_distance_is_sparse_or_dense():
    sparse = judged()
    assert sparse.reward.tolist() == [0, 0, -1]
    assert sparse.reached.tolist() == [True, True, False]
    assert not sparse.terminated.any()
    assert judged(kind="dense").reward.tolist() == pytest.approx([0, -0.03, -0.5])
    ends = judged(terminates=True, reached_reward=1.0, step_reward=0.0)
    assert ends.reward.tolist() == ends.terminated.tolist() == [1, 1, 0]
    assert judged(weights=[0.1, 0, 0]).reached.all()
    with pytest.raises(ConfigError, match="weights of goal_distance.*3 elements"):
        judged(weights=[1, 1])


def simple(achieved, desired):
    return -np.abs(achieved - desired).sum(-1)


def no_number(achieved, desired):
    return np.full(len(achieved), np.nan)


@pytest.mark.parametrize(
    ("name", "params"),
    [
        ("goal_distance", {}),
        ("goal_distance", {"kind": "dense", "terminates": True}),
        ("goal_function", {"function": f"{__name__}:simple"}),
        ("goal_function", {"function": f"{__name__}:simple", "one_by_one": True}),
    ],
)
def test_shipped_ones_keep_their_promises(name, params):
    check_goal_reward(plugins.build("goal_rewards", name, params), 3).require()


def test_what_a_function_gives_must_be_rewards():
    with pytest.raises(SpecError, match="not finite"):
        judged("goal_function", function=f"{__name__}:no_number")
    with pytest.raises(PluginError, match="package.module:name"):
        judged("goal_function", function="nowhere:at_all")
    with pytest.raises(ConfigError, match="reached_reward"):
        judged("goal_function", function=f"{__name__}:simple", terminates=True)


def test_a_real_robots_reward_is_the_one_of_hindsight():
    params = {**HERE, "goal_reward": {"plugin": "goal_distance", "params": {"terminates": True}}}
    reward = plugins.build("rewards", "goal", params)
    check_reward(reward, SPEC).require()
    pose = {"tcp_pose": np.float32([0.5, 0, 0.2, 0, 0, 0, 1])}
    for goal, reached in ([0.5, 0.01, 0.2], True), ([0.5, 0.2, 0.2], False):
        seen = {**pose, "goal_position": np.float32(goal)}
        outcome = reward(seen, np.zeros(2), seen, TaskFeedback())
        assert (outcome.reward, outcome.terminated, outcome.success) == (
            0.0 if reached else -1.0, reached, reached,
        )  # fmt: skip


def test_goals_that_are_not_there_are_told():
    seen = {"tcp_pose": np.zeros(7), "goal_position": np.zeros(3)}
    for params, words in (
        ({}, "no 'achieved_goal'"),
        ({**HERE, "achieved_elements": []}, "7 numbers, expected 3"),
    ):
        with pytest.raises(SpecError, match=words):
            plugins.build("rewards", "goal", params)(seen, np.zeros(2), seen, TaskFeedback())
