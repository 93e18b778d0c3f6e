"""Observations as the standard messages that rviz, rosbag2 and other people's nodes expect.

Each function returns None where the observation lacks the quantity. Names, units and layouts
of the arrays are those of :mod:`user_core.specs`; stamps are those of the observation.
"""

from __future__ import annotations

import array
from collections.abc import Mapping
from typing import Any

import numpy as np
from geometry_msgs.msg import PoseStamped, TwistStamped, WrenchStamped
from sensor_msgs.msg import CameraInfo, Image, JointState

from user_comm.converters.stamps import set_stamp
from user_core.errors import CodecError
from user_core.specs import Array, ArraySpec
from user_core.types import Observation

_JOINT_FIELDS = {
    "joint_position": "position",
    "joint_velocity": "velocity",
    "joint_effort": "effort",
}


def joint_state(observation: Observation, specs: Mapping[str, ArraySpec]) -> Any:
    """``JointState`` with the joint names of the spec of ``joint_position``."""
    arrays = observation.arrays
    if "joint_position" not in arrays:
        return None
    message = JointState()
    set_stamp(message.header.stamp, observation.stamp_ns)
    names = specs["joint_position"].names
    count = arrays["joint_position"].size
    message.name = list(names) or [f"joint_{i + 1}" for i in range(count)]
    for name, field in _JOINT_FIELDS.items():
        if name in arrays and arrays[name].size == count:
            setattr(message, field, _doubles(arrays[name]))
    return message


def tcp_pose(observation: Observation, base_frame: str) -> Any:
    """``PoseStamped`` of the tool centre point in the base frame."""
    values = _values(observation, "tcp_pose", 7)
    if values is None:
        return None
    message = PoseStamped()
    set_stamp(message.header.stamp, observation.stamp_ns)
    message.header.frame_id = base_frame
    position, orientation = message.pose.position, message.pose.orientation
    position.x, position.y, position.z = values[:3]
    orientation.x, orientation.y, orientation.z, orientation.w = values[3:]
    return message


def tcp_twist(observation: Observation, base_frame: str) -> Any:
    """``TwistStamped`` of the tool centre point in the base frame."""
    values = _values(observation, "tcp_velocity", 6)
    if values is None:
        return None
    message = TwistStamped()
    set_stamp(message.header.stamp, observation.stamp_ns)
    message.header.frame_id = base_frame
    linear, angular = message.twist.linear, message.twist.angular
    linear.x, linear.y, linear.z, angular.x, angular.y, angular.z = values
    return message


def wrench(observation: Observation, frame: str) -> Any:
    """``WrenchStamped`` at the tool centre point, in the frame of the array's spec."""
    values = _values(observation, "wrench", 6)
    if values is None:
        return None
    message = WrenchStamped()
    set_stamp(message.header.stamp, observation.stamp_ns)
    message.header.frame_id = frame
    force, torque = message.wrench.force, message.wrench.torque
    force.x, force.y, force.z, torque.x, torque.y, torque.z = values
    return message


def gripper(observation: Observation) -> Any:
    """``JointState`` of one joint ``gripper``: its opening, 0 closed to 1 open."""
    if "gripper" not in observation.arrays:
        return None
    message = JointState()
    set_stamp(message.header.stamp, observation.stamp_ns)
    message.name = ["gripper"]
    message.position = _doubles(observation.arrays["gripper"].reshape(-1)[:1])
    return message


def image(image_hwc: Array, stamp_ns: int, frame: str) -> Any:
    """``Image``, rgb8, from (height, width, 3) uint8."""
    if image_hwc.dtype != np.uint8 or image_hwc.ndim != 3 or image_hwc.shape[2] != 3:
        raise CodecError(
            "image",
            came=f"{image_hwc.dtype}{list(image_hwc.shape)}",
            expected="uint8[height, width, 3]",
        )
    message = Image()
    set_stamp(message.header.stamp, stamp_ns)
    message.header.frame_id = frame
    message.height, message.width = image_hwc.shape[:2]
    message.encoding = "rgb8"
    message.step = 3 * message.width
    data = array.array("B")
    data.frombytes(np.ascontiguousarray(image_hwc).reshape(-1).data)
    message.data = data
    return message


def camera_info(height: int, width: int, stamp_ns: int, frame: str) -> Any:
    """``CameraInfo`` of a camera whose calibration is unknown: size only, K all zero."""
    message = CameraInfo()
    set_stamp(message.header.stamp, stamp_ns)
    message.header.frame_id = frame
    message.height, message.width = height, width
    return message


def _values(observation: Observation, name: str, size: int) -> list[float] | None:
    if name not in observation.arrays:
        return None
    values: list[float] = observation.arrays[name].reshape(-1).astype(np.float64).tolist()
    if len(values) != size:
        raise CodecError(f"observation.{name}", came=f"{len(values)} values", expected=size)
    return values


def _doubles(values: Array) -> array.array[float]:
    return array.array("d", values.reshape(-1).astype(np.float64).tobytes())
