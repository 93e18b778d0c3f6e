"""Reach: bring the tool centre point to a goal in free space."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar
from xml.etree import ElementTree as ET

import numpy as np
from user_core.specs import Array, ArraySpec

from user_hal.sim.tasks.task import Data, Model, Task, add_goal_marker, mocap_index, position_spec


class Reach(Task):
    """Success: the tool centre point is within 1.5 cm of the goal."""

    name: ClassVar[str] = "reach"
    step_m: ClassVar[float] = 0.03
    horizon_s: ClassVar[float] = 4.0
    tolerance_m: ClassVar[float] = 0.015

    def extend(self, root: ET.Element) -> None:
        add_goal_marker(root, self.tolerance_m)

    def feature_specs(self, base_frame: str) -> Mapping[str, ArraySpec]:
        return {
            "goal_position": position_spec(base_frame),
            "tool_to_goal": position_spec(base_frame, 0.3),
        }

    def bind(self, model: Model) -> None:
        self._goal = mocap_index(model, "goal")

    def reset(self, data: Data, rng: np.random.Generator) -> tuple[Array, float]:
        low, high = np.add(self.workspace_low_m, 0.03), np.subtract(self.workspace_high_m, 0.03)
        start_m, goal_m = rng.uniform(low, high), rng.uniform(low, high)
        while np.linalg.norm(goal_m - start_m) < 0.08:
            goal_m = rng.uniform(low, high)
        data.mocap_pos[self._goal] = goal_m
        return start_m, 0.0

    def features(self, data: Data, tcp_m: Array, tcp_rotation: Array) -> dict[str, Array]:
        goal_m = data.mocap_pos[self._goal]
        return {
            "goal_position": goal_m.astype(np.float32),
            "tool_to_goal": (goal_m - tcp_m).astype(np.float32),
        }

    def succeeded(self, data: Data, tcp_m: Array, tcp_rotation: Array) -> bool:
        offset_m = data.mocap_pos[self._goal] - tcp_m
        return bool(offset_m @ offset_m < self.tolerance_m**2)
