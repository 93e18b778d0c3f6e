"""Listens to the status of everything that runs, wherever it is in the graph."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray
from rclpy.qos import QoSProfile, ReliabilityPolicy
from user_msgs.msg import (
    ActorStatus,
    EpisodeResult,
    LearnerStatus,
    ReplayStatus,
    SafetyStatus,
)

from user_bringup.monitor import SystemState
from user_bringup.nodes.graph_listener import GraphListener

_KINDS: dict[str, Any] = {
    f"user_msgs/msg/{cls.__name__}": cls
    for cls in (ActorStatus, EpisodeResult, LearnerStatus, ReplayStatus, SafetyStatus)
} | {"diagnostic_msgs/msg/DiagnosticArray": DiagnosticArray}


class Monitor(GraphListener):
    """Fills a :class:`SystemState` from the graph; read it under :attr:`lock`.

    Args:
        on_episode: Called with every ``EpisodeResult``, under the lock.
    """

    def __init__(self, on_episode: Callable[[Any], None] = lambda message: None) -> None:
        super().__init__("user_monitor", _KINDS)
        self.state = SystemState()
        self.lock = threading.Lock()
        self._on_episode = on_episode

    def listen(self, topic: str, kind: str) -> tuple[Any, Any, QoSProfile]:
        """A status that is lost is followed by the next; an episode is told once."""
        cls = _KINDS[kind]
        once = cls is EpisodeResult
        several = cls is DiagnosticArray  # all nodes share the topic
        quality = QoSProfile(
            depth=100 if once or several else 1,
            reliability=ReliabilityPolicy.RELIABLE if once else ReliabilityPolicy.BEST_EFFORT,
        )

        def take(message: Any) -> None:
            with self.lock:
                self.state.take(cls.__name__, topic, message)
                if once:
                    self._on_episode(message)

        return cls, take, quality
