"""Watches a run from outside, for the chaos runner."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from user_msgs.msg import LearnerStatus, Observation, PolicyVersion, TrajectoryAck, TrajectoryChunk

from user_bringup.chaos.evidence import Evidence
from user_bringup.nodes.graph_listener import GraphListener
from user_comm.converters import CONVERTERS

_WORKING = (LearnerStatus.TRAINING, LearnerStatus.LIMITED)


class GraphRecorder(GraphListener):
    """Fills an :class:`Evidence` from the graph.

    Args:
        evidence: Where to; may be shared by the recorders of several domains.
        domain: The ROS domain to watch.
    """

    def __init__(self, evidence: Evidence, domain: int) -> None:
        self.evidence, self._where = evidence, domain
        self._takers: dict[str, tuple[Any, Callable[[str, Any], None]]] = {
            "user_msgs/msg/Observation": (Observation, self._observation),
            "user_msgs/msg/TrajectoryAck": (TrajectoryAck, self._ack),
            "user_msgs/msg/TrajectoryChunk": (TrajectoryChunk, self._chunk),
            "user_msgs/msg/LearnerStatus": (LearnerStatus, self._learner),
            "user_msgs/msg/PolicyVersion": (PolicyVersion, self._policy),
            "diagnostic_msgs/msg/DiagnosticArray": (DiagnosticArray, self._diagnostics),
        }
        super().__init__("user_graph_recorder", self._takers, domain)

    def listen(self, topic: str, kind: str) -> tuple[Any, Any, QoSProfile]:
        """With best effort, so that what is watched never waits for it."""
        cls, take = self._takers[kind]
        quality = QoSProfile(depth=64, reliability=ReliabilityPolicy.BEST_EFFORT)
        if cls is PolicyVersion:
            quality = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)

        def heard(message: Any) -> None:
            with self.evidence.lock:
                take(topic, message)

        return cls, heard, quality

    def _observation(self, topic: str, message: Any) -> None:
        namespace = topic.rpartition("/")[0] or "/"
        self.evidence.acted(namespace, message.applied_stamp_ns, time.monotonic())

    def _ack(self, topic: str, message: Any) -> None:
        key = (message.producer, message.incarnation)
        self.evidence.acknowledge(key, message.sequence, time.monotonic())

    def _chunk(self, topic: str, message: Any) -> None:
        chunk = CONVERTERS["user_msgs/msg/TrajectoryChunk"].decode(message)
        name = (chunk.id.producer, chunk.id.incarnation, chunk.id.sequence)
        self.evidence.chunk(name, chunk.columns)

    def _learner(self, topic: str, message: Any) -> None:
        if message.state in _WORKING:
            self.evidence.trained_s[topic] = time.monotonic()

    def _policy(self, topic: str, message: Any) -> None:
        self.evidence.announced(message.number, message.content_hash, self._where)

    def _diagnostics(self, topic: str, message: Any) -> None:
        for status in message.status:
            node, _, item = status.name.partition(": ")
            if item == "lifecycle" and status.message.startswith("active"):
                self.evidence.active_s[node] = time.monotonic()
