"""A robot whose stamps are of another clock, as one whose stamps are of the machine's."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from typing import Any, Protocol

from user_core.interfaces import Robot
from user_core.specs import Array, RobotSpec
from user_core.types import Observation


class OtherTime(Protocol):
    """A clock beside the machine's."""

    def wall_ns(self, ros_ns: int) -> int:
        """The time since the epoch at which it showed this."""


class InRealTime(Robot):
    """A robot whose stamps are of the ROS clock (simulated time), seen by the clock of the machine.

    Everything else is the robot's, also what the interface does not know of.

    How the clocks lie to each other is known from when the other was heard last. On a busy machine that is heard late,
    and all seems younger until it is heard again: so what is newer by its own stamp is never stamped before what was
    shown, nothing is of the future, and a reading that is shown again keeps its stamp.

    Args:
        robot: The robot.
        ros_time: The clock of its stamps.
        now_ns: The clock of the machine, nanoseconds since the epoch.
    """

    def __init__(
        self, robot: Robot, ros_time: OtherTime, now_ns: Callable[[], int] = time.time_ns
    ) -> None:
        self._robot, self._ros_time, self._now_ns = robot, ros_time, now_ns
        self._own_ns, self._shown_ns = -1, 0  # of the newest reading: the robot's stamp and ours

    def __getattr__(self, name: str) -> Any:
        if name == "_robot":  # while it is being made
            raise AttributeError(name)
        return getattr(self._robot, name)

    @property
    def spec(self) -> RobotSpec:
        """The robot's."""
        return self._robot.spec

    def connect(self) -> None:
        """Connect the robot."""
        self._robot.connect()

    def read(self) -> Observation:
        """The robot's observation, stamped by the clock of the machine."""
        return self._stamped(self._robot.read())

    def command(self, action: Array) -> Array:
        """Command the robot."""
        return self._robot.command(action)

    def stop(self) -> None:
        """Stop the robot."""
        self._robot.stop()

    def reset(self, seed: int | None = None) -> Observation:
        """Reset the robot."""
        return self._stamped(self._robot.reset(seed))

    def close(self) -> None:
        """Close the robot."""
        self._robot.close()

    def _stamped(self, observation: Observation) -> Observation:
        if observation.stamp_ns != self._own_ns:
            self._own_ns, now_ns = observation.stamp_ns, self._now_ns()
            stamp_ns = min(self._ros_time.wall_ns(self._own_ns), now_ns)
            if self._shown_ns < now_ns:  # else the machine's clock was set back
                stamp_ns = max(stamp_ns, self._shown_ns + 1)
            self._shown_ns = stamp_ns
        return dataclasses.replace(observation, stamp_ns=self._shown_ns)
