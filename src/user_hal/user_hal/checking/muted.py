"""Topics of which one only hears: what is published, sent or called goes nowhere."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from user_core.errors import SafetyError
from user_hal.topic_io import (
    Endpoint,
    GoalPublisher,
    Reliability,
    TopicIo,
    TopicPublisher,
    TopicSubscription,
)


class MutedTopics:
    """A :class:`~user_hal.topic_io.TopicIo` around another one.

    A driver may connect, read and close with it, as often as it likes, and its robot is not
    commanded: not even to hold where it is. Everything that sends is written out here, so that what a
    ``TopicIo`` learns later is missing, and not let through.

    Args:
        io: The topics.
        questions: Services that only tell something, whatever their types are called.

    Attributes:
        muted: Whether nothing is sent; may be changed at any time.
    """

    def __init__(self, io: TopicIo, *, muted: bool = True, questions: Collection[str] = ()) -> None:
        self._io, self._questions = io, frozenset(questions)
        self.muted = muted

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
    ) -> TopicSubscription:
        """As of the topics."""
        return self._io.subscribe(
            topic, type_name, callback, depth=depth, reliability=reliability, latched=latched, raw=raw
        )  # fmt: skip

    def publisher(
        self,
        topic: str,
        type_name: str,
        *,
        depth: int = 1,
        reliable: bool = True,
        latched: bool = False,
    ) -> TopicPublisher:
        """A publisher that is there, and silent while muted."""
        inner = self._io.publisher(
            topic, type_name, depth=depth, reliable=reliable, latched=latched
        )
        return _MutedPublisher(inner, self)

    def goals(self, action: str, type_name: str) -> GoalPublisher:
        """Goals that are not sent while muted."""
        return _MutedGoals(self._io.goals(action, type_name), self)

    def call(self, service: str, type_name: str, request: Any, *, timeout_s: float) -> Any:
        """Call a service; while muted only those that tell what there is.

        Raises:
            SafetyError: It is muted.
        """
        tells = type_name.rpartition("/")[2].startswith(("List", "Get"))
        if self.muted and not tells and service not in self._questions:
            raise SafetyError(f"service {service!r}", got="a call while nothing is to be moved")
        return self._io.call(service, type_name, request, timeout_s=timeout_s)

    def act(self, action: str, type_name: str, goal: Any, *, timeout_s: float) -> tuple[str, Any]:
        """Carry out a goal. Raises SafetyError while muted."""
        if self.muted:
            raise SafetyError(f"action {action!r}", got="a goal while nothing is to be moved")
        return self._io.act(action, type_name, goal, timeout_s=timeout_s)

    def request_class(self, type_name: str) -> type[Any]:
        """As of the topics."""
        return self._io.request_class(type_name)

    def message_class(self, type_name: str) -> type[Any]:
        """As of the topics."""
        return self._io.message_class(type_name)

    def topics(self) -> Mapping[str, Sequence[str]]:
        """As of the topics."""
        return self._io.topics()

    def service_types(self) -> Mapping[str, Sequence[str]]:
        """As of the topics."""
        return self._io.service_types()

    def endpoints(self, topic: str) -> tuple[Sequence[Endpoint], Sequence[Endpoint]]:
        """As of the topics."""
        return self._io.endpoints(topic)

    def now_ns(self) -> int:
        """As of the topics."""
        return self._io.now_ns()


class _MutedPublisher:
    def __init__(self, inner: TopicPublisher, topics: MutedTopics) -> None:
        self._inner, self._topics = inner, topics

    def publish(self, message: Any) -> None:
        if not self._topics.muted:
            self._inner.publish(message)

    @property
    def topic(self) -> str:
        return self._inner.topic

    @property
    def subscribers(self) -> int:
        return self._inner.subscribers

    def new(self) -> Any:
        return self._inner.new()

    def close(self) -> None:
        self._inner.close()


class _MutedGoals(_MutedPublisher):
    _inner: GoalPublisher

    def publish_or_cancel(self, message: Any) -> None:
        if not self._topics.muted:
            self._inner.publish_or_cancel(message)

    @property
    def accepted(self) -> bool | None:
        return self._inner.accepted

    @property
    def rejected(self) -> bool:
        return self._inner.rejected

    @property
    def failure(self) -> Any:
        return self._inner.failure
