"""From a target to the message that a controller listens to."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from user_core.errors import DeviceTimeout
from user_core.specs import Array
from user_hal.robots.ros2.contract import CommandConfig, GripperConfig
from user_hal.robots.ros2.kinds import (
    GRIPPER_ACTION,
    JOINT_STATE,
    JOINT_TRAJECTORY,
    NUMBER,
    NUMBERS,
    PARALLEL_GRIPPER_ACTION,
    POSE,
    TWIST,
)
from user_hal.robots.ros2.targets import Target
from user_hal.topic_io import TopicIo, TopicPublisher

_POINT = "trajectory_msgs/msg/JointTrajectoryPoint"


class TargetSender:
    """Publishes targets on one topic.

    Args:
        io: Topics.
        config: Which topic.
        joints: Names for messages that name joints.
        base_frame: Frame of poses and twists, where the contract says no other.
        duration_s: JointTrajectory: when a point is to be reached, where the contract is silent.

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
    ) -> None:
        self._io, self.config = io, config
        self._joints = list(joints)
        self._frame = config.frame or base_frame
        self._duration_s = config.time_from_start_s or duration_s
        self.publisher: TopicPublisher = io.publisher(config.topic, config.type)

    def send(self, target: Target, duration_s: float | None = None) -> None:
        """Publish one target.

        Args:
            target: Of the quantity that the topic's type can carry.
            duration_s: JointTrajectory: when it is to be reached, instead of the usual.
        """
        message = self.publisher.new()
        kind, values = self.config.type, target.values
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

    def close(self) -> None:
        """End the publisher."""
        self.publisher.close()


class GripperSender:
    """Opens and closes a gripper by its own topic or action.

    Args:
        io: Topics.
        config: Which topic, and what open and closed are there.
    """

    def __init__(self, io: TopicIo, config: GripperConfig) -> None:
        self._io, self.config = io, config
        self._sent = math.nan
        self.publisher: TopicPublisher = (
            io.goals(config.topic, config.type)
            if config.type in (GRIPPER_ACTION, PARALLEL_GRIPPER_ACTION)
            else io.publisher(config.topic, config.type)
        )

    def send(self, opening: float) -> float:
        """Ask for an opening, 0 closed to 1 open; returns the opening that now holds.

        A change smaller than ``min_change`` is not sent, so that a controller that plans anew
        for each command is not kept busy.
        """
        if abs(opening - self._sent) < self.config.min_change:
            return self._sent
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
        self._sent = opening
        return opening

    def _fill_joint_state(self, message: Any, value: float) -> None:
        joints = self.config.joints
        message.name, message.position = list(joints), [value] * len(joints)
        if self.config.max_effort:
            message.effort = [self.config.max_effort] * len(joints)

    def forget(self) -> None:
        """Send the next opening whatever it is."""
        self._sent = math.nan

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
