"""The reward of a goal environment, asked for other goals than its own."""

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

from user_core.conformance import check_goal_reward
from user_core.errors import ConfigError
from user_core.plugins import build


class PlaneEnv(gymnasium.Env):
    """A goal in the plane; ``single``: only one pair of goals can be judged at a time."""

    def __init__(self, single=False):
        goal = spaces.Box(-np.inf, np.inf, (2,), np.float64)
        self.observation_space = spaces.Dict(
            {"observation": goal, "achieved_goal": goal, "desired_goal": goal}
        )
        self.action_space = spaces.Box(-1, 1, (2,), np.float32)
        self.single = single

    def compute_reward(self, achieved_goal, desired_goal, info):
        axis = None if self.single else -1
        return -(np.linalg.norm(achieved_goal - desired_goal, axis=axis) > 0.1).astype(float)

    def compute_terminated(self, achieved_goal, desired_goal, info):
        return bool(np.linalg.norm(achieved_goal - desired_goal) <= 0.1)


@pytest.fixture(autouse=True)
def _registered():
    for name, single in (("Plane-v0", False), ("Single-v0", True)):
        gymnasium.register(name, PlaneEnv, kwargs={"single": single})
    yield
    for name in ("Plane-v0", "Single-v0"):
        gymnasium.registry.pop(name)


@pytest.mark.parametrize("name", ["Plane-v0", "Single-v0"])
def test_an_environment_judges_any_goal_also_where_it_can_judge_only_one_at_a_time(name):
    reward = build("goal_rewards", "gymnasium", {"env_id": name, "reached_reward": 0.0})
    check_goal_reward(reward, 2).require()
    achieved, desired = np.zeros((3, 2), np.float32), np.float32([[0, 0], [1, 0], [0.05, 0]])
    outcome = reward(achieved, desired)
    assert outcome.reward.tolist() == [0, -1, 0]
    assert outcome.terminated.tolist() == outcome.reached.tolist() == [True, False, True]


def test_one_without_goals_is_refused():
    with pytest.raises(ConfigError, match=r"Pendulum-v1.*compute_reward.*goal_function"):
        build("goal_rewards", "gymnasium", {"env_id": "Pendulum-v1"})
