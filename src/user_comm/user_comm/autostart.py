"""A node that brings itself up, and up again, without a manager."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from rcl_interfaces.msg import ParameterDescriptor
from rclpy.clock import Clock
from rclpy.clock_type import ClockType

if TYPE_CHECKING:
    from user_comm.lifecycle import LifecycleNode

_CHECK_PERIOD_S = 0.5
_FIRST_RETRY_S = 1.0
_LAST_RETRY_S = 10.0


class Autostart:
    """Configures and activates its node, and tries again after a failure, ever more rarely.

    Whoever deactivates, cleans up or shuts down the node by its service takes over: from then
    on it stays as it is told.

    Args:
        node: Gets the read-only parameter ``autostart``.
    """

    def __init__(self, node: LifecycleNode) -> None:
        self._node = node
        self.wanted: bool = node.declare_parameter(
            "autostart",
            False,
            ParameterDescriptor(
                description="Configure and activate without a manager, and again after a failure.",
                read_only=True,
            ),
        ).value
        self._retry_s = _FIRST_RETRY_S
        self._next_s = 0.0
        if self.wanted:
            clock = Clock(clock_type=ClockType.STEADY_TIME)
            node.create_timer(_CHECK_PERIOD_S, self.strive, clock=clock)

    def give_up(self) -> None:
        """Somebody else decides from now on."""
        self.wanted = False

    def strive(self) -> None:
        """Take the node one or two states further if it is not active and it is time to."""
        now_s = time.monotonic()
        if not self.wanted or now_s < self._next_s:
            return
        state = self._node.state
        if state == "active":
            self._retry_s = _FIRST_RETRY_S
            return
        good = state != "unconfigured" or self._node.request("configure")
        if good and self._node.state == "inactive":
            good = self._node.request("activate")
        if not good:
            self._next_s = time.monotonic() + self._retry_s
            self._node.get_logger().info(f"trying again in {self._retry_s:g} s")
            self._retry_s = min(2 * self._retry_s, _LAST_RETRY_S)
