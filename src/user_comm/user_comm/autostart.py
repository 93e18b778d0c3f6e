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
#: After being active for so long, a failure counts as the first one.
_STABLE_S = 30.0


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
        self._next_s = self._up_since_s = 0.0
        self._was_up = False
        if self.wanted:
            clock = Clock(clock_type=ClockType.STEADY_TIME)
            node.create_timer(_CHECK_PERIOD_S, self.strive, clock=clock)

    def give_up(self) -> None:
        """Somebody else decides from now on."""
        self.wanted = False

    def strive(self) -> None:
        """Take the node one or two states further if it is not active and it is time to."""
        now_s = time.monotonic()
        if not self.wanted or self._is_up(now_s) or now_s < self._next_s:
            return
        node = self._node
        good = node.state != "unconfigured" or node.request("configure")
        if good and node.state == "inactive":
            good = node.request("activate")
        if not good:
            self._wait()

    def _is_up(self, now_s: float) -> bool:
        if self._node.state == "active":
            if not self._was_up:
                self._was_up, self._up_since_s = True, now_s
            elif now_s - self._up_since_s > _STABLE_S:
                self._retry_s = _FIRST_RETRY_S
            return True
        if self._was_up:  # and has come down by itself
            self._was_up = False
            self._wait()
        return False

    def _wait(self) -> None:
        self._next_s = time.monotonic() + self._retry_s
        self._node.get_logger().info(f"trying again in {self._retry_s:g} s")
        self._retry_s = min(2 * self._retry_s, _LAST_RETRY_S)
