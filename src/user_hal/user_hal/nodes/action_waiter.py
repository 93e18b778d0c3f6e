"""The control loop waits for actions itself: no executor and no other thread in between.

A command that arrives in the node's executor has to be handed over to the loop's thread, which
must first be scheduled and get the interpreter: on a busy host that alone takes longer than all
the rest of its way (``benchmarks/action_latency.py``). So the subscription is kept away from the
executor, and the loop's thread waits for it together with its next deadline.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from rclpy.callback_groups import CallbackGroup
from rclpy.guard_condition import GuardCondition
from rclpy.impl.implementation_singleton import rclpy_implementation as _rclpy
from rclpy.node import Node

from user_comm import topics
from user_comm.checked_subscription import CheckedSubscription
from user_comm.converters import converter_of
from user_comm.message_types import interface_class
from user_comm.ros_qos import profile
from user_core.types import ActionChunk


class NotForExecutors(CallbackGroup):
    """A callback group whose entities no executor ever looks at."""

    def can_execute(self, entity: Any) -> bool:
        """Never."""
        return False

    def beginning_execution(self, entity: Any) -> bool:
        """Never."""
        return False

    def ending_execution(self, entity: Any) -> None:
        """Nothing has begun."""


class ActionWaiter:
    """Waits for actions and deadlines at once, by a wait set of its own.

    It uses the wait set as rclpy's own ``wait_for_message`` does; there is no public way.

    Args:
        node: Subscribes.
        callback: Gets every action chunk, in the thread that waits.

    Attributes:
        subscription: Checked: what cannot be decoded is counted and never seen.
    """

    def __init__(self, node: Node, callback: Callable[[ActionChunk], None]) -> None:
        topic = topics.ACTION
        self.subscription = CheckedSubscription(
            node,
            topic.name,
            interface_class(topic.type),
            converter_of(topic.type).decode,
            callback,
            profile(topic.quality),
            callback_group=NotForExecutors(),
        )
        self._taken = self.subscription.subscription
        self._bell = GuardCondition(None, None, context=node.context)
        self._wait_set = _rclpy.WaitSet(1, 1, 0, 0, 0, 0, node.context.handle)

    def wait(self, until_ns: int) -> None:
        """Wait; hand over an action that comes."""
        left_ns = max(until_ns - time.monotonic_ns(), 0)
        wait_set = self._wait_set
        wait_set.clear_entities()
        wait_set.add_subscription(self._taken.handle)
        wait_set.add_guard_condition(self._bell.handle)
        wait_set.wait(left_ns)
        if wait_set.get_ready_entities("subscription"):
            self._take(self._taken.callback)

    def wake(self) -> None:
        """End the wait."""
        self._bell.trigger()

    def discard(self) -> None:
        """Throw away actions that came while nobody waited for them."""
        while self._take(lambda data: None):
            pass

    def destroy(self) -> None:
        """Stop listening. Nobody may be waiting."""
        self.subscription.destroy()
        self._bell.destroy()

    def _take(self, use: Callable[[bytes], None]) -> bool:
        with self._taken.handle:
            taken = self._taken.handle.take_message(self._taken.msg_type, self._taken.raw)
        if taken is None:
            return False
        use(taken[0])
        return True
