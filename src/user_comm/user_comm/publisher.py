"""A publisher of one topic of the table, that takes core values."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rclpy.node import Node
from rclpy.qos import QoSProfile


class TopicPublisher:
    """Encodes and publishes; silent while its node is not active. May be used from any thread.

    Args:
        node: Publishes.
        topic: Name of the topic, relative to the node's namespace.
        message_type: Class of the message.
        encode: Value to message; without one, messages are published as they are.
        profile: Quality of service.
        may_publish: Whether the node's state allows it now.
    """

    def __init__(
        self,
        node: Node,
        topic: str,
        message_type: type[Any],
        encode: Callable[..., Any] | None,
        profile: QoSProfile,
        may_publish: Callable[[], bool],
    ) -> None:
        self._node, self._encode, self._may_publish = node, encode, may_publish
        self.publisher = node.create_publisher(message_type, topic, profile)
        self.topic = self.publisher.topic_name

    @property
    def listeners(self) -> int:
        """How many subscriptions are known now."""
        return int(self.publisher.get_subscription_count())

    @property
    def wanted(self) -> bool:
        """Whether anybody listens now: what is dear to make need not be made otherwise."""
        return bool(self.listeners)

    def publish(self, value: Any, **options: Any) -> bool:
        """Encode with ``options`` and publish; False if the node is not active."""
        if not self._may_publish():
            return False
        message = self._encode(value, **options) if self._encode else value
        self.publisher.publish(message)
        return True

    def destroy(self) -> None:
        """Stop publishing."""
        self._node.destroy_publisher(self.publisher)
