"""How the expert grasps a cube and brings it to its goal."""

from __future__ import annotations

from enum import Enum, auto

import numpy as np

from user_core.specs import Arrays
from user_hal.sim.experts.plan import Plan, Wish


class _Phase(Enum):
    APPROACH = auto()
    DESCEND = auto()
    CLOSE = auto()
    CARRY = auto()


class PickPlacePlan(Plan):
    """Above the cube, down, close, up and to the goal; from the start where it was dropped."""

    above_m = 0.07
    aligned_m = 0.006
    aligned_rad = 0.06

    def reset(self) -> None:
        self._phase = _Phase.APPROACH
        self._opening = 1.0
        self._closing = 0

    def wish(self, arrays: Arrays) -> Wish:
        way_m = arrays["tool_to_object"].astype(float)
        turn_rad = yaw_error_rad(arrays["tcp_pose"], arrays["object_pose"])
        opening = float(arrays["gripper"][0])
        aside_m = float(np.hypot(way_m[0], way_m[1]))
        if self._phase is _Phase.APPROACH:
            if aside_m < self.aligned_m and abs(turn_rad) < self.aligned_rad and opening > 0.95:
                self._phase = _Phase.DESCEND
            else:
                low = aside_m > 0.03 and -way_m[2] < 0.5 * self.above_m
                over_m = way_m * (0.0, 0.0, 1.0) if low else way_m.copy()
                over_m[2] += self.above_m
                return Wish(self.towards(over_m), turn_rad)
        if self._phase is _Phase.DESCEND:
            if abs(way_m[2]) < 0.006:
                self._phase, self._closing = _Phase.CLOSE, 0
            else:
                return Wish(self.towards(way_m), turn_rad)
        if self._phase is _Phase.CLOSE:
            self._closing += 1
            still = abs(opening - self._opening) < 0.01 and self._closing > 3
            self._opening = opening
            if not still:
                return Wish(np.zeros(3), gripper=0.0)
            self._phase = _Phase.CARRY
        if np.linalg.norm(way_m) > 0.03:  # dropped, or not got
            self.reset()
            return Wish(np.zeros(3))
        goal_m = arrays["object_to_goal"].astype(float)
        if arrays["object_pose"][2] < 0.04:
            goal_m[:2] = 0.0
        return Wish(self.towards(goal_m), gripper=0.0)


def yaw_error_rad(tool_pose: np.ndarray, object_pose: np.ndarray) -> float:
    """How far a tool that points down must turn to be square to a cube: -45 to 45 degrees."""
    tool_rad = 2.0 * np.arctan2(tool_pose[4], tool_pose[3])
    object_rad = 2.0 * np.arctan2(object_pose[5], object_pose[6])
    quarter = np.pi / 2
    return float((object_rad - tool_rad + quarter / 2) % quarter - quarter / 2)
