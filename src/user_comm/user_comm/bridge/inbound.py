"""A route from Zenoh to ROS."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from typing import Any

import zenoh
from rclpy.node import Node
from zenoh import ext

from user_comm.bridge.config import Route
from user_comm.bridge.counts import LOOP, NAME, OVERSIZED, TOO_MANY, RouteCounts
from user_comm.bridge.dispatcher import Dispatcher
from user_comm.bridge.outbound import priority_number, priority_of
from user_comm.cdr import CdrLimits, read_cdr
from user_comm.diagnostics import code_of
from user_comm.message_types import interface_class
from user_comm.ros_qos import profile
from user_core.errors import SuiteError

_ROS_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


class Inbound:
    """Hands a key's messages over from Zenoh's thread at once, and publishes them from another.

    A message whose bytes are no message of the type is refused here, for the local nodes may be
    anybody's: some middlewares end a process over four wrong bytes.

    Args:
        route: The route.
        node: Publishes.
        dispatcher: In whose thread messages are published.
        carried_out: Topics that another bridge carries out of this ROS graph.
        max_robots: Most topics that a * is filled with.
        say: For refusals.
    """

    def __init__(
        self,
        route: Route,
        node: Node,
        dispatcher: Dispatcher,
        carried_out: Callable[[], frozenset[str]],
        max_robots: int,
        say: Callable[[str], object],
    ) -> None:
        self.route, self._node, self._dispatcher = route, node, dispatcher
        self._carried_out, self._max_robots = carried_out, max_robots
        self.counts = RouteCounts(route, say)
        self._type = interface_class(route.type)
        self._limits = CdrLimits(message_bytes=route.max_bytes)
        self._profile = profile(route.quality)
        # One lane for all robots: each may use its share of the queue.
        depth = route.depth * (8 if "*" in route.key else 1)
        self._lane = dispatcher.lane(
            self._publish, priority_number(priority_of(route)), depth, route.max_rate_hz
        )
        self.counts.lane = self._lane
        self._publishers: dict[str, Any] = {}
        self._last: dict[str, bytes] = {}
        if "*" not in route.topic:
            self._publisher(route.topic)  # a late joiner finds it there

    def declare(self, session: zenoh.Session) -> None:
        """Subscribe in this session; ends with the session."""
        callback = zenoh.handlers.Callback(self._take, None, indirect=False)
        if self.route.latched:
            self._subscriber: Any = ext.declare_advanced_subscriber(
                session,
                self.route.key,
                callback,
                allowed_origin=zenoh.Locality.REMOTE,
                history=ext.HistoryConfig(
                    detect_late_publishers=True, max_samples=self.route.depth
                ),
            )
        else:
            self._subscriber = session.declare_subscriber(
                self.route.key, callback, allowed_origin=zenoh.Locality.REMOTE
            )

    def close(self) -> None:
        """End the publishers; after the dispatcher and the session."""
        for publisher in self._publishers.values():
            self._node.destroy_publisher(publisher)
        self._publishers.clear()

    def _take(self, sample: zenoh.Sample) -> None:
        """In Zenoh's thread: a queue of 256 behind it blocks the whole session when it is full."""
        if sample.kind != zenoh.SampleKind.PUT:
            return
        size = len(sample.payload)
        if size > self.route.max_bytes:
            self.counts.refuse(
                OVERSIZED,
                f"{size} bytes on {sample.key_expr}, at most {self.route.max_bytes} are carried",
            )
            return
        self._dispatcher.offer(self._lane, (str(sample.key_expr), sample.payload.to_bytes()))

    def _publish(self, item: tuple[str, bytes]) -> None:
        key, data = item
        try:
            topic = self._topic(key)
            if topic is None or self._is_known(key, data):
                return
            read_cdr(data, self._type, self._limits)
            publisher = self._publisher(topic)
            if publisher is not None:
                publisher.publish(data)
                self.counts.carry(len(data))
                if self.route.latched:
                    self._last[key] = _digest(data)
        except SuiteError as error:
            self.counts.refuse(code_of(error), f"{key}: {error}")
        except Exception as error:  # of the middleware
            self.counts.refuse("transport", f"{key}: {type(error).__name__}: {error}")

    def _topic(self, key: str) -> str | None:
        topic = self.route.topic
        if "*" in topic:
            robot = key.partition("/")[0]
            if not _ROS_NAME.fullmatch(robot):
                self.counts.refuse(NAME, f"{key}: {robot!r} is no name in ROS")
                return None
            topic = topic.replace("*", robot)
        if topic in self._carried_out():
            self.counts.refuse(LOOP, f"{key}: another bridge of this ROS graph carries {topic} out")
            return None
        return topic

    def _is_known(self, key: str, data: bytes) -> bool:
        """Whether a kept value has only been sent again."""
        if self.route.latched and self._last.get(key) == _digest(data):
            self.counts.repeated += 1
            return True
        return False

    def _publisher(self, topic: str) -> Any:
        publisher = self._publishers.get(topic)
        if publisher is None:
            if len(self._publishers) >= self._max_robots:
                self.counts.refuse(TOO_MANY, f"{topic}: {self._max_robots} robots are there")
                return None
            publisher = self._node.create_publisher(self._type, topic, self._profile)
            self._publishers[topic] = publisher
        return publisher


def _digest(data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=16).digest()
