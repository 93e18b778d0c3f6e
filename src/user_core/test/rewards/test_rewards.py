import math

import numpy as np
import pytest

from user_core import plugins
from user_core.conformance import check_reward
from user_core.errors import ConfigError, PluginError, SpecError
from user_core.plugins import PluginChoice
from user_core.rewards import (
    OperatorConfig,
    OperatorReward,
    PoseThresholdConfig,
    PoseThresholdReward,
    TaskReward,
)
from user_core.specs import ArraySpec, RobotSpec
from user_core.types import NO_TASK, Label, RewardSource, TaskFeedback

SPEC = RobotSpec(
    "arm",
    {"tcp_pose": ArraySpec((7,), "float32"), "goal": ArraySpec((3,), "float32")},
    ArraySpec((2,)),
)
ACTION = np.zeros(2, np.float32)
HERE = (0.5, 0.0, 0.2, 0.0, 0.0, 0.0, 1.0)


def pose(*numbers):
    return {"tcp_pose": np.array(numbers, np.float32), "goal": np.array([0.5, 0, 0.2], np.float32)}


def turned(angle_rad, axis=2, sign=1):
    quaternion = np.zeros(4)
    quaternion[axis], quaternion[3] = math.sin(angle_rad / 2), math.cos(angle_rad / 2)
    return [*HERE[:3], *(sign * quaternion)]


def judge(reward, after, task=NO_TASK):
    return reward(pose(*HERE), ACTION, after, task)


@pytest.mark.parametrize(
    ("name", "params"),
    [
        ("pose_threshold", {"goal": HERE}),
        ("pose_threshold", {"goal": HERE[:3], "distance_weight": 2.0}),
        ("pose_threshold", {"goal_observation": "goal"}),
        ("operator", {}),
        ("operator", {"base": {"plugin": "pose_threshold", "params": {"goal": HERE}}}),
        ("task", {}),
    ],
)
def test_every_reward_keeps_its_promises(name, params):
    check_reward(plugins.build("rewards", name, params), SPEC).require()


@pytest.mark.parametrize("sign", [1, -1])
def test_a_pose_is_reached_by_distance_and_angle(sign):
    reward = PoseThresholdReward(
        PoseThresholdConfig(goal=HERE, position_m=0.02, rotation_rad=0.1, success_reward=5.0)
    )
    near = judge(reward, pose(0.515, 0.0, 0.2, *turned(0.09, sign=sign)[3:]))
    assert (near.reward, near.terminated, near.success) == (5.0, True, True)
    assert near.source is RewardSource.FUNCTION
    for other in (pose(0.53, *HERE[1:]), pose(*turned(0.11, sign=sign))):
        far = judge(reward, other)
        assert (far.reward, far.terminated, far.success) == (0.0, False, False)


def test_a_goal_without_rotation_lets_the_tool_turn():
    reward = PoseThresholdReward(PoseThresholdConfig(goal=HERE[:3]))
    assert judge(reward, pose(*turned(3.0))).success


def test_the_goal_may_come_with_the_observation():
    reward = PoseThresholdReward(PoseThresholdConfig(goal_observation="goal", position_m=0.05))
    assert judge(reward, pose(0.52, *HERE[1:])).success
    assert not judge(reward, pose(0.6, *HERE[1:])).success


def test_dense_rewards_say_how_far_it_is():
    reward = PoseThresholdReward(
        PoseThresholdConfig(
            goal=HERE, distance_weight=2.0, angle_weight=0.5, success_reward=1.0, terminates=False
        )
    )
    far = judge(reward, pose(0.8, 0.4, 0.2, *turned(1.0, axis=0)[3:]))
    assert far.reward == pytest.approx(-2.0 * 0.5 - 0.5 * 1.0, abs=1e-6)
    there = judge(reward, pose(*HERE))
    assert there.reward == pytest.approx(1.0)
    assert (there.terminated, there.success) == (False, True)


@pytest.mark.parametrize(
    ("values", "word"),
    [
        ({}, "one of the two"),
        ({"goal": HERE, "goal_observation": "goal"}, "one of the two"),
        ({"goal": (1.0, 2.0)}, "3 or 7"),
        ({"goal": (1.0, 2.0, math.inf)}, "finite"),
        ({"goal": (0.0,) * 7}, "length 1"),
        ({"goal": HERE, "position_m": 0.0}, "position_m"),
    ],
)
def test_goals_that_are_none(values, word):
    with pytest.raises(ConfigError, match=word):
        PoseThresholdConfig(**values)


@pytest.mark.parametrize(
    ("config", "after", "word"),
    [
        ({"goal": HERE, "pose": "tool"}, pose(*HERE), "'tool'.*nothing.*shows"),
        ({"goal_observation": "target"}, pose(*HERE), "'target'.*nothing"),
        ({"goal": HERE}, pose(*HERE[:3]), "vector of 7"),
        ({"goal": HERE}, pose(*HERE[:3], 0, 0, 0, 0), "quaternions of length 1"),
    ],
)
def test_observations_that_have_no_pose(config, after, word):
    with pytest.raises(SpecError, match=word):
        judge(PoseThresholdReward(PoseThresholdConfig(**config)), after)


def test_a_label_rewards_and_ends_the_episode():
    reward = OperatorReward(
        OperatorConfig(success_reward=2.0, failure_reward=-1.0, step_reward=-0.1)
    )
    plain = judge(reward, pose(*HERE))
    assert (plain.reward, plain.terminated, plain.success) == (-0.1, False, None)
    good = judge(reward, pose(*HERE), TaskFeedback(label=Label.SUCCESS))
    assert (good.reward, good.terminated, good.success) == (2.0, True, True)
    assert good.source is RewardSource.HUMAN
    bad = judge(reward, pose(*HERE), TaskFeedback(label=Label.FAILURE))
    assert (bad.reward, bad.terminated, bad.success) == (-1.0, True, False)
    assert judge(reward, pose(*HERE), TaskFeedback(label=Label.ABORT)) == plain


def test_another_reward_judges_what_has_no_label():
    reward = OperatorReward(
        OperatorConfig(
            success_reward=2.0, base=PluginChoice(plugin="pose_threshold", params={"goal": HERE})
        )
    )
    there = judge(reward, pose(*HERE))
    assert (there.reward, there.terminated, there.source) == (1.0, True, RewardSource.FUNCTION)
    assert judge(reward, pose(*HERE), TaskFeedback(label=Label.FAILURE)).reward == 0.0
    nested = OperatorReward(
        OperatorConfig(success_reward=2.0, base=PluginChoice(plugin="operator"))
    )
    assert judge(nested, pose(*HERE), TaskFeedback(label=Label.SUCCESS)).reward == 2.0


def test_another_reward_that_cannot_be_built():
    with pytest.raises(PluginError, match="did you mean 'task'"):
        OperatorReward(OperatorConfig(base=PluginChoice(plugin="tusk")))
    wrong = PluginChoice(plugin="pose_threshold", params={"golf": 1})
    with pytest.raises(ConfigError, match="base.params.golf"):
        OperatorReward(OperatorConfig(base=wrong))
    with pytest.raises(ConfigError, match="base"):  # the spelling of before
        plugins.build("rewards", "operator", {"base": "pose_threshold"})


def test_a_robot_that_does_not_judge_itself_needs_another_reward():
    with pytest.raises(ConfigError, match="pose_threshold"):  # does not pass by itself
        judge(TaskReward(TaskReward.Config()), pose(*HERE))
    outcome = judge(TaskReward(TaskReward.Config()), pose(*HERE), TaskFeedback(0.5, True))
    assert (outcome.reward, outcome.source) == (0.5, RewardSource.ROBOT)
