"""Robots in simulated time: their stamps come by ``/clock``, ours by the clock of the machine.

Control, leases, actors and stores run by the machine's clock, whatever a simulation's does. With
``use_sim_time`` the node's ROS clock follows ``/clock``; what a robot on topics says is stamped by it.
:class:`RosTime` knows how the two lie to each other, from the moment at which ``/clock`` was heard
last, so that a simulation that stands still, jumps or runs at another speed is followed: what it says
grows old when it stands still, and is new again when it goes on.
"""

from __future__ import annotations

import dataclasses
import time
from typing import Any

from rclpy.clock import JumpThreshold
from rclpy.duration import Duration
from rclpy.node import Node

from user_core.interfaces import Robot
from user_core.specs import Array, RobotSpec
from user_core.types import Observation


class RosTime:
    """The ROS clock of a node beside the machine's.

    Args:
        node: Whose clock.

    Attributes:
        is_simulated: Whether it follows ``/clock``.
    """

    def __init__(self, node: Node) -> None:
        self.is_simulated = bool(node.get_parameter("use_sim_time").value)
        self._clock, self._ahead_ns = node.get_clock(), 0
        if self.is_simulated:
            self._take()
            tick = JumpThreshold(
                min_forward=Duration(nanoseconds=1), min_backward=Duration(nanoseconds=-1)
            )
            self._handle = self._clock.create_jump_callback(
                tick, post_callback=lambda jump: self._take()
            )

    def wall_ns(self, ros_ns: int) -> int:
        """The time since the epoch at which the ROS clock showed this."""
        return ros_ns + self._ahead_ns

    def ros_ns(self, wall_ns: int) -> int:
        """What the ROS clock shows at this time since the epoch; never below 0."""
        return max(0, wall_ns - self._ahead_ns)

    def close(self) -> None:
        """Follow the clock no longer."""
        if self.is_simulated:
            self._handle.unregister()

    def _take(self) -> None:
        self._ahead_ns = time.time_ns() - int(self._clock.now().nanoseconds)


class InRealTime(Robot):
    """A robot whose stamps are of the ROS clock, as one whose stamps are of the machine's.

    Everything else is the robot's, also what the interface does not know of.
    """

    def __init__(self, robot: Robot, ros_time: RosTime) -> None:
        self._robot, self._ros_time = robot, ros_time

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
        stamp_ns = self._ros_time.wall_ns(observation.stamp_ns)
        return dataclasses.replace(observation, stamp_ns=stamp_ns)
