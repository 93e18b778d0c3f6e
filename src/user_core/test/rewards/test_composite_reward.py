"""Several rewards as one: every rule against what each of its parts says."""

import sys

import numpy as np
import pytest

from user_core.conformance import check_reward
from user_core.errors import ConfigError
from user_core.interfaces import Reward, RewardOutcome
from user_core.plugins import build
from user_core.specs import ArraySpec, RobotSpec
from user_core.types import NO_TASK, RewardSource

NAME = "composite_reward_parts"


class Says(Reward):
    """Says what its parameters say, from the step on at which it is asked for the n-th time."""

    from user_core.config import Config as _Config

    class Config(_Config):
        reward: float = 0.0
        terminated: bool = False
        success: bool | None = None

    def __init__(self, config):
        self.config, self.steps = config, 0

    def reset(self):
        self.steps = 0

    def __call__(self, observation, action, next_observation, task):
        self.steps += 1
        c = self.config
        return RewardOutcome(c.reward, c.terminated, c.success, RewardSource.ROBOT)


@pytest.fixture(autouse=True)
def plugin_module(monkeypatch):
    monkeypatch.setitem(sys.modules, NAME, sys.modules[__name__])


def part(reward=0.0, terminated=False, success=None):
    params = {"reward": reward, "terminated": terminated, "success": success}
    return {"plugin": f"{NAME}:Says", "params": params}


def judged(rule, *parts, **more):
    params = {"rule": rule, "rewards": list(parts), **more}
    reward = build("rewards", "user_core.rewards:CompositeReward", params)
    return reward({}, np.zeros(1), {}, NO_TASK)


@pytest.mark.parametrize(
    ("rule", "parts", "more", "expected"),
    [
        ("sum", [part(2), part(3, True, True)], {}, (5, True, True)),
        ("sum", [part(2), part(3)], {"weights": [0.5, -1]}, (-2, False, None)),
        ("sum", [part(0, success=True), part(0, success=False)], {}, (0, False, False)),
        ("product", [part(2), part(-3)], {}, (-6, False, None)),
        ("product", [part(2), part(-3)], {"weights": [1, 2]}, (-18, False, None)),
        ("product", [part(0), part(5)], {"weights": [0.5, 1]}, (0, False, None)),
        ("first", [part(1), part(2, True, True), part(3, False, False)], {}, (2, True, True)),
        ("first", [part(1), part(2)], {}, (2, False, None)),
        ("veto", [part(1, True, True), part(9, success=False)], {}, (0, False, False)),
        ("veto", [part(1, True, True), part(9)], {"veto_reward": -1}, (1, True, True)),
        ("veto", [part(1, True, True), part(9, success=False)], {"veto_reward": -1}, (-1, False, False)),
        ("veto", [part(1, False, False), part(9, success=True)], {}, (1, False, False)),
    ],
)  # fmt: skip
def test_rules(rule, parts, more, expected):
    outcome = judged(rule, *parts, **more)
    assert (outcome.reward, outcome.terminated, outcome.success) == expected


def test_the_source_is_that_of_the_parts_where_they_agree():
    assert judged("sum", part(1), part(2)).source is RewardSource.ROBOT


def test_an_episode_begins_for_all_parts():
    reward = build("rewards", "user_core.rewards:CompositeReward", {"rewards": [part(1), part(2)]})
    for _ in range(3):
        reward({}, np.zeros(1), {}, NO_TASK)
    assert [p.steps for p in reward._parts] == [3, 3]
    reward.reset()
    assert [p.steps for p in reward._parts] == [0, 0]


def test_weights_that_do_not_fit_are_refused():
    with pytest.raises(ConfigError, match="one a reward"):
        judged("sum", part(1), weights=[1, 2])
    with pytest.raises(ConfigError, match="sum or product"):
        judged("veto", part(1), weights=[1])
    with pytest.raises(ConfigError, match=r"rewards.0"):
        judged("sum", {"plugin": "pose_threshold", "params": {"goal": [1, 2]}})


def test_it_keeps_the_promises_of_a_reward():
    spec = RobotSpec("arm", {"tcp_pose": ArraySpec((7,))}, ArraySpec((2,)))
    goal = {"plugin": "pose_threshold", "params": {"goal": [0, 0, 0], "distance_weight": 1.0}}
    reward = build("rewards", "user_core.rewards:CompositeReward", {"rewards": [goal, part(1)]})
    check_reward(reward, spec).require()
