"""Listens to topics by their type, wherever they are in the graph."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Collection
from typing import Any

from rclpy.context import Context
from rclpy.qos import QoSProfile

from user_bringup.nodes.graph_node import Attention, GraphNode

_LOOK_PERIOD_S = 0.5


class GraphListener(GraphNode):
    """Subscribes to every topic of certain types, in a thread of its own. A context manager.

    Robots in any namespace are heard, also those that come later.

    Args:
        name: Of the node.
        kinds: Types to listen to, like ``user_msgs/msg/ActorStatus``.
        domain: The ROS domain; None: that of the environment.
        context: Of another node of this process in that domain; see :class:`GraphNode`.
        attention: Likewise.
    """

    def __init__(
        self,
        name: str,
        kinds: Collection[str],
        domain: int | None = None,
        context: Context | None = None,
        attention: Attention | None = None,
    ) -> None:
        super().__init__(name, _LOOK_PERIOD_S, domain, context, attention)
        self._kinds = kinds
        self._subscriptions: dict[str, tuple[str, Any]] = {}  # kind and subscription, by topic

    @abstractmethod
    def listen(self, topic: str, kind: str) -> tuple[Any, Any, QoSProfile]:
        """Message class, callback and quality of service for a topic that was found."""

    def wants(self, kind: str) -> bool:
        """Whether topics of this type are listened to now; asked at each look."""
        return True

    def subscribe(self, topic: str, kind: str) -> Any:
        """Subscribe to a topic that was found."""
        message_type, take, quality = self.listen(topic, kind)
        return self.node.create_subscription(message_type, topic, take, quality)

    def look(self) -> None:
        """Look for topics, and leave those that are not wanted any more."""
        for topic, (kind, subscription) in list(self._subscriptions.items()):
            if not self.wants(kind):
                del self._subscriptions[topic]
                self.node.destroy_subscription(subscription)
        for topic, types in self.node.get_topic_names_and_types():
            found = next((name for name in types if name in self._kinds), None)
            if found is not None and topic not in self._subscriptions and self.wants(found):
                self._subscriptions[topic] = (found, self.subscribe(topic, found))
