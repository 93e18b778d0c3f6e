"""From an action to the next target of joints or tool, and from a target to a message.

The targets are pure: no topics, no clock. The senders turn a target into messages.
"""

from __future__ import annotations

import math
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from user_core.errors import ConfigError, DeviceTimeout, SpecError
from user_core.reasons import GRIPPER_REJECTED, NO_REASON, Reason
from user_core.specs import ActionKind, Array
from user_hal.robots.ros2.contract import ActionConfig, CommandConfig, GripperConfig
from user_hal.robots.ros2.frames import Frames, Transform, plain
from user_hal.robots.ros2.joints import Turns
from user_hal.robots.ros2.messages import (
    GRIPPER_ACTION,
    JOINT_STATE,
    JOINT_TRAJECTORY,
    NUMBER,
    NUMBERS,
    PARALLEL_GRIPPER_ACTION,
    POSE,
    TOOL_KINDS,
    TWIST,
)
from user_hal.safety import rotation
from user_hal.topic_io import TopicIo, TopicPublisher

_SHIFT, _TURN = slice(0, 3), slice(3, 6)

#: Room for rounding when a target is compared with its lead.
_ROUNDING = 1e-6

Quantity = Literal["positions", "velocities", "pose", "twist"]


@dataclass(frozen=True)
class Target:
    """What a controller is told.

    Attributes:
        quantity: ``positions`` (n,) rad, ``velocities`` (n,) rad/s, ``pose`` (7,) x y z (m)
            qx qy qz qw, or ``twist`` (6,) m/s and rad/s; tool quantities in the base frame.
        values: The numbers, float64.
    """

    quantity: Quantity
    values: Array


class Targets(ABC):
    """Turns actions of one kind into targets.

    Attributes:
        observation: The array that :meth:`next` needs as ``measured``; empty: it needs none.
        hold_observation: The array that :meth:`hold` needs to hold where the robot is; empty:
            holding means zero velocity.
    """

    observation: str = ""
    hold_observation: str = ""

    @abstractmethod
    def next(self, action: Array, measured: Array | None) -> tuple[Target, Array]:
        """The next target, and the action as it will really be carried out.

        Args:
            action: (a,) float64 without gripper, within the bounds of the spec.
            measured: The newest numbers of :attr:`observation`.
        """

    @abstractmethod
    def hold(self, measured: Array | None) -> Target | None:
        """The target that stops the robot; None where nothing is known to hold.

        Args:
            measured: The newest numbers of :attr:`hold_observation`; None: hold the last target.
        """

    def forget(self) -> None:  # noqa: B027 - what sums nothing up has nothing to forget
        """Start sums from the measured position again."""


class JointTargets(Targets):
    """Joint positions: absolute, or summed up from changes and velocities.

    Args:
        config: Of the action.
        period_s: Control period; what a velocity lasts.
        low: Lowest positions, (n,) rad; -inf where there is no limit.
        high: Highest positions.
        turns: Which joints are continuous; targets of theirs are near the measured joints, by
            whole turns, as controllers go straight to a number.
    """

    hold_observation = "joint_position"

    def __init__(
        self,
        config: ActionConfig,
        period_s: float,
        low: Array,
        high: Array,
        turns: Turns | None = None,
    ) -> None:
        self._turns = turns or Turns()
        self._kind, self._base = config.kind, config.base
        self._max_lead_rad = config.max_lead_rad
        self._low, self._high = low, high
        self._step_s = period_s if config.kind is ActionKind.JOINT_VELOCITY else 1.0
        self._box = _box(config, len(low), self._step_s)
        self._target: Array | None = None
        if config.kind is not ActionKind.JOINT_POSITION:
            self.observation = "joint_position"

    def next(self, action: Array, measured: Array | None) -> tuple[Target, Array]:
        """Positions; the executed action is the way from the last target to the new one."""
        if self._kind is ActionKind.JOINT_POSITION:
            self._target = np.clip(action, self._low, self._high)
            return Target("positions", self._target), self._target
        assert measured is not None  # noqa: S101 - asked for by `observation`
        last = None if self._target is None else self._turns.near(self._target, measured)
        start = measured if self._base == "measured" or last is None else last
        asked = action * self._step_s
        wished = np.clip(start + asked, *self._reach(start, measured))
        if self._base == "measured" and last is not None:
            # A reading that jumps must not take the target along.
            self._target = last + np.clip(wished - last, *self._box)
            executed = np.clip(self._target - measured, *self._box)
        else:
            # What the lead and the limits leave of the change: never more, never backwards.
            executed = np.clip(wished - start, np.minimum(asked, 0), np.maximum(asked, 0))
            self._target = start + executed
        return Target("positions", self._target), executed / self._step_s

    def _reach(self, start: Array, measured: Array) -> tuple[Array, Array]:
        """The lowest and highest targets: near the measured joints, within their limits. A limit
        that the start is beyond already ends there, and does not pull."""
        low = np.maximum(measured - self._max_lead_rad, self._low)
        high = np.minimum(measured + self._max_lead_rad, self._high)
        return np.minimum(low, start), np.maximum(high, start)

    def hold(self, measured: Array | None) -> Target | None:
        """Where the joints are; the last target where they seem to be out of its reach, which is
        a false reading or a robot that was pushed: a stop is no way to go there."""
        values = self._target if measured is None else measured
        if self.observation and self._target is not None and measured is not None:
            ahead = np.abs(self._turns.way(measured, self._target))
            values = self._target if np.any(ahead > self._max_lead_rad + _ROUNDING) else measured
        return None if values is None else Target("positions", values)

    def forget(self) -> None:
        self._target = None


class JointVelocities(Targets):
    """Joint velocities: as they are, or from changes in one period.

    Args:
        config: Of the action.
        period_s: Control period, in which a change is made.
        count: Number of joints.
    """

    def __init__(self, config: ActionConfig, period_s: float, count: int) -> None:
        self._step_s = period_s if config.kind is ActionKind.JOINT_DELTA else 1.0
        self._count = count

    def next(self, action: Array, measured: Array | None) -> tuple[Target, Array]:
        """Velocities."""
        return Target("velocities", action / self._step_s), action

    def hold(self, measured: Array | None) -> Target:
        """No velocity."""
        return Target("velocities", np.zeros(self._count))


class ToolTwists(Targets):
    """Tool velocities: as they are, or from changes in one period.

    Args:
        config: Of the action.
        period_s: Control period, in which a change is made.
    """

    def __init__(self, config: ActionConfig, period_s: float) -> None:
        self._step_s = period_s if config.kind is ActionKind.EE_DELTA else 1.0

    def next(self, action: Array, measured: Array | None) -> tuple[Target, Array]:
        """A twist, in the base frame."""
        twist = np.zeros(6)
        twist[: len(action)] = action / self._step_s
        return Target("twist", twist), action

    def hold(self, measured: Array | None) -> Target:
        """No velocity."""
        return Target("twist", np.zeros(6))


class ToolPoses(Targets):
    """Tool poses: absolute, or summed up from changes and twists.

    Args:
        config: Of the action.
        period_s: Control period; what a twist lasts.
    """

    hold_observation = "tcp_pose"

    def __init__(self, config: ActionConfig, period_s: float) -> None:
        self._kind, self._base = config.kind, config.base
        self._max_lead_m, self._max_lead_rad = config.max_lead_m, config.max_lead_rad
        self._step_s = period_s if config.kind is ActionKind.EE_TWIST else 1.0
        self._box = np.zeros((2, 6))
        if config.kind is not ActionKind.EE_POSE:
            size = 6 if config.rotation else 3
            self._box[:, :size] = _box(config, size, self._step_s)
        self._target: Array | None = None
        if config.kind is not ActionKind.EE_POSE:
            self.observation = "tcp_pose"

    def next(self, action: Array, measured: Array | None) -> tuple[Target, Array]:
        """A pose; the executed action is the way from the last target to the new one."""
        if self._kind is ActionKind.EE_POSE:
            self._target = unit_pose(action)
            return Target("pose", self._target), self._target
        assert measured is not None  # noqa: S101 - asked for by `observation`
        last = self._target
        start = measured if self._base == "measured" or last is None else last
        change = np.zeros(6)
        change[: len(action)] = action * self._step_s
        lead, before = way(measured, moved(start, change)), way(measured, start)
        for part, longest in ((_SHIFT, self._max_lead_m), (_TURN, self._max_lead_rad)):
            # Beyond the lead already: no further away, but not pulled back either.
            farthest = max(longest, float(np.linalg.norm(before[part])))
            lead[part] = shortened(lead[part], farthest)
        wished = moved(measured, lead)
        if self._base == "measured" and last is not None:
            # A reading that jumps must not take the target along.
            self._target = moved(last, self._within(way(last, wished)))
            executed = self._within(way(measured, self._target))
        else:
            executed = way(start, wished)
            for part in (_SHIFT, _TURN):
                executed[part] = shortened(executed[part], float(np.linalg.norm(change[part])))
            executed = self._within(executed)
            self._target = moved(start, executed)
        return Target("pose", self._target), executed[: len(action)] / self._step_s

    def _within(self, change: Array) -> Array:
        """The change, shortened in its direction until it is within the bounds of an action."""
        result = change.copy()
        low, high = self._box
        for part in (_SHIFT, _TURN):
            share = 1.0
            for value, lowest, highest in zip(change[part], low[part], high[part]):
                bound = highest if value > 0 else lowest
                if abs(value) > abs(bound):
                    share = min(share, abs(bound / value))
            result[part] *= share
        return result

    def hold(self, measured: Array | None) -> Target | None:
        """Where the tool is; the last target where it seems to be out of its reach."""
        values = self._target if measured is None else measured
        if self.observation and self._target is not None and measured is not None:
            ahead = way(measured, self._target)
            out = np.linalg.norm(ahead[_SHIFT]) > self._max_lead_m + _ROUNDING
            out |= np.linalg.norm(ahead[_TURN]) > self._max_lead_rad + _ROUNDING
            values = self._target if out else measured
        return None if values is None else Target("pose", values)

    def forget(self) -> None:
        self._target = None


def _box(config: ActionConfig, count: int, step_s: float) -> Array:
    """The smallest and largest change in one period that an action may ask for, (2, count)."""
    bounds = [
        np.broadcast_to(np.asarray(bound, float), (count,)) for bound in (config.low, config.high)
    ]
    return np.array(bounds) * step_s


def make_targets(
    config: ActionConfig,
    period_s: float,
    joint_count: int,
    low: Array,
    high: Array,
    turns: Turns | None = None,
) -> Targets:
    """The way from actions to targets that a contract asks for."""
    command = config.command
    if config.kind in TOOL_KINDS:
        return ToolPoses(config, period_s) if command.type == POSE else ToolTwists(config, period_s)
    if sends_velocities(config):
        return JointVelocities(config, period_s, joint_count)
    return JointTargets(config, period_s, low, high, turns)


def sends_velocities(config: ActionConfig) -> bool:
    """Whether the joint command carries velocities."""
    command = config.command
    if command.quantity != "auto":
        return command.quantity == "velocity"
    return config.kind is ActionKind.JOINT_VELOCITY and command.type in (NUMBERS, JOINT_STATE)


def moved(pose: Array, change: Array) -> Array:
    """A pose after a change in the base frame: x y z (m), then a rotation vector (rad)."""
    result = np.empty(7)
    result[:3] = pose[:3] + change[:3]
    turn = rotation.from_vector((change[3], change[4], change[5]))
    result[3:] = rotation.multiply(turn, (pose[3], pose[4], pose[5], pose[6]))
    return unit_pose(result)


def way(start: Array, end: Array) -> Array:
    """The change that :func:`moved` needs to get from one pose to another, (6,)."""
    result = np.empty(6)
    result[:3] = end[:3] - start[:3]
    back = rotation.conjugate((start[3], start[4], start[5], start[6]))
    turn = rotation.multiply((end[3], end[4], end[5], end[6]), back)
    result[3:] = rotation.to_vector(turn)
    return result


def shortened(vector: Array, longest: float) -> Array:
    """A vector in the same direction that is at most so long."""
    length = float(np.linalg.norm(vector))
    return vector if length <= longest else vector * (longest / length)


def unit_pose(pose: Array) -> Array:
    """The pose with a quaternion of length one. Raises SpecError for one without a direction."""
    result = np.array(pose, dtype=np.float64)
    norm = float(np.linalg.norm(result[3:]))
    if norm < 1e-6:
        raise SpecError("quaternion of a pose", got=pose[3:].tolist(), expected="length 1")
    result[3:] /= norm
    return result


_POINT = "trajectory_msgs/msg/JointTrajectoryPoint"


class TargetSender:
    """Publishes targets on one topic.

    Args:
        io: Topics.
        config: Which topic.
        joints: Names for messages that name joints.
        base_frame: Frame of targets that are poses and twists.
        duration_s: JointTrajectory: when a point is to be reached, where the contract is silent.
        frames: Know the way from there to the frame of the messages, where it is another.
        scaling: Scale and offset to the robot's own units (``contract.command_scaling``).

    Raises:
        TransportError: The message type is not installed.
    """

    def __init__(
        self,
        io: TopicIo,
        config: CommandConfig,
        joints: Sequence[str],
        base_frame: str,
        duration_s: float,
        frames: Frames | None = None,
        scaling: tuple[Array, Array] | None = None,
    ) -> None:
        self._io, self.config = io, config
        self._joints = list(joints)
        self._frame = config.frame or base_frame
        self._way: Transform | None = None
        if plain(self._frame) != plain(base_frame):
            self._way = (frames or Frames()).between(base_frame, self._frame)
            if self._way is None:
                raise ConfigError("frame of a command", got=self._frame, expected=base_frame)
        self._scale: Array
        self._offset: Array
        self._scale, self._offset = scaling or (np.ones(1), np.zeros(1))
        self._scaled = bool((self._scale != 1).any() or self._offset.any())
        self._low = np.asarray(-np.inf if config.low is None else config.low, float)
        self._high = np.asarray(np.inf if config.high is None else config.high, float)
        self._bounded = config.low is not None or config.high is not None
        self._duration_s = config.time_from_start_s or duration_s
        self.publisher: TopicPublisher = io.publisher(config.topic, config.type)

    def send(self, target: Target, duration_s: float | None = None) -> None:
        """Publish one target.

        Args:
            target: Of the quantity that the topic's type can carry.
            duration_s: JointTrajectory: when it is to be reached, instead of the usual.
        """
        message = self.publisher.new()
        kind, values = self.config.type, self._to_robot(target)
        if kind == JOINT_TRAJECTORY:
            _fill_trajectory(
                self._io, message, self._joints, values, duration_s or self._duration_s
            )
        elif kind == NUMBERS:
            message.data = values.tolist()
        else:
            _stamp(message.header, self._io.now_ns())
            if kind == JOINT_STATE:
                message.name = self._joints
                field = "velocity" if target.quantity == "velocities" else "position"
                setattr(message, field, values.tolist())
            elif kind == TWIST:
                message.header.frame_id = self._frame
                _fill_xyz(message.twist.linear, values[:3])
                _fill_xyz(message.twist.angular, values[3:])
            elif kind == POSE:
                message.header.frame_id = self._frame
                _fill_xyz(message.pose.position, values[:3])
                _fill_xyz(message.pose.orientation, values[3:6])
                message.pose.orientation.w = float(values[6])
        self.publisher.publish(message)

    def accepted(self, target: Target) -> Target:
        """The target as the robot takes it, in our units: what is out of its range is cut."""
        if not self._bounded:
            return target
        values = (self._to_robot(target) - self._offset) / self._scale
        if self._way is not None and target.quantity == "twist":
            values = self._way.inverse().apply("twist", values)
        return Target(target.quantity, values)

    def _to_robot(self, target: Target) -> Array:
        """The numbers of a target in the robot's own frame, units and range."""
        values = target.values
        if self._way is not None and target.quantity in ("pose", "twist"):
            values = self._way.apply(target.quantity, values)
        if self._scaled:
            values = values * self._scale + self._offset
        if self._bounded:
            values = np.clip(values, self._low, self._high)
        return values

    def close(self) -> None:
        """End the publisher."""
        self.publisher.close()


#: After so long, a goal that was rejected is sent again.
_RETRY_S = 0.5


class GripperSender:
    """Opens and closes a gripper by its own topic or action.

    Args:
        io: Topics.
        config: Which topic, and what open and closed are there.
    """

    def __init__(self, io: TopicIo, config: GripperConfig) -> None:
        self._io, self.config = io, config
        self._sent = math.nan  # asked for
        self._holds = math.nan  # accepted
        self._retry_s = math.inf  # when a goal that was rejected is sent again, monotonic
        self.publisher: TopicPublisher = (
            io.goals(config.topic, config.type)
            if config.type in (GRIPPER_ACTION, PARALLEL_GRIPPER_ACTION)
            else io.publisher(config.topic, config.type)
        )

    def send(self, opening: float) -> float:
        """Ask for an opening, 0 closed to 1 open; returns the opening that now holds.

        A change smaller than ``min_change`` is not sent, so that a controller that plans anew
        for each command is not kept busy. A goal that an action server rejects changes nothing
        (0 is returned where nothing was accepted yet), and is sent again after a while.
        """
        due = self._rejected() and time.monotonic() >= self._retry_s
        if due or not abs(opening - self._sent) < self.config.min_change:
            self._publish(opening)
            self._sent, self._retry_s = opening, time.monotonic() + _RETRY_S
        accepted = self._accepted()
        if accepted or (accepted is None and math.isnan(self._holds)):
            self._holds = self._sent
        return 0.0 if math.isnan(self._holds) else self._holds

    def trouble(self) -> Reason:
        """Why the gripper does not do what it was told; false if it does."""
        if not self._rejected():
            return NO_REASON
        return Reason(
            GRIPPER_REJECTED,
            f"action {self.publisher.topic!r} ({self.config.type}) rejects opening "
            f"{self._sent:g}: the gripper may not be homed, or cannot open that wide",
        )

    def _rejected(self) -> bool:
        return self._accepted() is False

    def _accepted(self) -> bool | None:
        """Of the newest goal; what goes to a topic is taken as accepted."""
        accepted: bool | None = getattr(self.publisher, "accepted", None)
        is_action = self.config.type in (GRIPPER_ACTION, PARALLEL_GRIPPER_ACTION)
        return accepted if is_action else True

    def _publish(self, opening: float) -> None:
        config = self.config
        value = config.closed + opening * (config.opened - config.closed)
        message = self.publisher.new()
        if config.type == NUMBER:
            message.data = value
        elif config.type == NUMBERS:
            message.data = [value] * max(1, len(config.joints))
        elif config.type == JOINT_STATE:
            _stamp(message.header, self._io.now_ns())
            self._fill_joint_state(message, value)
        elif config.type == PARALLEL_GRIPPER_ACTION:
            self._fill_joint_state(message.command, value)
        elif config.type == JOINT_TRAJECTORY:
            values = np.full(len(config.joints), value)
            _fill_trajectory(
                self._io, message, list(config.joints), values, config.time_from_start_s
            )
        else:
            message.command.position = value
            message.command.max_effort = config.max_effort
        self.publisher.publish(message)

    def _fill_joint_state(self, message: Any, value: float) -> None:
        joints = self.config.joints
        message.name, message.position = list(joints), [value] * len(joints)
        if self.config.max_effort:
            message.effort = [self.config.max_effort] * len(joints)

    def forget(self) -> None:
        """Send the next opening whatever it is."""
        self._sent = math.nan
        self._retry_s = math.inf

    def close(self) -> None:
        """End the publisher."""
        self.publisher.close()


def require_listener(
    io: TopicIo, publisher: TopicPublisher, type_name: str, waited_s: float
) -> None:
    """Raise DeviceTimeout, with what there is instead, unless somebody listens."""
    if publisher.subscribers:
        return
    others = sorted(
        topic
        for topic, types in io.topics().items()
        if type_name in types and topic != publisher.topic
    )
    raise DeviceTimeout(
        f"command topic {publisher.topic!r}",
        got=f"nobody listens to it within {waited_s:g} s",
        expected=f"a controller that takes {type_name}; topics of this type: {others}",
        hint="Activate the controller (ros2 control switch_controllers), or correct the contract",
    )


def _fill_trajectory(
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


def _fill_xyz(vector: Any, values: Array) -> None:
    vector.x, vector.y, vector.z = (float(value) for value in values)


def _stamp(header: Any, now_ns: int) -> None:
    header.stamp.sec, header.stamp.nanosec = divmod(now_ns, 1_000_000_000)
