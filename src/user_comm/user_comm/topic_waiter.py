"""A topic that one thread waits for itself, without the executor in between.

What arrives in a node's executor has to be handed over to the thread that needs it, which must
first be scheduled and get the interpreter: on a busy host that takes longer than all the rest of
the way. So the subscription is kept away from the executor, and its thread waits for it together
with its next deadline.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rclpy.guard_condition import GuardCondition
from rclpy.impl.implementation_singleton import rclpy_implementation as _rclpy
from rclpy.node import Node

from user_comm.converters import converter_of
from user_comm.subscriptions import CheckedSubscription
from user_comm.topic_poller import PolledGroup
from user_comm.topics import Topic, interface_class, profile


class TopicWaiter:
    """Waits for the messages of one topic, by a wait set of its own.

    It uses the wait set as rclpy's own ``wait_for_message`` does; there is no public way. One
    thread waits and takes; :meth:`wake` may come from any.

    Args:
        node: Subscribes.
        topic: A topic of the table whose type stands for a core value.

    Attributes:
        subscription: Checked: what cannot be decoded is counted and never seen.
    """

    def __init__(self, node: Node, topic: Topic) -> None:
        self._use: Callable[[Any], None] = lambda value: None
        self.subscription = CheckedSubscription(
            node,
            topic.name,
            interface_class(topic.type),
            converter_of(topic.type).decode,
            lambda value: self._use(value),
            profile(topic.quality),
            callback_group=PolledGroup(),
        )
        self._taken = self.subscription.subscription
        self._bell = GuardCondition(None, None, context=node.context)
        self._wait_set = _rclpy.WaitSet(1, 1, 0, 0, 0, 0, node.context.handle)

    def wait(self, duration_ns: int) -> None:
        """Wait until a message is there, or :meth:`wake` was called, or for this long."""
        wait_set = self._wait_set
        wait_set.clear_entities()
        wait_set.add_subscription(self._taken.handle)
        wait_set.add_guard_condition(self._bell.handle)
        wait_set.wait(max(0, duration_ns))

    def take_all(self, use: Callable[[Any], None]) -> None:
        """Hand over what has arrived, oldest first. Returns at once."""
        self._use = use
        while True:
            with self._taken.handle:
                taken = self._taken.handle.take_message(self._taken.msg_type, self._taken.raw)
            if taken is None:
                return
            self._taken.callback(taken[0])

    def wake(self) -> None:
        """End the wait, or the next one. From any thread."""
        self._bell.trigger()

    def destroy(self) -> None:
        """Stop listening. Nobody may be waiting."""
        self.subscription.destroy()
        self._bell.destroy()
