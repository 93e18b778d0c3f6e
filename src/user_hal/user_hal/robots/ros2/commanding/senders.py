"""From a target to a message: what moves joints and tool."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from user_core.errors import ConfigError, DeviceError, DeviceTimeout
from user_core.reasons import COMMAND_REJECTED, NO_REASON, Reason
from user_core.specs import Array
from user_hal.robots.ros2.calls import described
from user_hal.robots.ros2.commanding.targets import Target
from user_hal.robots.ros2.contract import CommandConfig
from user_hal.robots.ros2.contract.actions import Quantity
from user_hal.robots.ros2.filling import Duration, Template
from user_hal.robots.ros2.frames import Frames, Transform, plain, to_rpy
from user_hal.robots.ros2.messages import (
    BUILT_IN,
    FOLLOW_TRAJECTORY,
    JOINT_JOG,
    JOINT_STATE,
    JOINT_TRAJECTORY,
    NUMBERS,
    PLAIN_POSE,
    PLAIN_TWIST,
    POSE,
    STATE_FIELDS,
    TWIST,
    is_action,
)
from user_hal.robots.ros2.tf_tree import MovingWay, TfListener
from user_hal.topic_io import Ours, TopicIo, TopicPublisher, misfits

_POINT = "trajectory_msgs/msg/JointTrajectoryPoint"
#: A goal is accepted before it begins.
_GOAL_PERIODS = 2


class TargetSender:
    """Sends targets on one topic, or as goals of one action.

    Args:
        io: Topics.
        config: Which topic.
        quantity: What the numbers of its targets are.
        joints: Names for messages that name joints.
        base_frame: Frame of targets that are poses and twists.
        period_s: Control period: when a point of a JointTrajectory is to be reached, where the
            contract is silent.
        frames: Know the way from there to the frame of the messages, where it is another.
        scaling: Scale and offset to the robot's own units (``Group.scaling``).
        fingers: Names of the joints of a gripper in the message, or empty texts: one per number.
        where: Path of the keys in the contract, for errors.
        tf: Knows frames that move, and how old (s) what it knows may be.
        measure: Gives the measured joints, for mappings with the word ``measured``.

    Raises:
        TransportError: The message type is not installed.
        ConfigError: Fields are mapped that the type has not got.
    """

    def __init__(
        self,
        io: TopicIo,
        config: CommandConfig,
        quantity: Quantity,
        joints: Sequence[str],
        base_frame: str,
        period_s: float,
        frames: Frames | None = None,
        scaling: tuple[Array, Array] | None = None,
        fingers: Sequence[str] = (),
        where: str = "action.command",
        tf: tuple[TfListener, float] | None = None,
        measure: Callable[[], Array] | None = None,
    ) -> None:
        self._measure = measure
        self._io, self.config, self._quantity = io, config, quantity
        self._joints = [*joints, *fingers]
        self._fingers = len(fingers)
        self._frame = config.frame or base_frame
        self._way: Transform | None = None
        self._moving: MovingWay | None = None
        self._last_way: Transform | None = None
        if plain(self._frame) != plain(base_frame):
            self._way = (frames or Frames()).between(base_frame, self._frame)
            if self._way is None and tf is not None:
                self._moving = MovingWay(tf[0], plain(self._frame), plain(base_frame), tf[1])
            elif self._way is None:
                raise ConfigError("frame of a command", got=self._frame, expected=base_frame)
        self._scale: Array
        self._offset: Array
        self._scale, self._offset = scaling or (np.ones(1), np.zeros(1))
        self._scaled = bool((self._scale != 1).any() or self._offset.any())
        self._low = np.asarray(-np.inf if config.low is None else config.low, float)
        self._high = np.asarray(np.inf if config.high is None else config.high, float)
        self._bounded = config.low is not None or config.high is not None
        self._sends_goals = is_action(config.type)
        periods = _GOAL_PERIODS if self._sends_goals else 1
        self._duration_s = config.time_from_start_s or period_s * periods
        self.publisher = self._make_publisher(joints)
        self._template: Template | None = None
        if config.mapping or config.type not in BUILT_IN:
            self._template = self._make_template(len(joints), where)

    def _make_publisher(self, joints: Sequence[str]) -> TopicPublisher:
        io, config = self._io, self.config
        if self._sends_goals:
            return io.goals(config.topic, config.type)
        if config.per_joint:
            return _OfEachJoint(io, config.topics(joints), config.type)
        return io.publisher(config.topic, config.type)

    def _make_template(self, joints: int, where: str) -> Template:
        """The message whose fields the contract maps; raises ConfigError where no field has the action."""
        config = self.config
        sizes = {"pose": 6 if config.quantity == "pose_rpy" else 7, "twist": 6}
        zeros = np.zeros(sizes.get(self._quantity, joints))
        sample = self._words(zeros, np.zeros(self._fingers), self._duration_s)
        cls = type(self.publisher.new())
        made = Template(self._io, cls, config.type, config.mapping, sample, f"{where}.fields")
        if not made.used & {"values", "value", "arm"}:
            raise ConfigError(
                f"{where}.fields",
                got="the same message whatever the action",
                expected="the word values (or value, of one joint) in a field that is no text",
            )
        return made

    def send(
        self,
        target: Target,
        duration_s: float | None = None,
        fingers: Array | None = None,
        *,
        holds: bool = False,
    ) -> None:
        """Publish one target.

        Args:
            target: Of the quantity that the topic's type can carry.
            duration_s: JointTrajectory: when it is to be reached, instead of the usual.
            fingers: Numbers of a gripper in the message, in its own unit.
            holds: The target holds the robot where it is. Should an action server reject it, the
                goal that it has is cancelled.
        """
        values = self._to_robot(target, holds=holds)
        seconds = duration_s or self._duration_s
        if isinstance(self.publisher, _OfEachJoint):
            self._send_each(self.publisher, values, seconds)
            return
        message = self.publisher.new()
        if self._template is not None:
            own = fingers if fingers is not None else np.zeros(self._fingers)
            self._template.fill(message, self._words(values, own, seconds))
        else:
            if self._fingers and fingers is not None:
                values = np.concatenate([values, fingers])
            self._fill(message, target, values, seconds)
        if holds and self._sends_goals:
            self.publisher.publish_or_cancel(message)  # type: ignore[attr-defined]
        else:
            self.publisher.publish(message)

    @property
    def rejected(self) -> bool:
        """Whether an action server rejected the newest goal that it answered."""
        return self._sends_goals and bool(getattr(self.publisher, "rejected", False))

    def trouble(self) -> Reason:
        """Why an action server does not do what it was told; false if it does."""
        if not self._sends_goals:
            return NO_REASON
        what = f"action {self.publisher.topic!r} ({self.config.type})"
        if self.rejected:
            return Reason(COMMAND_REJECTED, f"{what} rejects the goals: is its controller active?")
        failure = getattr(self.publisher, "failure", None)
        if failure is None:
            return NO_REASON
        return Reason(COMMAND_REJECTED, f"{what} aborted a goal: {described(failure)}")

    def accepted(self, target: Target) -> Target:
        """The target as the robot takes it, in our units: what is out of its range is cut."""
        if not self._bounded:
            return target
        values = (self._to_robot(target) - self._offset) / self._scale
        if target.quantity == "twist" and (way := self._way_now(values)) is not None:
            values = way.inverse().apply("twist", values)
        return Target(target.quantity, values)

    def close(self) -> None:
        """End the publisher."""
        self.publisher.close()

    def _send_each(self, publisher: _OfEachJoint, values: Array, seconds: float) -> None:
        assert self._template is not None  # noqa: S101 - made for each type with a topic per joint
        words = self._words(values, np.zeros(0), seconds)
        for one, value in zip(publisher.publishers, words["values"]):
            one.publish(self._template.fill(one.new(), {**words, "value": value}))

    def _words(self, values: Array, fingers: Array, duration_s: float) -> dict[str, Any]:
        numbers, last = values.tolist(), fingers.tolist()
        return {
            "values": [*numbers, *last],
            "value": numbers[0],
            "arm": numbers,
            "fingers": last,
            "joints": self._joints,
            "zeros": [0.0] * (len(numbers) + len(last)),
            "measured": self._measured_words(len(numbers)),
            "duration": Duration(duration_s),
            "frame": self._frame,
        }

    def _measured_words(self, count: int) -> list[float]:
        """The measured joints as the robot has them, for messages that begin there."""
        template = self._template
        if template is None or "measured" not in template.used or self._measure is None:
            return [0.0] * count
        values: Array = self._measure() * self._scale + self._offset
        return values.tolist()

    def _way_now(self, values: Array, *, holds: bool = False) -> Transform | None:
        """The way to the frame of the messages; none is needed for no motion."""
        if self._moving is None or not values.any():
            return self._way
        try:
            self._last_way = self._moving.at()
        except DeviceError:
            if not holds or self._last_way is None:
                raise
        return self._last_way  # to hold, the way that was known last is better than nothing

    def _to_robot(self, target: Target, *, holds: bool = False) -> Array:
        """The numbers of a target in the robot's own frame, units and range."""
        values = target.values
        by_frame = target.quantity in ("pose", "twist")
        if by_frame and (way := self._way_now(values, holds=holds)) is not None:
            values = way.apply(target.quantity, values)
        if target.quantity == "pose" and self.config.quantity == "pose_rpy":
            values = np.concatenate([values[:3], to_rpy(values[3:])])
        if self._scaled:
            values = values * self._scale + self._offset
        if self._bounded:
            values = np.clip(values, self._low, self._high)
        return values

    def _fill(self, message: Any, target: Target, values: Array, seconds: float) -> None:
        kind = self.config.type
        if kind == JOINT_TRAJECTORY:
            fill_trajectory(self._io, message, self._joints, values, seconds)
        elif kind == FOLLOW_TRAJECTORY:
            fill_trajectory(self._io, message.trajectory, self._joints, values, seconds)
        elif kind == NUMBERS:
            message.data = values.tolist()
        elif kind == PLAIN_TWIST:
            _fill_twist(message, values)
        elif kind == PLAIN_POSE:
            _fill_pose(message, values)
        else:
            stamp(message.header, self._io.now_ns())
            if kind == JOINT_STATE:
                message.name = self._joints
                setattr(message, STATE_FIELDS[target.quantity], values.tolist())
            elif kind == JOINT_JOG:
                message.joint_names = self._joints
                message.velocities = values.tolist()
                message.duration = seconds
            elif kind == TWIST:
                message.header.frame_id = self._frame
                _fill_twist(message.twist, values)
            elif kind == POSE:
                message.header.frame_id = self._frame
                _fill_pose(message.pose, values)


class _OfEachJoint:
    """A topic for each joint, seen as one publisher.

    Attributes:
        publishers: In the order of the joints.
    """

    def __init__(self, io: TopicIo, topics: Sequence[str], type_name: str) -> None:
        self.publishers = [io.publisher(topic, type_name) for topic in topics]

    @property
    def topic(self) -> str:
        """That to which the fewest listen."""
        return min(self.publishers, key=lambda publisher: publisher.subscribers).topic

    @property
    def subscribers(self) -> int:
        """How many listen to each of them."""
        return min(publisher.subscribers for publisher in self.publishers)

    def new(self) -> Any:
        """A new message of one joint."""
        return self.publishers[0].new()

    def publish(self, message: Any) -> None:
        """Send the same to all joints."""
        for publisher in self.publishers:
            publisher.publish(message)

    def close(self) -> None:
        """End them."""
        for publisher in self.publishers:
            publisher.close()


def unheard_commands(io: TopicIo, commands: Iterable[tuple[str, str]]) -> list[str]:
    """Topics of commands (each with its type) of which everybody who listens asks for another
    quality of service."""
    found = []
    for topic, type_name in dict(commands).items():
        if is_action(type_name):
            continue
        unfit = misfits(io, topic, Ours(type_name), publishes=True)
        if unfit and len(unfit) == len(io.endpoints(topic)[1]):
            found.append(f"commands on {topic} are not heard by {'; '.join(unfit)}")
    return found


def other_commanders(io: TopicIo, commands: Iterable[tuple[str, str]]) -> list[str]:
    """Topics of commands (each with its type) on which others publish as well, on whichever host.
    Who sends goals to an action the graph does not tell."""
    found: list[str] = []
    if not getattr(io, "graph", ""):
        return found  # the topics do not leave this process
    for topic, type_name in dict(commands).items():
        if is_action(type_name):
            continue
        nodes = sorted({end.node for end in io.endpoints(topic)[0] if end.type_name == type_name})
        if nodes:
            found.append(
                f"{topic} is commanded by others, too: {', '.join(nodes)}; end them while USER drives"
            )
    return found


def require_listener(
    io: TopicIo, publisher: TopicPublisher, type_name: str, waited_s: float
) -> None:
    """Raise DeviceTimeout, with what there is instead, unless somebody listens."""
    if publisher.subscribers:
        return
    if is_action(type_name):
        raise DeviceTimeout(
            f"action {publisher.topic!r}",
            got=f"nobody listens to it: no server within {waited_s:g} s",
            expected=f"a server of {type_name}",
            hint="Start what serves it, activate its controller, or correct the contract",
        )
    unfit = misfits(io, publisher.topic, Ours(type_name), publishes=True)
    unfit = [text for text in unfit if ": type: " not in text]
    if unfit:
        raise DeviceTimeout(
            f"command topic {publisher.topic!r}",
            got=f"not heard by {'; '.join(unfit)}",
            expected="a listener that takes reliable, volatile messages",
            hint="Change the quality of service that it asks for",
        )
    graph = io.topics()
    others = sorted(
        topic for topic, types in graph.items() if type_name in types and topic != publisher.topic
    )
    foreign = [name for name in graph.get(publisher.topic, ()) if name != type_name]
    carries = f"; the topic carries {foreign[0]}" if foreign else ""
    raise DeviceTimeout(
        f"command topic {publisher.topic!r}",
        got=f"nobody listens to it within {waited_s:g} s{carries}",
        expected=f"a controller that takes {type_name}; topics of this type: {others}",
        hint=f"Write type: {foreign[0]}, if its sender is to be replaced"
        if foreign
        else "Activate the controller (ros2 control switch_controllers), or correct the contract",
    )


def fill_trajectory(
    io: TopicIo, message: Any, joints: list[str], positions: Array, duration_s: float
) -> None:
    """One point; a stamp of zero means: start now (joint_trajectory_controller)."""
    point = io.message_class(_POINT)()
    point.positions = positions.tolist()
    whole_s = int(duration_s)
    point.time_from_start.sec = whole_s
    point.time_from_start.nanosec = round((duration_s - whole_s) * 1e9)
    message.joint_names = joints
    message.points = [point]


def stamp(header: Any, now_ns: int) -> None:
    """Put a time into a header."""
    header.stamp.sec, header.stamp.nanosec = divmod(now_ns, 1_000_000_000)


def _fill_twist(twist: Any, values: Array) -> None:
    _fill_xyz(twist.linear, values[:3])
    _fill_xyz(twist.angular, values[3:])


def _fill_pose(pose: Any, values: Array) -> None:
    _fill_xyz(pose.position, values[:3])
    _fill_xyz(pose.orientation, values[3:6])
    pose.orientation.w = float(values[6])


def _fill_xyz(vector: Any, values: Array) -> None:
    vector.x, vector.y, vector.z = (float(value) for value in values)
