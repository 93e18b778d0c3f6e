"""An ideal arm that lives on the topics of ros2_control, without ROS and without physics."""

from __future__ import annotations

import threading
import time
from typing import Any

import numpy as np

from user_core.specs import Array
from user_hal.fakes.local_topics import (
    Header,
    JointState,
    LocalTopics,
    Pose,
    PoseStamped,
    Quaternion,
    Time,
    Vector3,
)

JOINTS = ("shoulder", "elbow", "wrist")


class TopicArm:
    """Three joints and, independent of them, a tool; both go where they are told, at once or at
    the speed that they are told.

    Publishes ``/joint_states`` (with a gripper's joint in front, as real ones do) and
    ``/tcp_pose_broadcaster/pose``. Listens to ``/trajectory`` (JointTrajectory),
    ``/positions/commands`` and ``/velocities/commands`` (Float64MultiArray), ``/servo/twist``
    (TwistStamped), ``/servo/pose`` (PoseStamped), ``/joint_commands`` (JointState) and the action
    ``/gripper`` (GripperCommand, 0.04 m open).

    Args:
        io: Topics.
        period_s: Of what it publishes.

    Attributes:
        joints: Positions, (3,) rad.
        pose: Of the tool, (7,).
        gripper_m: Position of the gripper.
        received: Messages by topic, the newest last.
        silent: Topics that are not published.
        blocked: Whether nothing moves whatever is commanded.
        frame_id: What its poses say.
    """

    def __init__(self, io: LocalTopics, period_s: float = 0.002) -> None:
        self._io, self._period_s = io, period_s
        self.joints: Array = np.zeros(3)
        self.pose: Array = np.array([0.4, 0.0, 0.3, 1.0, 0.0, 0.0, 0.0])
        self.gripper_m = 0.04
        self.received: dict[str, list[Any]] = {}
        self.silent: set[str] = set()
        self.blocked = False
        self.frame_id = "base"
        self.velocity = [0.0, 0.0, 0.0]
        self._joint_velocity: Array = np.zeros(3)
        self._twist: Array = np.zeros(6)
        self._joint_publisher = io.publisher("/joint_states", "sensor_msgs/msg/JointState")
        self._pose_publisher = io.publisher(
            "/tcp_pose_broadcaster/pose", "geometry_msgs/msg/PoseStamped"
        )
        for topic, kind, take in (
            ("/trajectory", "trajectory_msgs/msg/JointTrajectory", self._trajectory),
            ("/positions/commands", "std_msgs/msg/Float64MultiArray", self._positions),
            ("/velocities/commands", "std_msgs/msg/Float64MultiArray", self._velocities),
            ("/servo/twist", "geometry_msgs/msg/TwistStamped", self._servo_twist),
            ("/servo/pose", "geometry_msgs/msg/PoseStamped", self._servo_pose),
            ("/joint_commands", "sensor_msgs/msg/JointState", self._joint_state),
        ):
            io.subscribe(topic, kind, self._remembering(topic, take))
        io.serve(
            "/gripper",
            "control_msgs/action/GripperCommand",
            self._remembering("/gripper", self._gripper_goal),
        )
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> TopicArm:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._thread.join()

    def publish(self, stamp_ns: int | None = None) -> None:
        """Publish the state once, with this stamp or now."""
        sec, nanosec = divmod(self._io.now_ns() if stamp_ns is None else stamp_ns, 10**9)
        stamp = Time(sec, nanosec)
        if "/joint_states" not in self.silent:
            self._joint_publisher.publish(
                JointState(
                    Header(stamp),
                    ["finger", *JOINTS],
                    [self.gripper_m, *self.joints.tolist()],
                    [0.0, *self.velocity],
                )
            )
        if "/tcp_pose_broadcaster/pose" not in self.silent:
            x, y, z, qx, qy, qz, qw = self.pose.tolist()
            pose = Pose(Vector3(x, y, z), Quaternion(qx, qy, qz, qw))
            self._pose_publisher.publish(PoseStamped(Header(stamp, self.frame_id), pose))

    def _run(self) -> None:
        last_s = time.monotonic()
        while not self._stopping.wait(self._period_s):
            now_s = time.monotonic()
            if not self.blocked:
                self.joints = self.joints + self._joint_velocity * (now_s - last_s)
                self.pose[:3] += self._twist[:3] * (now_s - last_s)
            last_s = now_s
            self.publish()

    def _remembering(self, topic: str, take: Any) -> Any:
        def receive(message: Any) -> None:
            self.received.setdefault(topic, []).append(message)
            if not self.blocked:
                take(message)

        return receive

    def _set_joints(self, names: list[str], positions: list[float]) -> None:
        by_name = dict(zip(names, positions, strict=True))
        self.joints = np.array([by_name[name] for name in JOINTS])
        self._joint_velocity = np.zeros(3)

    def _trajectory(self, message: Any) -> None:
        self._set_joints(message.joint_names, message.points[-1].positions)

    def _positions(self, message: Any) -> None:
        self._set_joints(list(JOINTS), message.data)

    def _velocities(self, message: Any) -> None:
        self._joint_velocity = np.array(message.data)

    def _joint_state(self, message: Any) -> None:
        if message.velocity:
            self._joint_velocity = np.array(message.velocity)
        else:
            self._set_joints(message.name, message.position)

    def _servo_twist(self, message: Any) -> None:
        self._twist = np.concatenate([_xyz(message.twist.linear), _xyz(message.twist.angular)])

    def _servo_pose(self, message: Any) -> None:
        rotation = message.pose.orientation
        self.pose = np.concatenate([_xyz(message.pose.position), _xyz(rotation), [rotation.w]])
        self._twist = np.zeros(6)

    def _gripper_goal(self, message: Any) -> None:
        self.gripper_m = message.command.position


def _xyz(vector: Any) -> Array:
    return np.array([vector.x, vector.y, vector.z])
