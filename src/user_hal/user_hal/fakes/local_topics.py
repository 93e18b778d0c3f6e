"""A TopicIo within one process: what is published is received at once, in the same thread."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from user_core.errors import DeviceTimeout, TransportError
from user_hal.fakes.messages import ACTIONS, MESSAGES
from user_hal.topic_io import Reliability

Callback = Callable[[Any], None]


class LocalTopics:
    """Topics, actions and services for tests and examples without ROS.

    Args:
        now_ns: Clock of :meth:`now_ns`.

    Attributes:
        services: Name to a function from the request's fields to the answer.
    """

    def __init__(self, now_ns: Callable[[], int] = time.time_ns) -> None:
        self._now_ns = now_ns
        self._subscriptions: list[LocalSubscription] = []
        self._publishers: list[LocalPublisher] = []
        self.services: dict[str, Callable[[Mapping[str, Any]], Any]] = {}

    def subscribe(
        self,
        topic: str,
        type_name: str,
        callback: Callback,
        *,
        depth: int = 1,
        reliability: Reliability = "best_effort",
        latched: bool = False,
        raw: bool = False,
    ) -> LocalSubscription:
        """Call ``callback`` with every message; qualities of service mean nothing here."""
        self.message_class(type_name)
        subscription = LocalSubscription(self, topic, _full(type_name), callback)
        self._subscriptions.append(subscription)
        return subscription

    def publisher(
        self,
        topic: str,
        type_name: str,
        *,
        depth: int = 1,
        reliable: bool = True,
        latched: bool = False,
    ) -> LocalPublisher:
        """A publisher of one topic."""
        publisher = LocalPublisher(self, topic, _full(type_name), self.message_class(type_name))
        self._publishers.append(publisher)
        return publisher

    def goals(self, action: str, type_name: str) -> LocalPublisher:
        """Goals arrive at :meth:`serve` of the same name."""
        if type_name not in ACTIONS:
            raise TransportError(f"action {type_name!r}", expected=f"one of {sorted(ACTIONS)}")
        publisher = LocalPublisher(self, action, type_name, ACTIONS[type_name])
        self._publishers.append(publisher)
        return publisher

    def serve(self, action: str, type_name: str, callback: Callback) -> LocalSubscription:
        """Take the goals of an action."""
        subscription = LocalSubscription(self, action, type_name, callback)
        self._subscriptions.append(subscription)
        return subscription

    def call(
        self, service: str, type_name: str, request: Mapping[str, Any], *, timeout_s: float
    ) -> Any:
        """Call a function of :attr:`services`."""
        if service not in self.services:
            raise DeviceTimeout(f"service {service!r}", got=f"no server within {timeout_s} s")
        return self.services[service](request)

    def message_class(self, type_name: str) -> type[Any]:
        """One of :data:`user_hal.fakes.messages.MESSAGES`."""
        try:
            return MESSAGES[_full(type_name)]
        except KeyError:
            raise TransportError(
                f"interface {type_name!r}", expected=f"one of {sorted(MESSAGES)}"
            ) from None

    def topics(self) -> dict[str, Sequence[str]]:
        """Everything that is published or subscribed to."""
        found: dict[str, set[str]] = {}
        ends: list[LocalSubscription | LocalPublisher] = [*self._subscriptions, *self._publishers]
        for end in ends:
            if end.type_name not in ACTIONS:
                found.setdefault(end.topic, set()).add(end.type_name)
        return {topic: sorted(types) for topic, types in found.items()}

    def now_ns(self) -> int:
        """The clock."""
        return self._now_ns()

    def publishers_of(self, topic: str, type_name: str) -> list[LocalPublisher]:
        """Those that a subscription would hear."""
        return [p for p in self._publishers if (p.topic, p.type_name) == (topic, type_name)]

    def subscriptions_of(self, topic: str, type_name: str) -> list[LocalSubscription]:
        """Those that would hear a publisher."""
        return [s for s in self._subscriptions if (s.topic, s.type_name) == (topic, type_name)]

    def remove(self, end: LocalSubscription | LocalPublisher) -> None:
        """Forget a closed end."""
        for ends in (self._subscriptions, self._publishers):
            if end in ends:
                ends.remove(end)  # type: ignore[arg-type]


@dataclass(eq=False)
class LocalSubscription:
    """A subscription of :class:`LocalTopics`."""

    io: LocalTopics
    topic: str
    type_name: str
    callback: Callback

    @property
    def publishers(self) -> int:
        """How many publish what it would hear."""
        return len(self.io.publishers_of(self.topic, self.type_name))

    def close(self) -> None:
        """End it."""
        self.io.remove(self)


@dataclass(eq=False)
class LocalPublisher:
    """A publisher of :class:`LocalTopics`."""

    io: LocalTopics
    topic: str
    type_name: str
    cls: type[Any]
    closed: bool = False

    @property
    def subscribers(self) -> int:
        """How many hear it."""
        return len(self.io.subscriptions_of(self.topic, self.type_name))

    def new(self) -> Any:
        """A new message with default values."""
        return self.cls()

    def publish(self, message: Any) -> None:
        """Call every subscription's callback."""
        if self.closed:
            raise TransportError(f"cannot publish on {self.topic!r}", got="closed")
        for subscription in self.io.subscriptions_of(self.topic, self.type_name):
            subscription.callback(message)

    def close(self) -> None:
        """End it."""
        self.closed = True
        self.io.remove(self)


def _full(type_name: str) -> str:
    package, _, rest = type_name.partition("/")
    return f"{package}/msg/{rest.rpartition('/')[2]}"
