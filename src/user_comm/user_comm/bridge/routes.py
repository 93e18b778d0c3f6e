"""The two directions of a route, and what each has carried and refused."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import zenoh
from rclpy.node import Node
from zenoh import ext

from user_comm.bridge.config import Route
from user_comm.bridge.dispatcher import Dispatcher, RouteQueue
from user_comm.cdr import CdrLimits, read_cdr
from user_comm.diagnostics import Item, code_of
from user_comm.logs import Throttle
from user_comm.subscriptions import Refusals
from user_comm.topics import interface_class, profile
from user_core.errors import SuiteError

#: Codes under which messages are refused, beside those of errors.
OVERSIZED, LOOP, NAME, TOO_MANY = "oversized", "loop", "name", "too_many"


class RouteCounts:
    """The account of one route.

    Args:
        route: The route.
        say: Gets a line for people about refusals, at most one in five seconds for each kind.

    Attributes:
        bytes: Of all messages that were carried.
        repeated: Values that had come already, sent again for those who may have missed them.
    """

    def __init__(self, route: Route, say: Callable[[str], object]) -> None:
        self.route = route
        self.bytes = self.repeated = 0
        self.queue: RouteQueue | None = None
        self._refusals = Refusals(f"{route.key} {route.direction}")
        self._say, self._throttle = say, Throttle()

    @property
    def carried(self) -> int:
        """Messages that were carried."""
        return self._refusals.accepted

    @property
    def refused(self) -> dict[str, int]:
        """Messages that were refused, by code."""
        return dict(self._refusals.refused)

    def carry(self, size: int) -> None:
        """Count a message that was carried."""
        self.bytes += size
        self._refusals.accept()

    def refuse(self, code: str, why: str) -> None:
        """Count a message that was refused, and name it in the log."""
        self._refusals.refuse(code, why)
        text = f"{self.route.key} ({self.route.direction}): refused a message ({code}): {why}"
        if line := self._throttle(code, text):
            self._say(line)

    def item(self) -> Item:
        """The account, for /diagnostics."""
        item = self._refusals.item()
        queue = self.queue
        return replace(
            item,
            name=f"route {self._refusals.name}",
            values={
                "bytes": self.bytes,
                "repeated": self.repeated,
                "overrun": queue.overrun if queue else 0,
                "thinned": queue.thinned if queue else 0,
                **item.values,
            },
        )


#: Zenoh drops nothing by itself that a link of our class can take at once.
_WAITS = zenoh.CongestionControl.BLOCK
_DROPS = zenoh.CongestionControl.DROP


class Outbound:
    """Takes a topic's messages as they come and puts them on its key, in the dispatcher's thread.

    A latched topic keeps its last values for bridges that come later, and sends the last again
    now and then: a message on a congested link may be dropped without notice.

    Args:
        route: The route.
        dispatcher: Of the class of the link that it belongs to.
        say: For refusals.
    """

    def __init__(self, route: Route, dispatcher: Dispatcher, say: Callable[[str], object]) -> None:
        self.route, self._dispatcher = route, dispatcher
        self.counts = RouteCounts(route, say)
        priority = priority_of(route)
        self._queue = dispatcher.queue(
            self._put, priority_number(priority), route.depth, route.max_rate_hz
        )
        self.counts.queue = self._queue
        self._publisher: Any = None
        self._last: bytes | None = None

    def declare(self, session: zenoh.Session) -> None:
        """Publish to this session from now on."""
        route = self.route
        priority = priority_of(route)
        options: dict[str, Any] = {
            "congestion_control": _WAITS if route.waits else _DROPS,
            "priority": priority,
            "express": priority_number(priority) <= priority_number(zenoh.Priority.DATA_HIGH),
            "allowed_destination": zenoh.Locality.REMOTE,
        }
        if route.latched:
            self._publisher = ext.declare_advanced_publisher(
                session,
                route.key,
                cache=ext.CacheConfig(max_samples=route.depth),
                publisher_detection=True,
                **options,
            )
        else:
            self._publisher = session.declare_publisher(route.key, **options)
        self.refresh()

    def take(self, data: bytes) -> None:
        """A message has come from ROS."""
        if len(data) > self.route.max_bytes:
            self.counts.refuse(
                OVERSIZED, f"{len(data)} bytes, at most {self.route.max_bytes} are carried"
            )
            return
        self._dispatcher.offer(self._queue, data)

    def refresh(self) -> None:
        """Send the last value again, if the topic is one that is kept."""
        if self.route.latched and self._last is not None and not self._queue.items:
            self.counts.repeated += 1
            self._dispatcher.offer(self._queue, self._last)

    def _put(self, data: bytes) -> None:
        publisher = self._publisher
        self._last = data if self.route.latched else None
        if publisher is None:
            return
        try:
            publisher.put(data)
        except zenoh.ZError as error:  # the session is closed; it is opened anew
            self.counts.refuse("transport", str(error).partition(" at ")[0])
        else:
            self.counts.carry(len(data))


def priority_of(route: Route) -> zenoh.Priority:
    """Zenoh's priority of a route."""
    priority: zenoh.Priority = getattr(zenoh.Priority, route.priority.upper())
    return priority


def priority_number(priority: zenoh.Priority) -> int:
    """1, real time, to 7, background."""
    order = (
        zenoh.Priority.REAL_TIME, zenoh.Priority.INTERACTIVE_HIGH, zenoh.Priority.INTERACTIVE_LOW,
        zenoh.Priority.DATA_HIGH, zenoh.Priority.DATA, zenoh.Priority.DATA_LOW,
        zenoh.Priority.BACKGROUND,
    )  # fmt: skip
    return order.index(priority) + 1


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
        # One queue for all robots, each with its share of it.
        depth = route.depth * (8 if "*" in route.key else 1)
        self._queue = dispatcher.queue(
            self._publish, priority_number(priority_of(route)), depth, route.max_rate_hz
        )
        self.counts.queue = self._queue
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
        self._dispatcher.offer(self._queue, (str(sample.key_expr), sample.payload.to_bytes()))

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
