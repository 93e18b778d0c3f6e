"""A goal environment that needs no package: a point in the plane, and a reward that is hardly ever seen.

Registered as ``GoalPlane-v0``; ``user_testing.worlds.goals:GoalPlane-v0`` imports this module first.
"""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

THRESHOLD, _STEP, _STEPS = 0.1, 0.2, 15


class GoalPlane(gymnasium.Env[Any, Any]):
    """A point is moved by up to 0.2 in each direction; -1 a step until it is within 0.1 of the goal."""

    def __init__(self) -> None:
        place = spaces.Box(-1, 1, (2,), np.float32)
        names = ("observation", "achieved_goal", "desired_goal")
        self.observation_space = spaces.Dict(dict.fromkeys(names, place))
        self.action_space = spaces.Box(-1, 1, (2,), np.float32)
        self._place, self._goal = np.zeros(2, np.float32), np.zeros(2, np.float32)
        self._steps = 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self._place, self._goal = self.np_random.uniform(-1, 1, (2, 2)).astype(np.float32)
        self._steps = 0
        return self._observe(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self._place = np.clip(self._place + _STEP * np.clip(action, -1, 1), -1, 1, dtype=np.float32)
        self._steps += 1
        reward = float(self.compute_reward(self._place, self._goal, {}))
        done = {"is_success": reward == 0.0}
        return self._observe(), reward, False, self._steps >= _STEPS, done

    def compute_reward(self, achieved_goal: Any, desired_goal: Any, info: Any) -> Any:
        """-1, and 0 at the goal; of one pair of goals or of many."""
        distance = np.linalg.norm(np.asarray(achieved_goal) - desired_goal, axis=-1)
        return -(distance > THRESHOLD).astype(np.float32)

    def _observe(self) -> dict[str, Any]:
        place = self._place.copy()
        return {"observation": place, "achieved_goal": place, "desired_goal": self._goal.copy()}


gymnasium.register("GoalPlane-v0", GoalPlane)
