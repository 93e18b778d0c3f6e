"""Listens to the status of everything that runs, wherever it is in the graph."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Any

import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.qos import QoSProfile, ReliabilityPolicy
from user_msgs.msg import (
    ActorStatus,
    EpisodeResult,
    LearnerStatus,
    ReplayStatus,
    SafetyStatus,
)

from user_bringup.monitor import SystemState

_KINDS: dict[str, Any] = {
    f"user_msgs/msg/{cls.__name__}": cls
    for cls in (ActorStatus, EpisodeResult, LearnerStatus, ReplayStatus, SafetyStatus)
} | {"diagnostic_msgs/msg/DiagnosticArray": DiagnosticArray}


class Monitor:
    """Fills a :class:`SystemState` from the graph, in a thread of its own.

    Topics are found by their type, so that robots in any namespace are seen, also those that
    come later. Use as a context manager; read the state under :attr:`lock`.

    Args:
        on_episode: Called with every ``EpisodeResult``, under the lock.
    """

    def __init__(self, on_episode: Callable[[Any], None] = lambda message: None) -> None:
        self.state = SystemState()
        self.lock = threading.Lock()
        self._on_episode = on_episode
        self._context = rclpy.Context()
        self._topics: set[str] = set()

    def __enter__(self) -> Monitor:
        rclpy.init(context=self._context, args=[])
        self._node = rclpy.create_node("user_monitor", context=self._context)
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self._node)
        self._node.create_timer(0.5, self._look_for_topics)
        self._thread = threading.Thread(target=self._spin, name="monitor", daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._context.try_shutdown()
        self._thread.join(5)
        self._executor.shutdown(0)
        self._node.destroy_node()

    def _spin(self) -> None:
        with contextlib.suppress(ExternalShutdownException):
            self._executor.spin()

    def _look_for_topics(self) -> None:
        for topic, types in self._node.get_topic_names_and_types():
            kind = next((_KINDS[name] for name in types if name in _KINDS), None)
            if kind is not None and topic not in self._topics:
                self._topics.add(topic)
                self._listen(topic, kind)

    def _listen(self, topic: str, kind: Any) -> None:
        # A status that is lost is followed by the next; an episode is told once.
        once = kind is EpisodeResult
        several = kind is DiagnosticArray  # all nodes share the topic
        quality = QoSProfile(
            depth=100 if once or several else 1,
            reliability=ReliabilityPolicy.RELIABLE if once else ReliabilityPolicy.BEST_EFFORT,
        )

        def take(message: Any) -> None:
            with self.lock:
                self.state.take(kind.__name__, topic, message)
                if once:
                    self._on_episode(message)

        self._node.create_subscription(kind, topic, take, quality)
