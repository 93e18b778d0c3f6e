"""A stop at limits that the actions of a robot cannot be cut at."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from user_core.specs import Array, Arrays, RobotSpec
from user_hal.safety.config import SafetyConfig
from user_hal.safety.layout import MotionLayout
from user_hal.safety.rules.joint_limits import joint_range
from user_hal.safety.stops.condition import Stop


class BoundaryStop:
    """Stops a robot that is outside a range it was not led into by its own actions.

    Where actions move joints, the gate cannot tell where the tool will go, and where they move
    the tool, not where the joints will. What it cannot cut it watches: outside the box (or the
    range of a joint) the robot stops, and is brought back by a reset or by hand.
    """

    def __init__(
        self, code: str, array: str, rows: Array, low: Array, high: Array, names: Sequence[str]
    ) -> None:
        self.code = code
        self._array, self._rows, self._low, self._high = array, rows, low, high
        self._names = names
        self._stop: Stop | None = None

    @classmethod
    def all_for(cls, config: SafetyConfig, spec: RobotSpec) -> list[BoundaryStop]:
        """The stops that a configuration asks for and the gate's rules do not cover."""
        layout = MotionLayout.of(spec)
        stops: list[BoundaryStop] = []
        box, joints = config.workspace, config.joint_limits
        if box.given and layout.linear.stop < 3 and "tcp_pose" in spec.observation:
            names: tuple[str, ...] = ("tool x", "tool y", "tool z")
            low, high = np.asarray(box.low) - box.tolerance, np.asarray(box.high) + box.tolerance
            stops.append(cls("workspace", "tcp_pose", np.arange(3), low, high, names))
        if joints.given and not layout.joints.stop and "joint_position" in spec.observation:
            measured = spec.observation["joint_position"]
            rows = np.arange(measured.size)
            low, high = joint_range(joints, measured, rows)
            low, high = low - joints.tolerance, high + joints.tolerance
            names = measured.names or tuple(f"joint {i + 1}" for i in rows)
            stops.append(cls("joint_limits", "joint_position", rows, low, high, names))
        return stops

    def observe(self, arrays: Arrays) -> None:
        """Look at a new reading."""
        here = arrays[self._array][self._rows]
        outside = (here < self._low) | (here > self._high)
        self._stop = None
        if outside.any():
            i = int(np.flatnonzero(outside)[0])
            self._stop = Stop(
                self.code,
                f"{self._names[i]} is at {here[i]:.4f}, outside {self._low[i]:.4f} to "
                f"{self._high[i]:.4f}; reset the robot or lead it back by hand",
            )

    def check(self, now_ns: int) -> Stop | None:
        """Why the robot must stand still, or None."""
        return self._stop
