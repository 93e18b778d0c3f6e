"""The control loop waits for actions itself: no executor and no other thread in between.

What that gains is measured by ``benchmarks/action_latency.py``.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from rclpy.node import Node

from user_comm import topics
from user_comm.topic_waiter import TopicWaiter
from user_core.types import ActionChunk


class ActionWaiter:
    """Waits for actions and deadlines at once; a :class:`~user_hal.runtime.waiter.Waiter`.

    Args:
        node: Subscribes.
        callback: Gets every action chunk, in the thread that waits.

    Attributes:
        subscription: Checked: what cannot be decoded is counted and never seen.
    """

    def __init__(self, node: Node, callback: Callable[[ActionChunk], None]) -> None:
        self._callback = callback
        self._topic = TopicWaiter(node, topics.ACTION)
        self.subscription = self._topic.subscription
        self.wake, self.destroy = self._topic.wake, self._topic.destroy

    def wait(self, until_ns: int) -> None:
        """Wait until a time of the monotonic clock; hand over actions that come."""
        self._topic.wait(until_ns - time.monotonic_ns())
        self._topic.take_all(self._callback)

    def discard(self) -> None:
        """Throw away actions that came while nobody waited for them."""
        self._topic.take_all(lambda chunk: None)
