"""Listens to topics by their type, wherever they are in the graph."""

from __future__ import annotations

import logging
import threading
from abc import ABC, abstractmethod
from collections.abc import Collection
from types import TracebackType
from typing import Any, TypeVar

import rclpy
from rclpy.executors import SingleThreadedExecutor
from rclpy.qos import QoSProfile

from user_comm.logs import Throttle
from user_comm.lost_messages import spin
from user_comm.start import end_spinning, start_rclpy
from user_core.errors import in_words

_log = logging.getLogger(__name__)
_LOOK_PERIOD_S = 0.5
_Listener = TypeVar("_Listener", bound="GraphListener")


class GraphListener(ABC):
    """Subscribes to every topic of certain types, in a thread of its own. A context manager.

    Robots in any namespace are heard, also those that come later.

    Args:
        name: Of the node.
        kinds: Types to listen to, like ``user_msgs/msg/ActorStatus``.
        domain: The ROS domain; None: that of the environment.
        context: Of another node of this process in that domain: each context takes part in the graph
            with threads and messages of its own. None: one of its own.
    """

    def __init__(
        self,
        name: str,
        kinds: Collection[str],
        domain: int | None = None,
        context: rclpy.Context | None = None,
    ) -> None:
        self._name, self._kinds, self._domain = name, kinds, domain
        self._is_shared, self._context = context is not None, context or rclpy.Context()
        self._subscriptions: dict[str, tuple[str, Any]] = {}  # kind and subscription, by topic
        self._say = Throttle()

    def __enter__(self: _Listener) -> _Listener:
        if not self._is_shared:
            start_rclpy([], context=self._context, domain_id=self._domain)
        self._node = rclpy.create_node(  # without what would announce it more than once a process
            self._name,
            context=self._context,
            use_global_arguments=False,
            enable_rosout=False,
            start_parameter_services=False,
        )
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self._node)
        self._timer = self._node.create_timer(_LOOK_PERIOD_S, self._look_for_topics)
        self._thread = threading.Thread(target=self._spin, name=self._name, daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if not self._is_shared:
            self._context.try_shutdown()
        end_spinning(self._thread, self._executor, self._node)

    @abstractmethod
    def listen(self, topic: str, kind: str) -> tuple[Any, Any, QoSProfile]:
        """Message class, callback and quality of service for a topic that was found."""

    def wants(self, kind: str) -> bool:
        """Whether topics of this type are listened to now; asked at each look."""
        return True

    def subscribe(self, topic: str, kind: str) -> Any:
        """Subscribe to a topic that was found."""
        message_type, take, quality = self.listen(topic, kind)
        return self._node.create_subscription(message_type, topic, take, quality)

    def look_at_once(self, period_s: float = _LOOK_PERIOD_S) -> None:
        """Look for topics now, and then at this period. Any thread."""
        self._timer.timer_period_ns = int(period_s * 1e9)
        self._executor.create_task(self._look_for_topics)

    def _spin(self) -> None:
        spin(self._executor, failed=self._failed, tolerates=Exception, for_ever=True)

    def _failed(self, error: BaseException) -> None:
        """One message, or one look at the graph: what comes later must still be heard."""
        if text := self._say(type(error).__name__, f"{self._name}: {in_words(error)}"):
            _log.error("%s", text)

    def _look_for_topics(self) -> None:
        for topic, (kind, subscription) in list(self._subscriptions.items()):
            if not self.wants(kind):
                del self._subscriptions[topic]
                self._node.destroy_subscription(subscription)
        for topic, types in self._node.get_topic_names_and_types():
            found = next((name for name in types if name in self._kinds), None)
            if found is not None and topic not in self._subscriptions and self.wants(found):
                self._subscriptions[topic] = (found, self.subscribe(topic, found))
