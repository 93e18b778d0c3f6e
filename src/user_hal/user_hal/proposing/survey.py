"""What is there: topics with who is at their ends, controllers with their joints, and a first
message of what a contract could read."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from user_core.errors import SuiteError
from user_hal.checking.graph import Controller, controller_behind, list_controllers
from user_hal.checking.streams import Stream, StreamWatch
from user_hal.topic_io import TopicIo, TopicSubscription

JOINT_STATE = "sensor_msgs/msg/JointState"
POSE = "geometry_msgs/msg/PoseStamped"
WRENCH = "geometry_msgs/msg/WrenchStamped"
IMAGE = "sensor_msgs/msg/Image"
COMPRESSED = "sensor_msgs/msg/CompressedImage"
STRING = "std_msgs/msg/String"
ODOMETRY = "nav_msgs/msg/Odometry"
ROBOT_SPEC = "user_msgs/msg/RobotSpec"
GET_PARAMETERS = "rcl_interfaces/srv/GetParameters"
_READ = (JOINT_STATE, POSE, WRENCH, IMAGE, ODOMETRY)
_TIMEOUT_S = 2.0
#: Packages whose types the driver knows, or that carry no commands of robots.
_PLAIN = {
    "std_msgs", "sensor_msgs", "geometry_msgs", "nav_msgs", "trajectory_msgs", "rcl_interfaces",
    "diagnostic_msgs", "visualization_msgs", "tf2_msgs", "rosgraph_msgs", "lifecycle_msgs",
    "control_msgs", "user_msgs", "statistics_msgs", "bond",
}  # fmt: skip
#: Words of the list that holds targets of joints, where a type has several: pos, vel, acc.
_TARGETS = {
    "pos",
    "position",
    "positions",
    "q",
    "joint",
    "joints",
    "angle",
    "angles",
    "target",
    "goal",
    "value",
    "values",
}
#: Words of topics of JointState that say something else than where joints are.
_NO_STATE = {
    "limit", "limits", "command", "commands", "cmd", "desired", "reference", "references", "target", "targets", "goal",
    "goals", "setpoint", "setpoints", "planned", "fake", "leader", "master",
}  # fmt: skip
#: Packages of actions and services that are no maker's of robots.
_PLAIN_CALLS = {
    "action_msgs", "action_tutorials_interfaces", "composition_interfaces", "controller_manager_msgs",
    "example_interfaces", "map_msgs", "moveit_msgs", "nav2_msgs", "rosapi_msgs", "rosbag2_interfaces",
    "ros_gz_interfaces", "service_msgs", "std_srvs", "type_description_interfaces",
}  # fmt: skip
#: Words of calls that move a robot: these are named first.
_MOVES = {"move", "go", "goto", "joint", "joints", "jog", "servo", "pose", "trajectory", "linear"}
_NUMBERS = re.compile(r"(sequence<)?(double|float)(, \d+)?(>|\[\d+\])$")


@dataclass(frozen=True)
class Topic:
    """A topic or action.

    Attributes:
        name: Its full name.
        type_name: Its type; of an action ``package/action/Name``.
        published: Whether somebody publishes it.
        heard: Whether somebody subscribes to it, or serves the action.
    """

    name: str
    type_name: str
    published: bool = False
    heard: bool = False


@dataclass
class JointSample:
    """What the messages of a JointState topic have in common.

    Attributes:
        names: Joints, in the order of the messages; of several messages one behind the other.
        position: Where they are.
        velocity: Whether velocities come for all.
        effort: Whether efforts come for all.
    """

    names: list[str] = field(default_factory=list)
    position: dict[str, float] = field(default_factory=dict)
    velocity: bool = False
    effort: bool = False

    def take(self, message: Any) -> None:
        """Add a message."""
        names = [str(name) for name in message.name]
        self.names += [name for name in names if name not in self.names]
        self.position.update(zip(names, (float(value) for value in message.position)))
        self.velocity = len(message.velocity) == len(names) > 0
        self.effort = len(message.effort) == len(names) > 0


@dataclass
class Survey:
    """Everything that was found.

    Attributes:
        topics: Topics and actions, in order of their names.
        joints: By JointState topic.
        frames: ``header.frame_id`` by topic, of poses, wrenches, images and odometry.
        bodies: ``child_frame_id`` of odometry by topic: the frame of its twist.
        images: encoding, width, height by Image topic.
        controllers: Of ros2_control.
        joints_of: Joints by name of a controller's node, as far as it told.
        description: The robot description (URDF); empty: none came.
        streams: How the topics came over time.
        services: Types by name of a service.
        fields: By type of a topic that somebody listens to, where its numbers would stand: types
            that the driver does not know, with one list of numbers.
        notes: What could not be found out.
    """

    topics: list[Topic] = field(default_factory=list)
    joints: dict[str, JointSample] = field(default_factory=dict)
    frames: dict[str, str] = field(default_factory=dict)
    bodies: dict[str, str] = field(default_factory=dict)
    images: dict[str, tuple[str, int, int]] = field(default_factory=dict)
    controllers: list[Controller] = field(default_factory=list)
    joints_of: dict[str, tuple[str, ...]] = field(default_factory=dict)
    description: str = ""
    streams: list[Stream] = field(default_factory=list)
    services: Mapping[str, Sequence[str]] = field(default_factory=dict)
    fields: dict[str, dict[str, Any]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def of_type(self, *types: str, published: bool = False, heard: bool = False) -> list[Topic]:
        """Topics of these types, at least with these ends."""
        return [
            topic
            for topic in self.topics
            if topic.type_name in types
            and (topic.published or not published)
            and (topic.heard or not heard)
        ]

    def without_what_is_no_state(self) -> None:
        """Leave out JointState topics that by their names are limits, targets or a person's device, where others are
        left: some drivers fill this type with what it is not for."""
        odd = [
            t
            for t in self.joints
            if set(re.split(r"[^a-z]+", t.rpartition("/")[2].lower())) & _NO_STATE
        ]
        if len(odd) == len(self.joints):
            return
        for topic in odd:
            del self.joints[topic]
            self.notes.append(f"{topic} is a JointState, and by its name no state of the robot")

    def controller(self, topic: str) -> Controller | None:
        """The controller of a topic or action, as far as controller_manager tells."""
        return controller_behind(topic, self.controllers)


def controller_node(topic: str) -> str:
    """Full name of the node of the controller that a topic belongs to: all but the last part."""
    return topic.rpartition("/")[0] or topic


def survey(io: TopicIo, seconds: float, description: str = "") -> Survey:
    """Look at the graph, and listen for some seconds.

    Args:
        io: Topics, whose graph is known already.
        seconds: How long messages are waited for.
        description: The URDF; empty: take that of a topic ``robot_description``.
    """
    found = Survey(description=description)
    found.topics = [*_topics(io), *_actions(io)]
    found.fields = command_fields(io.message_class, found)
    found.controllers, trouble = list_controllers(io)
    if trouble:
        found.notes.append(trouble)
    _listen(io, found, seconds)
    found.services = io.service_types()
    if not found.description:
        _ask_state_publisher(io, found)
    _ask_controllers(io, found)
    return found


def command_fields(message_class: Callable[[str], Any], found: Survey) -> dict[str, dict[str, Any]]:
    """Mappings of fields of command-like types that nobody told the driver about."""
    known: dict[str, dict[str, Any]] = {}
    for topic in found.topics:
        if topic.published or not topic.heard or not is_of_a_maker(topic):
            continue
        try:
            cls = message_class(topic.type_name)
        except SuiteError:
            found.notes.append(f"{topic.name}: {topic.type_name} is not installed here")
            continue
        fields: Mapping[str, str] = getattr(cls, "get_fields_and_field_types", dict)()
        numbers = [name for name, kind in fields.items() if _NUMBERS.match(kind)]
        if len(numbers) > 1:
            numbers = [name for name in numbers if set(name.lower().split("_")) & _TARGETS]
        if len(numbers) == 1:
            known[topic.type_name] = {numbers[0]: "values"}
    return known


def is_of_a_maker(topic: Topic) -> bool:
    """Whether it carries messages of a type that the driver does not know."""
    package = topic.type_name.partition("/")[0]
    return "/msg/" in topic.type_name and package not in _PLAIN


def calls_of_makers(found: Survey) -> list[str]:
    """Actions and services of types that the driver does not know, such as may move a robot; those first that by
    their names do."""
    actions = [(t.name, t.type_name) for t in found.topics if "/action/" in t.type_name]
    services = [(name, kind) for name, kinds in found.services.items() for kind in kinds]
    calls = [
        (name, kind)
        for name, kind in (*actions, *sorted(services))
        if "/_" not in name and kind.partition("/")[0] not in _PLAIN | _PLAIN_CALLS
    ]
    calls.sort(key=lambda call: not set(re.split(r"[^a-z]+", call[0].lower())) & _MOVES)
    return [f"{name} ({kind})" for name, kind in calls]


def has_controller_manager(found: Survey) -> bool:
    """Whether the robot is behind ros2_control, where a controller that does not run is the likelier reason."""
    return any(
        kind.startswith("controller_manager_msgs/")
        for kinds in found.services.values()
        for kind in kinds
    )


def _topics(io: TopicIo) -> Iterable[Topic]:
    graph = sorted(io.topics().items())
    ours = {  # a HAL that runs already shows the robot on topics of its own
        end.node for name, types in graph if ROBOT_SPEC in types for end in io.endpoints(name)[0]
    }
    for name, types in graph:
        publishers, subscriptions = (
            [end for end in ends if end.node not in ours] for ends in io.endpoints(name)
        )
        for type_name in types:
            yield Topic(
                name,
                type_name,
                any(end.type_name == type_name for end in publishers),
                any(end.type_name == type_name for end in subscriptions),
            )


def _actions(io: TopicIo) -> Iterable[Topic]:
    for service, types in sorted(io.service_types().items()):
        name, tail, _ = service.partition("/_action/send_goal")
        if tail:
            yield from (Topic(name, t.removesuffix("_SendGoal"), heard=True) for t in types)


def _listen(io: TopicIo, found: Survey, seconds: float) -> None:
    lock = threading.Lock()
    subscriptions: list[TopicSubscription] = []
    waiting: set[str] = set()
    end_s = time.monotonic() + seconds

    def listen(topic: Topic, latched: bool = False) -> None:
        def take(message: Any) -> None:
            with lock:
                _take(found, topic, message)
                waiting.discard(topic.name)

        try:
            subscriptions.append(
                io.subscribe(
                    topic.name,
                    topic.type_name,
                    take,
                    depth=4,
                    reliability="reliable" if latched else "best_effort",  # old ones need it
                    latched=latched,
                )
            )
            waiting.add(topic.name)
        except SuiteError as error:
            found.notes.append(f"{topic.name}: {error}")

    descriptions = [
        topic
        for topic in found.of_type(STRING, published=True)
        if topic.name.rpartition("/")[2] == "robot_description"
    ]
    if not found.description:
        for topic in descriptions[:1]:
            listen(topic, latched=True)
    read = found.of_type(*_READ, published=True)
    found.streams = [
        Stream(
            (),
            topic.name,
            topic.type_name,
            leads=topic.type_name != IMAGE,
            camera=topic.type_name == IMAGE,
        )
        for topic in read
        if topic.type_name != ODOMETRY
    ]
    with StreamWatch(io, found.streams):
        for topic in read:
            listen(topic)
        while time.monotonic() < end_s:
            time.sleep(0.02)
        while waiting and time.monotonic() < end_s + seconds:  # the slow ones
            time.sleep(0.02)
    for subscription in subscriptions:
        subscription.close()


def _take(found: Survey, topic: Topic, message: Any) -> None:
    if topic.type_name == STRING:
        found.description = found.description or str(message.data)
    elif topic.type_name == JOINT_STATE:
        found.joints.setdefault(topic.name, JointSample()).take(message)
    else:
        found.frames[topic.name] = str(message.header.frame_id)
        if topic.type_name == ODOMETRY:
            found.bodies[topic.name] = str(message.child_frame_id)
        if topic.type_name == IMAGE:
            found.images[topic.name] = (message.encoding, message.width, message.height)


def _ask_controllers(io: TopicIo, found: Survey) -> None:
    """Which joints do controllers have that controller_manager did not tell?"""
    nodes = dict.fromkeys(controller_node(topic.name) for topic in found.topics if topic.heard)
    for node in nodes:
        known = found.controller(f"{node}/x")
        if known is not None and known.joints:
            found.joints_of[node] = known.joints
            continue
        answer = _parameter(io, found, node, "joints")
        if answer is None:
            continue
        joints = list(answer.string_array_value)
        if joints:
            found.joints_of[node] = tuple(joints)


def _ask_state_publisher(io: TopicIo, found: Survey) -> None:
    """Older ones have the robot description as a parameter only."""
    for service in found.services:
        node, _, tail = service.rpartition("/")
        if tail == "get_parameters" and node.endswith("robot_state_publisher"):
            answer = _parameter(io, found, node, "robot_description")
            found.description = "" if answer is None else str(answer.string_value)


def _parameter(io: TopicIo, found: Survey, node: str, name: str) -> Any:
    """A parameter of a node (rcl_interfaces/msg/ParameterValue); None where it does not tell."""
    service = f"{node}/get_parameters"
    if GET_PARAMETERS not in found.services.get(service, ()):
        return None
    try:
        answer = io.call(service, GET_PARAMETERS, {"names": [name]}, timeout_s=_TIMEOUT_S)
    except SuiteError as error:
        found.notes.append(f"{node}: {error}")
        return None
    return answer.values[0] if answer.values else None
