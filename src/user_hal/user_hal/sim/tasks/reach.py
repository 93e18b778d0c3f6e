"""Reach: bring the tool centre point to a goal in free space."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar
from xml.etree import ElementTree as ET

import numpy as np

from user_core.specs import Array, ArraySpec
from user_hal.sim.tasks.task import (
    Data,
    Model,
    Task,
    add_goal_marker,
    mocap_position,
    position_spec,
)


class Reach(Task):
    """Success: the tool centre point is inside the ball that marks the goal.

    Args:
        goal_radius_m: Of the ball. In small pictures a ball of the usual size is a dot of one
            or two pixels, which shows neither how far away it is nor that it is there at all.
    """

    name: ClassVar[str] = "reach"
    step_m: ClassVar[float] = 0.03
    horizon_s: ClassVar[float] = 4.0

    def __init__(self, goal_radius_m: float = 0.015) -> None:
        self.goal_radius_m = goal_radius_m

    def extend(self, root: ET.Element) -> None:
        add_goal_marker(root, self.goal_radius_m)

    def feature_specs(self, base_frame: str) -> Mapping[str, ArraySpec]:
        return {
            "goal_position": position_spec(base_frame),
            "tool_to_goal": position_spec(base_frame, 0.3),
        }

    def bind(self, model: Model, data: Data) -> None:
        self._goal_m = mocap_position(model, data, "goal")

    def reset(self, rng: np.random.Generator) -> tuple[Array, float]:
        low, high = np.add(self.workspace_low_m, 0.03), np.subtract(self.workspace_high_m, 0.03)
        start_m, goal_m = rng.uniform(low, high), rng.uniform(low, high)
        while np.linalg.norm(goal_m - start_m) < 0.08:
            goal_m = rng.uniform(low, high)
        self._goal_m[:] = goal_m
        return start_m, 0.0

    def features(self, tcp_m: Array, tcp_rotation: Array) -> dict[str, Array]:
        goal_m = self._goal_m
        return {
            "goal_position": goal_m.astype(np.float32),
            "tool_to_goal": (goal_m - tcp_m).astype(np.float32),
        }

    def succeeded(self, tcp_m: Array, tcp_rotation: Array) -> bool:
        offset_m = self._goal_m - tcp_m
        return bool(offset_m @ offset_m < self.goal_radius_m**2)
