"""A route from ROS to Zenoh."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import zenoh
from zenoh import ext

from user_comm.bridge.config import Route
from user_comm.bridge.counts import OVERSIZED, RouteCounts
from user_comm.bridge.dispatcher import Dispatcher

#: Zenoh drops nothing by itself that a link of our class can take at once.
_WAITS = zenoh.CongestionControl.BLOCK
_DROPS = zenoh.CongestionControl.DROP


class Outbound:
    """Takes a topic's messages as they come and puts them on its key, in the dispatcher's thread.

    A latched topic keeps its last values for bridges that come later, and sends the last again
    now and then: what is put on a congested link may be dropped, and nobody is told.

    Args:
        route: The route.
        dispatcher: Of the class of the link that it belongs to.
        say: For refusals.
    """

    def __init__(self, route: Route, dispatcher: Dispatcher, say: Callable[[str], object]) -> None:
        self.route, self._dispatcher = route, dispatcher
        self.counts = RouteCounts(route, say)
        priority = priority_of(route)
        self._lane = dispatcher.lane(
            self._put, priority_number(priority), route.depth, route.max_rate_hz
        )
        self.counts.lane = self._lane
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
        self._dispatcher.offer(self._lane, data)

    def refresh(self) -> None:
        """Send the last value again, if the topic is one that is kept."""
        if self.route.latched and self._last is not None and not self._lane.items:
            self.counts.repeated += 1
            self._dispatcher.offer(self._lane, self._last)

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
