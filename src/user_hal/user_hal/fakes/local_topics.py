"""Topics within one process, without ROS: what is published is received at once.

The messages are plain classes with the fields of the ROS messages that drivers meet: the same
attribute names, defaults and nesting as the classes that rosidl makes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from user_core.errors import DeviceTimeout, TransportError
from user_hal.topic_io import Reliability


@dataclass
class Time:
    """builtin_interfaces/msg/Time and Duration."""

    sec: int = 0
    nanosec: int = 0


@dataclass
class Header:
    """std_msgs/msg/Header."""

    stamp: Time = field(default_factory=Time)
    frame_id: str = ""


@dataclass
class Vector3:
    """geometry_msgs/msg/Vector3 and Point."""

    x: float = 0.0
    y: float = 0.0
    z: float = 0.0


@dataclass
class Quaternion:
    """geometry_msgs/msg/Quaternion."""

    x: float = 0.0
    y: float = 0.0
    z: float = 0.0
    w: float = 1.0


@dataclass
class Pose:
    """geometry_msgs/msg/Pose."""

    position: Vector3 = field(default_factory=Vector3)
    orientation: Quaternion = field(default_factory=Quaternion)


@dataclass
class Twist:
    """geometry_msgs/msg/Twist."""

    linear: Vector3 = field(default_factory=Vector3)
    angular: Vector3 = field(default_factory=Vector3)


@dataclass
class Wrench:
    """geometry_msgs/msg/Wrench."""

    force: Vector3 = field(default_factory=Vector3)
    torque: Vector3 = field(default_factory=Vector3)


@dataclass
class PoseStamped:
    """geometry_msgs/msg/PoseStamped."""

    header: Header = field(default_factory=Header)
    pose: Pose = field(default_factory=Pose)


@dataclass
class TwistStamped:
    """geometry_msgs/msg/TwistStamped."""

    header: Header = field(default_factory=Header)
    twist: Twist = field(default_factory=Twist)


@dataclass
class WrenchStamped:
    """geometry_msgs/msg/WrenchStamped."""

    header: Header = field(default_factory=Header)
    wrench: Wrench = field(default_factory=Wrench)


@dataclass
class JointState:
    """sensor_msgs/msg/JointState."""

    header: Header = field(default_factory=Header)
    name: list[str] = field(default_factory=list)
    position: list[float] = field(default_factory=list)
    velocity: list[float] = field(default_factory=list)
    effort: list[float] = field(default_factory=list)


@dataclass
class Joy:
    """sensor_msgs/msg/Joy."""

    header: Header = field(default_factory=Header)
    axes: list[float] = field(default_factory=list)
    buttons: list[int] = field(default_factory=list)


@dataclass
class JointTrajectoryPoint:
    """trajectory_msgs/msg/JointTrajectoryPoint."""

    positions: list[float] = field(default_factory=list)
    velocities: list[float] = field(default_factory=list)
    time_from_start: Time = field(default_factory=Time)


@dataclass
class JointTrajectory:
    """trajectory_msgs/msg/JointTrajectory."""

    header: Header = field(default_factory=Header)
    joint_names: list[str] = field(default_factory=list)
    points: list[JointTrajectoryPoint] = field(default_factory=list)


@dataclass
class Float64:
    """std_msgs/msg/Float64."""

    data: float = 0.0


@dataclass
class Float64MultiArray:
    """std_msgs/msg/Float64MultiArray."""

    data: list[float] = field(default_factory=list)


@dataclass
class Image:
    """sensor_msgs/msg/Image."""

    header: Header = field(default_factory=Header)
    height: int = 0
    width: int = 0
    encoding: str = ""
    is_bigendian: int = 0
    step: int = 0
    data: bytes = b""


@dataclass
class CameraInfo:
    """sensor_msgs/msg/CameraInfo."""

    header: Header = field(default_factory=Header)
    height: int = 0
    width: int = 0
    distortion_model: str = ""
    d: list[float] = field(default_factory=list)
    k: list[float] = field(default_factory=lambda: [0.0] * 9)
    r: list[float] = field(default_factory=lambda: [0.0] * 9)
    p: list[float] = field(default_factory=lambda: [0.0] * 12)


@dataclass
class CompressedImage:
    """sensor_msgs/msg/CompressedImage."""

    header: Header = field(default_factory=Header)
    format: str = ""
    data: bytes = b""


@dataclass
class GripperCommand:
    """control_msgs/msg/GripperCommand."""

    position: float = 0.0
    max_effort: float = 0.0


@dataclass
class GripperCommandGoal:
    """Goal of control_msgs/action/GripperCommand."""

    command: GripperCommand = field(default_factory=GripperCommand)


@dataclass
class ParallelGripperCommandGoal:
    """Goal of control_msgs/action/ParallelGripperCommand."""

    command: JointState = field(default_factory=JointState)


@dataclass
class JointJog:
    """control_msgs/msg/JointJog."""

    header: Header = field(default_factory=Header)
    joint_names: list[str] = field(default_factory=list)
    displacements: list[float] = field(default_factory=list)
    velocities: list[float] = field(default_factory=list)
    duration: float = 0.0


@dataclass
class FollowJointTrajectoryGoal:
    """Goal of control_msgs/action/FollowJointTrajectory."""

    trajectory: JointTrajectory = field(default_factory=JointTrajectory)


@dataclass
class Bool:
    """std_msgs/msg/Bool."""

    data: bool = False


@dataclass
class Int32:
    """std_msgs/msg/Int32."""

    data: int = 0


@dataclass
class String:
    """std_msgs/msg/String."""

    data: str = ""


@dataclass
class Empty:
    """Request of std_srvs/srv/Trigger and Empty."""


@dataclass
class SetBoolRequest:
    """Request of std_srvs/srv/SetBool."""

    data: bool = False


#: Interface name to class; the nested ones are found through their parents.
MESSAGES: dict[str, type[Any]] = {
    "control_msgs/msg/JointJog": JointJog,
    "geometry_msgs/msg/Pose": Pose,
    "geometry_msgs/msg/PoseStamped": PoseStamped,
    "geometry_msgs/msg/Twist": Twist,
    "geometry_msgs/msg/TwistStamped": TwistStamped,
    "geometry_msgs/msg/WrenchStamped": WrenchStamped,
    "sensor_msgs/msg/CameraInfo": CameraInfo,
    "sensor_msgs/msg/CompressedImage": CompressedImage,
    "sensor_msgs/msg/Image": Image,
    "sensor_msgs/msg/JointState": JointState,
    "sensor_msgs/msg/Joy": Joy,
    "std_msgs/msg/Bool": Bool,
    "std_msgs/msg/Float64": Float64,
    "std_msgs/msg/Int32": Int32,
    "std_msgs/msg/String": String,
    "std_msgs/msg/Float64MultiArray": Float64MultiArray,
    "trajectory_msgs/msg/JointTrajectory": JointTrajectory,
    "trajectory_msgs/msg/JointTrajectoryPoint": JointTrajectoryPoint,
}
SERVICES: dict[str, type[Any]] = {
    "std_srvs/srv/Empty": Empty,
    "std_srvs/srv/SetBool": SetBoolRequest,
    "std_srvs/srv/Trigger": Empty,
}
ACTIONS: dict[str, type[Any]] = {
    "control_msgs/action/FollowJointTrajectory": FollowJointTrajectoryGoal,
    "control_msgs/action/GripperCommand": GripperCommandGoal,
    "control_msgs/action/ParallelGripperCommand": ParallelGripperCommandGoal,
}


Callback = Callable[[Any], Any]


class LocalTopics:
    """Topics, actions and services for tests and examples without ROS.

    Args:
        now_ns: Clock of :meth:`now_ns`.

    Attributes:
        services: Name to a function from a request to the answer; for an action, from a goal to
            how it ended (``succeeded``) and its result.
    """

    def __init__(self, now_ns: Callable[[], int] = time.time_ns) -> None:
        self._now_ns = now_ns
        self._subscriptions: list[LocalSubscription] = []
        self._publishers: list[LocalPublisher] = []
        self.services: dict[str, Callable[[Any], Any]] = {}

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
        """Call ``callback`` with every message; of qualities of service, durability counts."""
        self.message_class(type_name)
        subscription = LocalSubscription(self, topic, _full(type_name), callback, latched)
        self._subscriptions.append(subscription)
        for publisher in self.publishers_of(topic, subscription.type_name):
            if latched and publisher.kept is not None:
                callback(publisher.kept)
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
        publisher = LocalPublisher(
            self, topic, _full(type_name), self.message_class(type_name), latched=latched
        )
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
        """Take the goals of an action; a callback that returns False rejects its goal."""
        subscription = LocalSubscription(self, action, type_name, callback)
        self._subscriptions.append(subscription)
        return subscription

    def call(self, service: str, type_name: str, request: Any, *, timeout_s: float) -> Any:
        """Call a function of :attr:`services`."""
        if service not in self.services:
            raise DeviceTimeout(f"service {service!r}", got=f"no server within {timeout_s} s")
        return self.services[service](request)

    def act(self, action: str, type_name: str, goal: Any, *, timeout_s: float) -> tuple[str, Any]:
        """Call a function of :attr:`services` with a goal; it gives how it ended, and its result."""
        if action not in self.services:
            raise DeviceTimeout(f"action {action!r}", got=f"no server within {timeout_s} s")
        ended: tuple[str, Any] = self.services[action](goal)
        return ended

    def request_class(self, type_name: str) -> type[Any]:
        """One of :data:`user_hal.fakes.local_topics.ACTIONS` or ``SERVICES``."""
        known = ACTIONS if type_name.split("/")[1:2] == ["action"] else SERVICES
        if type_name not in known:
            raise TransportError(f"interface {type_name!r}", expected=f"one of {sorted(known)}")
        return known[type_name]

    def message_class(self, type_name: str) -> type[Any]:
        """One of :data:`user_hal.fakes.local_topics.MESSAGES`."""
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

    def service_types(self) -> dict[str, Sequence[str]]:
        """The functions of :attr:`services` have no types; actions are there with theirs."""
        found: dict[str, Sequence[str]] = dict.fromkeys(self.services, ())
        for end in self._subscriptions:
            if end.type_name in ACTIONS:
                found[f"{end.topic}/_action/send_goal"] = (f"{end.type_name}_SendGoal",)
        return found

    def endpoints(self, topic: str) -> tuple[Sequence[LocalEndpoint], Sequence[LocalEndpoint]]:
        """Everything that publishes and hears a topic."""
        publishers = [end for end in self._publishers if end.topic == topic]
        subscriptions = [end for end in self._subscriptions if end.topic == topic]
        return (
            [_endpoint(number, end) for number, end in enumerate(publishers, 1)],
            [_endpoint(number, end) for number, end in enumerate(subscriptions, 1)],
        )

    def now_ns(self) -> int:
        """The clock."""
        return self._now_ns()

    def publishers_of(self, topic: str, type_name: str) -> list[LocalPublisher]:
        """Those that a subscription would hear."""
        return [p for p in self._publishers if (p.topic, p.type_name) == (topic, type_name)]

    def subscriptions_of(self, topic: str, type_name: str) -> list[LocalSubscription]:
        """Those that would hear a publisher."""
        return [s for s in self._subscriptions if (s.topic, s.type_name) == (topic, type_name)]

    def hearing(self, publisher: LocalPublisher) -> list[LocalSubscription]:
        """Those that hear a publisher: who asks for kept messages hears no other."""
        ends = self.subscriptions_of(publisher.topic, publisher.type_name)
        return [end for end in ends if publisher.latched or not end.latched]

    def remove(self, end: LocalSubscription | LocalPublisher) -> None:
        """Forget a closed end."""
        for ends in (self._subscriptions, self._publishers):
            if end in ends:
                ends.remove(end)  # type: ignore[arg-type]


@dataclass(frozen=True)
class LocalEndpoint:
    """A publisher or subscription, as the graph shows it."""

    node: str
    type_name: str
    reliability: str = "reliable"
    durability: str = "volatile"
    deadline_s: float = 0.0
    liveliness: str = "automatic"


@dataclass(eq=False)
class LocalSubscription:
    """A subscription of :class:`LocalTopics`."""

    io: LocalTopics
    topic: str
    type_name: str
    callback: Callback
    latched: bool = False

    @property
    def publishers(self) -> int:
        """How many publish what it would hear."""
        publishers = self.io.publishers_of(self.topic, self.type_name)
        return sum(publisher.latched or not self.latched for publisher in publishers)

    @property
    def publisher_nodes(self) -> Sequence[str]:
        """One name for each publisher."""
        return [f"/local_{count}" for count in range(1, self.publishers + 1)]

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
    accepted: bool | None = None
    latched: bool = False
    kept: Any = None  # the last message, for those who come later
    rejected: bool = False
    failure: Any = None

    @property
    def subscribers(self) -> int:
        """How many hear it."""
        return len(self.io.hearing(self))

    def new(self) -> Any:
        """A new message with default values."""
        return self.cls()

    def publish(self, message: Any) -> None:
        """Call every subscription's callback. A server that returns False rejects a goal."""
        if self.closed:
            raise TransportError(f"cannot publish on {self.topic!r}", got="closed")
        accepted = True
        if self.latched:
            self.kept = message
        for subscription in self.io.hearing(self):
            accepted = subscription.callback(message) is not False and accepted
        if self.type_name in ACTIONS:
            self.accepted, self.rejected = accepted, not accepted

    def publish_or_cancel(self, message: Any) -> None:
        """Send a goal; nothing that could be cancelled goes on here."""
        self.publish(message)

    def close(self) -> None:
        """End it."""
        self.closed = True
        self.io.remove(self)


def _endpoint(number: int, end: LocalPublisher | LocalSubscription) -> LocalEndpoint:
    durability = "transient_local" if end.latched else "volatile"
    return LocalEndpoint(f"/local_{number}", end.type_name, durability=durability)


def _full(type_name: str) -> str:
    package, _, rest = type_name.partition("/")
    return f"{package}/msg/{rest.rpartition('/')[2]}"
