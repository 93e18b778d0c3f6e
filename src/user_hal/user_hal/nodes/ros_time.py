"""Robots in simulated time: their stamps come by ``/clock``, ours by the clock of the machine.

Control, leases, actors and stores run by the machine's clock, whatever a simulation's does. With
``use_sim_time`` the node's ROS clock follows ``/clock``; what a robot on topics says is stamped by it.
:class:`RosTime` knows how the two lie to each other, from the moment at which ``/clock`` was heard
last, so that a simulation that stands still, jumps or runs at another speed is followed: what it says
grows old when it stands still, and is new again when it goes on.
"""

from __future__ import annotations

import time

from rclpy.clock import JumpThreshold
from rclpy.duration import Duration
from rclpy.node import Node


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
