"""Topics without rclpy: what a driver that lives on ROS topics needs of its surroundings.

A driver stays plain Python: it is given a :class:`TopicIo` by ``attach(io)`` before
``connect()``, by the HAL node or the command line (both hand it
``user_comm.topic_io.RosTopicIo``), or by a test (which hands it a bus in its own process).
Messages are duck-typed: whatever has the fields of the named interface.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, runtime_checkable

#: How a subscription asks for delivery. ``best_effort`` is heard from every publisher, which is
#: why it is the default: sensors often publish so, and a reliable reader would hear nothing of
#: them. ``match``: reliable where every publisher that is there now offers it.
Reliability = Literal["best_effort", "reliable", "match"]


class TopicSubscription(Protocol):
    """A subscription that is alive until it is closed."""

    @property
    def topic(self) -> str:
        """Full name of the topic, as the graph knows it."""

    def close(self) -> None:
        """End it; no callback starts after this. Idempotent."""

    @property
    def publishers(self) -> int:
        """How many publishers are matched now; 0 tells a silent topic from a missing one."""

    @property
    def publisher_nodes(self) -> Sequence[str]:
        """Full names of the nodes that publish the topic, one for each publisher."""

    # Where the middleware tells publishers apart there are also ``writer``, the number of the
    # publisher of the message that is being handed over, and ``writers()``, the numbers of those
    # that the graph knows, each with the name of its node.


class TopicPublisher(Protocol):
    """A publisher of one topic."""

    @property
    def topic(self) -> str:
        """Full name of the topic, as the graph knows it."""

    def new(self) -> Any:
        """A new message of the topic's type with default values."""

    def publish(self, message: Any) -> None:
        """Send a message. Returns without waiting for anybody to receive it."""

    @property
    def subscribers(self) -> int:
        """How many subscriptions are matched now; 0 means that there is no subscriber."""

    def close(self) -> None:
        """End it. Idempotent."""


class GoalPublisher(TopicPublisher, Protocol):
    """Sends goals of an action."""

    @property
    def accepted(self) -> bool | None:
        """Whether the server took the newest goal; None while it has not answered."""

    @property
    def rejected(self) -> bool:
        """Whether the newest goal that was answered was rejected."""

    @property
    def failure(self) -> Any:
        """The result of the goal that was aborted last; None since one has ended otherwise. Goals
        that others replaced do not count."""

    def publish_or_cancel(self, message: Any) -> None:
        """Send a goal that holds the robot; should it be rejected, cancel the goal before it."""


class Endpoint(Protocol):
    """A publisher or subscription that the graph knows, of whichever node.

    Attributes:
        node: Full name of its node.
        type_name: What it carries, ``package/msg/Name``.
        reliability: ``reliable``, ``best_effort``, or ``unknown``.
        durability: ``transient_local``, ``volatile``, or ``unknown``.
        deadline_s: Longest time between two messages that is offered or asked for; 0: none.
        liveliness: ``automatic``, ``manual_by_topic``, or ``unknown``.
    """

    @property
    def node(self) -> str: ...  # noqa: D102
    @property
    def type_name(self) -> str: ...  # noqa: D102
    @property
    def reliability(self) -> str: ...  # noqa: D102
    @property
    def durability(self) -> str: ...  # noqa: D102
    @property
    def deadline_s(self) -> float: ...  # noqa: D102
    @property
    def liveliness(self) -> str: ...  # noqa: D102


def incompatible(publisher: Endpoint, subscription: Endpoint) -> str:
    """The quality of service because of which a subscription hears nothing of a publisher, by the
    name of the policy; empty if they fit."""
    if publisher.type_name != subscription.type_name:
        return f"type: {publisher.type_name} offered, {subscription.type_name} asked for"
    if (publisher.reliability, subscription.reliability) == ("best_effort", "reliable"):
        return "reliability: best_effort offered, reliable asked for"
    if (publisher.durability, subscription.durability) == ("volatile", "transient_local"):
        return "durability: volatile offered, transient_local asked for"
    offered, asked = publisher.deadline_s, subscription.deadline_s
    if asked and (not offered or offered > asked):
        return f"deadline: {f'{offered:g} s' if offered else 'none'} offered, {asked:g} s asked for"
    if (publisher.liveliness, subscription.liveliness) == ("automatic", "manual_by_topic"):
        return "liveliness: automatic offered, manual_by_topic asked for"
    return ""


@dataclass(frozen=True)
class Ours:
    """What this program offers or asks for; see :class:`Endpoint`."""

    type_name: str
    reliability: str = "reliable"
    durability: str = "volatile"
    node: str = "user"
    deadline_s: float = 0.0
    liveliness: str = "automatic"


def misfits(io: TopicIo, topic: str, ours: Ours, *, publishes: bool) -> list[str]:
    """Nodes at the other end of a topic that this program does not get through to, each with the
    policy of the quality of service that is in the way.

    Args:
        io: Knows the graph.
        topic: Its name.
        ours: What this program offers (or asks for).
        publishes: Whether it publishes; else it subscribes.
    """
    publishers, subscriptions = io.endpoints(topic)
    pairs = [
        (end.node, incompatible(ours, end) if publishes else incompatible(end, ours))
        for end in (subscriptions if publishes else publishers)
    ]
    return [f"{node}: {why}" for node, why in pairs if why]


class TopicIo(Protocol):
    """Subscribe, publish, call: the part of ROS 2 that a driver may see.

    Type names are written as ROS writes them, ``sensor_msgs/msg/JointState``; the short form
    ``sensor_msgs/JointState`` is taken too. Relative topic names are resolved in the
    namespace of the node behind it. All methods may be called from any thread; callbacks come
    from a thread of the implementation, must be short, and whatever they raise is logged there.
    """

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
        """Call ``callback`` with every message of a topic.

        Args:
            topic: Name of the topic; need not exist yet.
            type_name: Its interface.
            callback: Takes one message (serialised bytes when ``raw``).
            depth: How many messages are kept while the callback is busy; the oldest go first.
            reliability: How delivery is asked for.
            latched: Ask for the last message of a transient-local publisher, too.
            raw: Hand over the serialised bytes and do not build a message.

        Raises:
            TransportError: No such interface is installed, or the name is not a topic name.
        """

    def publisher(
        self,
        topic: str,
        type_name: str,
        *,
        depth: int = 1,
        reliable: bool = True,
        latched: bool = False,
    ) -> TopicPublisher:
        """A publisher; reliable by default, which every subscription can hear.

        Raises:
            TransportError: No such interface is installed, or the name is not a topic name.
        """

    def goals(self, action: str, type_name: str) -> GoalPublisher:
        """Goals of a ROS action, as if they were a topic: the newest goal replaces the ones
        before, ``subscribers`` is 1 while a server is there, and results are not waited for.
        A goal that the server rejects is logged, and ``accepted`` says so.

        Raises:
            TransportError: No such interface is installed.
        """

    def call(self, service: str, type_name: str, request: Any, *, timeout_s: float) -> Any:
        """Call a service and wait for its answer; not to be used in a callback.

        Args:
            service: Its name.
            type_name: Its interface.
            request: Values of fields of the request; or a request, of :meth:`request_class`.
            timeout_s: Longest time to wait.

        Raises:
            DeviceTimeout: The service is not there, or did not answer, within ``timeout_s``.
            TransportError: No such interface is installed, or it has no such field.
        """

    def act(self, action: str, type_name: str, goal: Any, *, timeout_s: float) -> tuple[str, Any]:
        """Carry out a goal and wait for its end; not to be used in a callback.

        Args:
            action: Name of the action.
            type_name: Its interface.
            goal: A goal, of :meth:`request_class`.
            timeout_s: Longest time to wait; a goal that is not done by then is cancelled.

        Returns:
            How it ended (``succeeded``, ``aborted``, ``canceled``, ``rejected``), and its result
            (None if it was rejected).

        Raises:
            DeviceTimeout: There is no server, or the goal did not end, within ``timeout_s``.
            TransportError: No such interface is installed.
        """

    def request_class(self, type_name: str) -> type[Any]:
        """The class of the requests of a service type, or of the goals of an action type. Raises
        TransportError when it is not installed."""

    def message_class(self, type_name: str) -> type[Any]:
        """The class of a message type. Raises TransportError when it is not installed."""

    def topics(self) -> Mapping[str, Sequence[str]]:
        """Names of the topics that are in the graph now, each with its type names."""

    def service_types(self) -> Mapping[str, Sequence[str]]:
        """Names of the services that others offer now, each with its type names; an action NAME
        is there as ``NAME/_action/send_goal``, of type ``package/action/Name_SendGoal``."""

    def endpoints(self, topic: str) -> tuple[Sequence[Endpoint], Sequence[Endpoint]]:
        """Publishers and subscriptions of a topic, without those of this object's own node."""

    def now_ns(self) -> int:
        """Time of the clock that message headers are stamped with, nanoseconds."""


def arrival_clock_ns(io: object) -> int:
    """The monotonic clock by which the age of arrivals is told, nanoseconds: this process's, or, where
    messages are played from a recording, that of the recording (``io.monotonic_ns()``)."""
    own: Callable[[], int] = getattr(io, "monotonic_ns", time.monotonic_ns)
    return own()


@runtime_checkable
class UsesTopics(Protocol):
    """A robot, camera or teleop that needs topics; whoever builds it calls ``attach`` first."""

    def attach(self, io: TopicIo) -> None:
        """Take the topics to live on. Called once, before ``connect``."""


GET_STATE = "lifecycle_msgs/srv/GetState"


def lifecycle_nodes(io: TopicIo) -> list[str]:
    """Full names of the managed nodes in the graph, which publish only while they are active."""
    services = io.service_types().items()
    return sorted(name.rpartition("/")[0] for name, types in services if GET_STATE in types)


def managed_hint(io: TopicIo, publishers: Sequence[str]) -> str:
    """What to look at where a topic is silent, in case its node is not active; empty where no
    managed node is there.

    Args:
        io: Knows the graph.
        publishers: Full names of the nodes that publish the topic.
    """
    managed = lifecycle_nodes(io)
    if publishers:
        managed = [node for node in managed if node in publishers]
    if not managed:
        return ""
    shown = ", ".join(managed[:4]) + (" ..." if len(managed) > 4 else "")
    which = "is a managed node" if len(managed) == 1 else "are managed nodes"
    return f"{shown} {which}, silent unless active: ros2 lifecycle get {managed[0]}"


def wants_topics(device: object) -> bool:
    """Whether a device needs topics. One that holds others, such as a robot with cameras, has an
    attribute ``devices``, and needs them if one of those does."""
    if not isinstance(device, UsesTopics):
        return False
    inner = getattr(device, "devices", None)
    return True if inner is None else any(wants_topics(item) for item in inner)


def attach_topics(device: object, io: TopicIo) -> bool:
    """Give ``device`` its topics if it wants any; tell whether it did."""
    if isinstance(device, UsesTopics):
        device.attach(io)
        return True
    return False


def topics_read(device: object) -> tuple[str, ...]:
    """Names, as they are configured, of the topics that a device and those within it read; what
    the same process publishes must have other names, or the device would hear itself."""
    own = tuple(getattr(device, "topics_read", ()))
    return own + tuple(
        topic for inner in getattr(device, "devices", ()) for topic in topics_read(inner)
    )


def topics_commanded(device: object) -> tuple[str, ...]:
    """Names, as they are configured, of the topics by which a device and those within it are
    commanded; what else the same process publishes must have other names, or it would be obeyed."""
    own = tuple(getattr(device, "topics_commanded", ()))
    return own + tuple(
        topic for inner in getattr(device, "devices", ()) for topic in topics_commanded(inner)
    )
