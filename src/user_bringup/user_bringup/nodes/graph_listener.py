"""Listens to topics by their type, wherever they are in the graph."""

from __future__ import annotations

import contextlib
import threading
from abc import ABC, abstractmethod
from collections.abc import Collection
from types import TracebackType
from typing import Any, TypeVar

import rclpy
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.qos import QoSProfile

from user_comm.start import end_spinning, start_rclpy

_LOOK_PERIOD_S = 0.5
_Listener = TypeVar("_Listener", bound="GraphListener")


class GraphListener(ABC):
    """Subscribes to every topic of certain types, in a thread of its own. A context manager.

    Robots in any namespace are heard, also those that come later.

    Args:
        name: Of the node.
        kinds: Types to listen to, like ``user_msgs/msg/ActorStatus``.
        domain: The ROS domain; None: that of the environment.
    """

    def __init__(self, name: str, kinds: Collection[str], domain: int | None = None) -> None:
        self._name, self._kinds, self._domain = name, kinds, domain
        self._context = rclpy.Context()
        self._topics: set[str] = set()

    def __enter__(self: _Listener) -> _Listener:
        start_rclpy([], context=self._context, domain_id=self._domain)
        self._node = rclpy.create_node(  # without what would announce it more than once a process
            self._name, context=self._context, enable_rosout=False, start_parameter_services=False
        )
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self._node)
        self._node.create_timer(_LOOK_PERIOD_S, self._look_for_topics)
        self._thread = threading.Thread(target=self._spin, name=self._name, daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._context.try_shutdown()
        end_spinning(self._thread, self._executor, self._node)

    @abstractmethod
    def listen(self, topic: str, kind: str) -> tuple[Any, Any, QoSProfile]:
        """Message class, callback and quality of service for a topic that was found."""

    def _spin(self) -> None:
        with contextlib.suppress(ExternalShutdownException):
            self._executor.spin()

    def _look_for_topics(self) -> None:
        for topic, types in self._node.get_topic_names_and_types():
            kind = next((name for name in types if name in self._kinds), None)
            if kind is not None and topic not in self._topics:
                self._topics.add(topic)
                message_type, take, quality = self.listen(topic, kind)
                self._node.create_subscription(message_type, topic, take, quality)
