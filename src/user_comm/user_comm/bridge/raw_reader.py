"""Serialised messages of several topics, taken as soon as they come, past the executor.

rclpy's executor builds its wait set anew for every message, in Python: half a millisecond of a
core each (docs/benchmarks.md). Here one thread waits in C for the few subscriptions of a
bridge, which the executor does not see.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from rclpy.impl.implementation_singleton import rclpy_implementation
from rclpy.node import Node
from rclpy.qos import QoSProfile

from user_comm.topic_poller import PolledGroup

_LONGEST_WAIT_NS = 500_000_000


class RawReader:
    """Reads topics as bytes and hands them on from a thread of its own.

    Args:
        node: Subscribes.
        on_error: Gets what went wrong with a topic; the others go on.
    """

    def __init__(self, node: Node, on_error: Callable[[str, Exception], object]) -> None:
        self._node, self._on_error = node, on_error
        self._subscriptions: list[tuple[Any, Callable[[bytes], object], int]] = []
        self._ending = threading.Event()
        self._thread: threading.Thread | None = None

    def add(
        self,
        message_type: type[Any],
        topic: str,
        profile: QoSProfile,
        take: Callable[[bytes], object],
    ) -> None:
        """Read a topic; before :meth:`start`. ``take`` must return at once."""
        subscription = self._node.create_subscription(
            message_type, topic, lambda _: None, profile, raw=True, callback_group=PolledGroup()
        )
        self._subscriptions.append((subscription, take, profile.depth))

    def start(self) -> None:
        """Begin to read."""
        self._wakeup = self._node.create_guard_condition(lambda: None, PolledGroup())
        self._thread = threading.Thread(target=self._run, name="bridge reader", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop reading and end the subscriptions."""
        self._ending.set()
        if self._thread is not None:
            self._wakeup.trigger()
            self._thread.join()
            self._node.destroy_guard_condition(self._wakeup)
        for subscription, _, _ in self._subscriptions:
            self._node.destroy_subscription(subscription)
        self._subscriptions.clear()

    def _run(self) -> None:
        context = self._node.context.handle
        assert context is not None
        with context:
            waiting = rclpy_implementation.WaitSet(len(self._subscriptions), 1, 0, 0, 0, 0, context)
        with waiting:
            while not self._ending.is_set() and self._node.context.ok():
                waiting.clear_entities()
                for subscription, _, _ in self._subscriptions:
                    waiting.add_subscription(subscription.handle)
                waiting.add_guard_condition(self._wakeup.handle)
                waiting.wait(_LONGEST_WAIT_NS)
                for index, (subscription, take, depth) in enumerate(self._subscriptions):
                    if waiting.is_ready("subscription", index):
                        self._take_all(subscription, take, depth)

    def _take_all(self, subscription: Any, take: Callable[[bytes], object], depth: int) -> None:
        try:
            for _ in range(depth):  # then look at the others again
                taken = subscription.handle.take_message(subscription.msg_type, True)
                if taken is None:
                    return
                take(taken[0])
        except Exception as error:  # of the middleware: one topic must not end all others
            self._on_error(subscription.topic_name, error)
