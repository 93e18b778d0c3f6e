"""Plain classes with the fields of the ROS messages that drivers meet.

For tests and examples without ROS: the same attribute names, defaults and nesting as the classes
that rosidl makes.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


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


#: Interface name to class; the nested ones are found through their parents.
MESSAGES: dict[str, type[Any]] = {
    "geometry_msgs/msg/PoseStamped": PoseStamped,
    "geometry_msgs/msg/TwistStamped": TwistStamped,
    "geometry_msgs/msg/WrenchStamped": WrenchStamped,
    "sensor_msgs/msg/CompressedImage": CompressedImage,
    "sensor_msgs/msg/Image": Image,
    "sensor_msgs/msg/JointState": JointState,
    "sensor_msgs/msg/Joy": Joy,
    "std_msgs/msg/Float64": Float64,
    "std_msgs/msg/Float64MultiArray": Float64MultiArray,
    "trajectory_msgs/msg/JointTrajectory": JointTrajectory,
    "trajectory_msgs/msg/JointTrajectoryPoint": JointTrajectoryPoint,
}
ACTIONS: dict[str, type[Any]] = {
    "control_msgs/action/GripperCommand": GripperCommandGoal,
    "control_msgs/action/ParallelGripperCommand": ParallelGripperCommandGoal,
}
