"""The reward of a goal environment, for any goal: for hindsight relabelling at a learner.

The learner makes the environment only to ask its ``compute_reward``; nothing is stepped there.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import numpy as np
from gymnasium import spaces

from user_core.config import Config, setting
from user_core.errors import ConfigError
from user_core.interfaces import GoalOutcome, GoalReward
from user_core.rewards.goals import rewards_of
from user_core.specs import Array
from user_hal.robots.gymnasium.config import GymnasiumConfig
from user_hal.robots.gymnasium.making import make

ACHIEVED, DESIRED = "achieved_goal", "desired_goal"
#: Pairs of goals by which it is tried whether many can be judged at once; half of them are equal.
_TRIED = 8


class EnvironmentGoalConfig(Config):
    """Parameters of :class:`EnvironmentGoalReward`."""

    env_id: str = setting(
        doc="Registered name of the environment, as in the robot's env_id.", min_length=1
    )
    kwargs: dict[str, Any] = setting(
        factory=dict, doc="Keyword arguments of gymnasium.make, as in the robot's kwargs."
    )
    reached_reward: float | None = setting(
        None, doc="From this reward on a goal is reached; without it nobody knows."
    )


class EnvironmentGoalReward(GoalReward):
    """``compute_reward`` of a Gymnasium environment, and ``compute_terminated`` where it has one.

    Whether these judge many pairs at once is tried, against one after another; where they do
    not, they are called for each pair.

    Raises:
        ConfigError: There is no such environment, or it is no goal environment.
        DeviceError: It needs what is not installed.
    """

    Config = EnvironmentGoalConfig

    def __init__(self, config: EnvironmentGoalConfig) -> None:
        self.config = config
        env = make(GymnasiumConfig(env_id=config.env_id, kwargs=config.kwargs))
        self._env: Any = env.unwrapped
        space = env.observation_space
        goals: list[Any] = []
        if isinstance(space, spaces.Dict):
            goals = [space.spaces.get(name) for name in (ACHIEVED, DESIRED)]
        if not callable(getattr(self._env, "compute_reward", None)) or not all(goals) or not goals:
            env.close()
            raise ConfigError(
                f"environment {config.env_id!r}",
                got="one without compute_reward, achieved_goal and desired_goal",
                expected="a goal environment (Gymnasium-Robotics' GoalEnv)",
                hint="Name a function by goal_function, or a distance by goal_distance",
            )
        self._shape = goals[1].shape
        achieved, desired = (np.stack([g.sample() for _ in range(_TRIED)]) for g in goals)
        desired[: _TRIED // 2] = achieved[: _TRIED // 2].reshape(desired[: _TRIED // 2].shape)
        self._reward_at_once = self._judges_many(self._reward, achieved, desired)
        self._ends = callable(getattr(self._env, "compute_terminated", None))
        self._ends_at_once = self._ends and self._judges_many(self._terminated, achieved, desired)

    def __call__(self, achieved: Array, desired: Array) -> GoalOutcome:
        achieved, desired = (a.reshape(len(a), *self._shape) for a in (achieved, desired))
        env_id, level = self.config.env_id, self.config.reached_reward
        reward = rewards_of(
            self._reward, achieved, desired, f"compute_reward of {env_id!r}",
            one_by_one=not self._reward_at_once,
        )  # fmt: skip
        ends: Array = np.zeros(len(reward), np.float32)
        if self._ends:
            ends = rewards_of(
                self._terminated, achieved, desired, f"compute_terminated of {env_id!r}",
                one_by_one=not self._ends_at_once,
            )  # fmt: skip
        return GoalOutcome(reward, ends > 0, None if level is None else reward >= level)

    def _reward(self, achieved: Array, desired: Array) -> Any:
        return self._env.compute_reward(achieved, desired, {})

    def _terminated(self, achieved: Array, desired: Array) -> Any:
        return self._env.compute_terminated(achieved, desired, {})

    @staticmethod
    def _judges_many(
        function: Callable[[Array, Array], Any], achieved: Array, desired: Array
    ) -> bool:
        singly = rewards_of(function, achieved, desired, "a goal environment", one_by_one=True)
        with contextlib.suppress(Exception):  # it may fail in any way
            at_once = np.asarray(function(achieved, desired), np.float32)
            return at_once.shape == singly.shape and bool(np.allclose(at_once, singly))
        return False
