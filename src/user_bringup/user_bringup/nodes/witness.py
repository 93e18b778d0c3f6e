"""Watches a run from outside, for the chaos runner."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any

import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from user_msgs.msg import LearnerStatus, Observation, PolicyVersion, TrajectoryAck, TrajectoryChunk

from user_bringup.chaos.evidence import Evidence
from user_comm.converters import CONVERTERS

_WORKING = (LearnerStatus.TRAINING, LearnerStatus.LIMITED)


class Witness:
    """Fills an :class:`Evidence` from the graph, in a thread of its own. A context manager.

    It listens with best effort, so that whoever is watched never waits for it.

    Args:
        evidence: Where to; may be shared by witnesses of several domains.
        domain: The ROS domain to watch.
    """

    def __init__(self, evidence: Evidence, domain: int) -> None:
        self.evidence, self._domain = evidence, domain
        self._context = rclpy.Context()
        self._topics: set[str] = set()
        self._kinds: dict[str, tuple[Any, Callable[[str, Any], None]]] = {
            "user_msgs/msg/Observation": (Observation, self._observation),
            "user_msgs/msg/TrajectoryAck": (TrajectoryAck, self._ack),
            "user_msgs/msg/TrajectoryChunk": (TrajectoryChunk, self._chunk),
            "user_msgs/msg/LearnerStatus": (LearnerStatus, self._learner),
            "user_msgs/msg/PolicyVersion": (PolicyVersion, self._policy),
            "diagnostic_msgs/msg/DiagnosticArray": (DiagnosticArray, self._diagnostics),
        }

    def __enter__(self) -> Witness:
        rclpy.init(context=self._context, args=[], domain_id=self._domain)
        self._node = rclpy.create_node("user_witness", context=self._context)
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self._node)
        self._node.create_timer(0.5, self._look_for_topics)
        self._thread = threading.Thread(target=self._spin, name="witness", daemon=True)
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
            name = next((name for name in types if name in self._kinds), None)
            if name is None or topic in self._topics:
                continue
            self._topics.add(topic)
            kind, take = self._kinds[name]
            quality = QoSProfile(depth=64, reliability=ReliabilityPolicy.BEST_EFFORT)
            if kind is PolicyVersion:
                quality = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)

            def heard(message: Any, topic: str = topic, take: Any = take) -> None:
                with self.evidence.lock:
                    take(topic, message)

            self._node.create_subscription(kind, topic, heard, quality)

    def _observation(self, topic: str, message: Any) -> None:
        namespace = topic.rpartition("/")[0] or "/"
        self.evidence.acted(namespace, message.applied_stamp_ns, time.monotonic())

    def _ack(self, topic: str, message: Any) -> None:
        key = (message.producer, message.incarnation)
        self.evidence.acknowledge(topic, key, message.sequence, time.monotonic())

    def _chunk(self, topic: str, message: Any) -> None:
        chunk = CONVERTERS["user_msgs/msg/TrajectoryChunk"].decode(message)
        name = (chunk.id.producer, chunk.id.incarnation, chunk.id.sequence)
        self.evidence.chunk(name, chunk.columns)

    def _learner(self, topic: str, message: Any) -> None:
        if message.state in _WORKING:
            self.evidence.trained_s[topic] = time.monotonic()

    def _policy(self, topic: str, message: Any) -> None:
        self.evidence.announced(message.number, message.content_hash)

    def _diagnostics(self, topic: str, message: Any) -> None:
        for status in message.status:
            node, _, item = status.name.partition(": ")
            if item == "lifecycle" and status.message.startswith("active"):
                self.evidence.active_s[node] = time.monotonic()
