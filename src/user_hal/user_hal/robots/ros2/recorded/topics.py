"""Recorded messages as topics: what a driver that reads topics needs, without anybody to answer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from user_core.errors import DeviceTimeout, TransportError
from user_hal.topic_io import Reliability


class RecordedSubscription:
    """A subscription to recorded messages."""

    publishers = 1
    publisher_nodes: Sequence[str] = ()

    def __init__(self, topics: RecordedTopics, topic: str, callback: Callable[[Any], None]) -> None:
        self._topics, self.topic, self.callback = topics, topic, callback

    def close(self) -> None:
        """End it. Idempotent."""
        self._topics.end(self)


class RecordedTopics:
    """Topics whose messages and clock are those of a recording (:class:`~user_hal.topic_io.TopicIo`).

    A subscription first gets the newest message that its topic has had, as if it were kept.

    Args:
        message_class: Finds the class of a type, made without arguments.
        types: Types by topic.
    """

    def __init__(self, message_class: Callable[[str], type[Any]], types: Mapping[str, str]) -> None:
        self._message_class, self._types = message_class, dict(types)
        self._subscriptions: dict[str, list[RecordedSubscription]] = {}
        self._newest: dict[str, Any] = {}
        self._now_ns = 0

    def put(self, topic: str, time_ns: int, message: Any) -> None:
        """A message comes; time passes."""
        if time_ns > self._now_ns:
            self._now_ns = time_ns
        self._newest[topic] = message
        if topic in self._subscriptions:
            for subscription in tuple(self._subscriptions[topic]):
                subscription.callback(message)

    def pass_to(self, time_ns: int) -> None:
        """Time passes."""
        self._now_ns = max(self._now_ns, time_ns)

    def subscribe(
        self,
        topic: str,
        type_name: str,
        callback: Callable[[Any], None],
        *,
        depth: int = 1,
        reliability: Reliability = "best_effort",
        latched: bool = False,
        raw: bool = False,
    ) -> RecordedSubscription:
        """Call ``callback`` with every message that is put."""
        subscription = RecordedSubscription(self, topic, callback)
        if self._types.get(topic) != _full(type_name):
            return subscription  # of another type, or not recorded: it stays silent
        self._subscriptions.setdefault(topic, []).append(subscription)
        if topic in self._newest:
            callback(self._newest[topic])
        return subscription

    def end(self, subscription: RecordedSubscription) -> None:
        """End a subscription. Idempotent."""
        known = self._subscriptions.get(subscription.topic, [])
        if subscription in known:
            known.remove(subscription)

    def publisher(self, topic: str, type_name: str, **_: Any) -> Any:
        """Nothing can be sent to a recording."""
        raise TransportError(f"publisher of {topic!r}", got="a recording", expected="a robot")

    def goals(self, action: str, type_name: str) -> Any:
        """Nothing can be sent to a recording."""
        raise TransportError(f"goals of {action!r}", got="a recording", expected="a robot")

    def call(self, service: str, type_name: str, request: Any, *, timeout_s: float) -> Any:
        """Nobody answers."""
        raise DeviceTimeout(f"service {service!r}", got="a recording", expected="a robot")

    def act(self, action: str, type_name: str, goal: Any, *, timeout_s: float) -> tuple[str, Any]:
        """Nobody answers."""
        raise DeviceTimeout(f"action {action!r}", got="a recording", expected="a robot")

    def request_class(self, type_name: str) -> type[Any]:
        """There is none."""
        raise TransportError(f"interface {type_name!r}", got="a recording", expected="a message")

    def message_class(self, type_name: str) -> type[Any]:
        """The class of a message type. Raises TransportError when it is not known."""
        return self._message_class(_full(type_name))

    def topics(self) -> Mapping[str, Sequence[str]]:
        """Names of the recorded topics, each with its type."""
        return {topic: (name,) for topic, name in self._types.items()}

    def service_types(self) -> Mapping[str, Sequence[str]]:
        """None."""
        return {}

    def endpoints(self, topic: str) -> tuple[Sequence[Any], Sequence[Any]]:
        """Nobody knows any more."""
        return (), ()

    def now_ns(self) -> int:
        """The time of the recording."""
        return self._now_ns

    monotonic_ns = now_ns


def _full(type_name: str) -> str:
    package, _, name = type_name.rpartition("/")
    return type_name if "/" in package else f"{package}/msg/{name}"
