"""Publishes a node's diagnostics on ``/diagnostics``: once a second, and on change."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rclpy.clock import Clock
from rclpy.clock_type import ClockType
from rclpy.event_handler import PublisherEventCallbacks
from rclpy.node import Node

from user_comm import topics
from user_comm.diagnostics import Diagnostics, Item
from user_comm.ros_qos import profile

PERIOD_S = 1.0
#: Longest value that is published; the log has the whole.
_VALUE_LENGTH = 1000


class DiagnosticsPublisher:
    """The heartbeat of a node. It comes from the node's executor, so that it stops when that hangs.

    Args:
        node: Publishes.
        diagnostics: What is published.
        hardware_id: Which piece of hardware, for ``DiagnosticStatus.hardware_id``.
    """

    def __init__(self, node: Node, diagnostics: Diagnostics, hardware_id: str = "") -> None:
        self._node, self._diagnostics, self.hardware_id = node, diagnostics, hardware_id
        self._name = node.get_fully_qualified_name().lstrip("/")
        self._publisher = node.create_publisher(
            DiagnosticArray,
            topics.DIAGNOSTICS.name,
            profile(topics.DIAGNOSTICS.quality),
            # Who begins to listen hears at once: a manager need not wait for the next beat.
            event_callbacks=PublisherEventCallbacks(matched=self._greet),
        )
        # Steady: a heart beats on while simulated time stands still.
        clock = Clock(clock_type=ClockType.STEADY_TIME)
        self._timer = node.create_timer(PERIOD_S, self.publish, clock=clock)

    def _greet(self, info: Any) -> None:
        if info.current_count_change > 0:
            self.publish()

    def publish(self) -> None:
        """Publish all items now."""
        message = DiagnosticArray()
        message.header.stamp = self._node.get_clock().now().to_msg()
        message.status = statuses(self._name, self.hardware_id, self._diagnostics.items())
        self._publisher.publish(message)


def statuses(node_name: str, hardware_id: str, items: Sequence[Item]) -> list[Any]:
    """Items as ``DiagnosticStatus`` messages, named ``<node>: <item>``."""
    return [
        DiagnosticStatus(
            level=bytes([item.level]),
            name=f"{node_name}: {item.name}",
            message=item.message[:_VALUE_LENGTH],
            hardware_id=hardware_id,
            values=[
                KeyValue(key=str(key), value=str(value)[:_VALUE_LENGTH])
                for key, value in item.values.items()
            ],
        )
        for item in items
    ]
