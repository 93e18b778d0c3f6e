"""A simulated arm as an ordinary ROS robot: standard topics, nothing of USER.

What a lab's robot looks like from outside: joint states and poses from broadcasters, commands to
the controllers of ros2_control, images from camera drivers. The ``ros2`` driver is tested
against this in another process, and authors of contracts can practise on it::

    ros2 run user_hal sim_ros_robot --ros-args -p arm:=ur5e -p cameras:="[wrist]"

Publishes ``joint_states``, ``tcp_pose_broadcaster/pose``,
``force_torque_sensor_broadcaster/wrench`` and for each camera ``<name>_camera/image_raw`` and
``.../compressed``. Listens to ``joint_trajectory_controller/joint_trajectory``,
``forward_position_controller/commands``, ``forward_velocity_controller/commands``,
``servo_node/delta_twist_cmds``, ``cartesian_controller/target_pose``, ``joint_commands`` and
``gripper_controller/commands``. Services ``~/reset`` (a new random scene) and ``~/zero_ftsensor``.

The parameters ``silent`` (topics that are not published) and ``delay_s`` may be changed while it
runs: so it can fail like a real one.
"""

from __future__ import annotations

import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import cv2
import numpy as np
import rclpy
from geometry_msgs.msg import PoseStamped, TwistStamped, WrenchStamped
from rcl_interfaces.msg import ParameterDescriptor
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import qos_profile_sensor_data
from rclpy.task import Future
from sensor_msgs.msg import CompressedImage, Image, JointState
from std_msgs.msg import Float64MultiArray
from std_srvs.srv import Trigger
from trajectory_msgs.msg import JointTrajectory

from user_comm.lost_messages import spin
from user_comm.start import start_rclpy
from user_core.errors import SuiteError
from user_core.runtime.processes.endings import limited
from user_core.runtime.processes.stop_signals import StopSignals
from user_core.specs import Array
from user_hal.sim.control import ArmControllers
from user_hal.sim.periodic import PeriodicThread
from user_hal.sim.rendering import Renderer, Snapshot
from user_hal.sim.scene import Scene, SceneState


class SimRosRobot(Node):
    """The node. Physics and images run in threads of their own."""

    def __init__(self, **node_options: Any) -> None:
        super().__init__("sim_ros_robot", **node_options)
        self._declare()
        self._scene = Scene(self._get("arm"), self._get("task"))
        self._rng = np.random.default_rng(self._get("seed"))
        self._scene.reset(self._rng)
        self._controllers = ArmControllers(self._scene)
        self._base_frame = self._get("base_frame") or self._scene.arm.base.name
        old, _, new = self._get("rename").partition(":")
        arm = self._scene.arm
        self._public_names = {
            name: name.replace(old, new) if old else name
            for name in (*arm.joint_names, *arm.gripper.finger_names)
        }
        self._lock = threading.Lock()
        self._wrench_zero: Array = np.zeros(6)
        self._delayed: deque[tuple[float, Any, Any]] = deque()
        self._joints = self.create_publisher(JointState, "joint_states", 10)
        self._pose = self.create_publisher(
            PoseStamped, "tcp_pose_broadcaster/pose", qos_profile_sensor_data
        )
        self._wrench = self.create_publisher(
            WrenchStamped, "force_torque_sensor_broadcaster/wrench", qos_profile_sensor_data
        )
        self._listen()
        self._period_s = 1.0 / self._get("rate_hz")
        self._threads = [PeriodicThread(self._period_s, self._tick, "physics")]
        self._renderer: Renderer | None = None
        cameras = tuple(self._get("cameras"))
        if cameras:
            self._open_cameras(cameras)
        for thread in self._threads:
            thread.start()

    def destroy_node(self) -> None:
        """End the threads first: they publish."""
        for thread in self._threads:
            thread.stop()
        if self._renderer is not None:
            self._renderer.close()
        super().destroy_node()

    def _declare(self) -> None:
        for name, default, description in (
            ("arm", "ur5e", "panda or ur5e"),
            ("task", "reach", "reach, pick_place or peg_insertion"),
            ("rate_hz", 100.0, "how often states are published, Hz"),
            ("cameras", [""], "front, wrist"),
            ("image_rate_hz", 20.0, "how often images are published, Hz"),
            ("image_height", 96, "pixels"),
            ("image_width", 128, "pixels"),
            ("seed", 0, "of the scene"),
            ("base_frame", "", "frame of poses, instead of the arm's own"),
            ("rename", "", "old:new, replaced in the names of joints"),
            ("silent", [""], "topics that are not published now"),
            ("delay_s", 0.0, "how late states are published, seconds"),
        ):
            self.declare_parameter(name, default, ParameterDescriptor(description=description))

    def _get(self, name: str) -> Any:
        value = self.get_parameter(name).value
        return [item for item in value if item] if isinstance(value, list) else value

    # -- commands ----------------------------------------------------------------------------

    def _listen(self) -> None:
        controllers = self._controllers
        for kind, topic, take in (
            (JointTrajectory, "joint_trajectory_controller/joint_trajectory", self._trajectory),
            (
                Float64MultiArray,
                "forward_position_controller/commands",
                lambda m: controllers.positions(m.data),
            ),
            (
                Float64MultiArray,
                "forward_velocity_controller/commands",
                lambda m: controllers.velocities(m.data),
            ),
            (TwistStamped, "servo_node/delta_twist_cmds", self._twist),
            (PoseStamped, "cartesian_controller/target_pose", self._target_pose),
            (JointState, "joint_commands", self._joint_command),
            (
                Float64MultiArray,
                "gripper_controller/commands",
                lambda m: controllers.gripper(m.data[0]),
            ),
        ):
            self.create_subscription(kind, topic, self._guarded(topic, take), 1)
        self.create_service(Trigger, "~/reset", self._reset)
        self.create_service(Trigger, "~/zero_ftsensor", self._zero)

    def _guarded(self, topic: str, take: Callable[[Any], None]) -> Callable[[Any], None]:
        def receive(message: Any) -> None:
            try:
                with self._lock:
                    take(message)
            except Exception as error:  # whatever comes in, a robot stays up
                self.get_logger().error(f"{topic}: {error}", throttle_duration_sec=1.0)

        return receive

    def _trajectory(self, message: Any) -> None:
        point = message.points[-1]
        time_s = point.time_from_start.sec + point.time_from_start.nanosec * 1e-9
        self._controllers.trajectory(self._own_names(message.joint_names), point.positions, time_s)

    def _twist(self, message: Any) -> None:
        self._require_base(message)
        twist = message.twist
        self._controllers.twist(_xyz(twist.linear) + _xyz(twist.angular))

    def _target_pose(self, message: Any) -> None:
        self._require_base(message)
        rotation = message.pose.orientation
        self._controllers.pose(_xyz(message.pose.position) + _xyz(rotation) + [rotation.w])

    def _joint_command(self, message: Any) -> None:
        if message.velocity:
            self._controllers.velocities(message.velocity)
        else:
            names = self._own_names(message.name)
            self._controllers.trajectory(names, message.position, 0.0)

    def _own_names(self, names: Sequence[str]) -> list[str]:
        own = {public: name for name, public in self._public_names.items()}
        return [own.get(name, name) for name in names]

    def _require_base(self, message: Any) -> None:
        if message.header.frame_id != self._base_frame:
            raise SuiteError(
                "frame of a command", got=message.header.frame_id, expected=self._base_frame
            )

    def _reset(self, _: Any, response: Any) -> Any:
        with self._lock:
            self._scene.reset(self._rng)
            self._controllers.hold()
        response.success = True
        return response

    def _zero(self, _: Any, response: Any) -> Any:
        with self._lock:
            self._wrench_zero = self._scene.state().wrench
        response.success = True
        return response

    # -- states ------------------------------------------------------------------------------

    def _tick(self) -> None:
        with self._lock:
            self._controllers.advance(self._period_s)
            state, zero = self._scene.state(), self._wrench_zero
        stamp = self.get_clock().now().to_msg()
        base = self._base_frame
        self._send(self._joints, self._joint_message(state, stamp))
        pose = PoseStamped()
        pose.header.stamp, pose.header.frame_id = stamp, base
        _fill(pose.pose.position, state.tcp_pose[:3])
        _fill(pose.pose.orientation, state.tcp_pose[3:])
        self._send(self._pose, pose)
        wrench = WrenchStamped()
        wrench.header.stamp, wrench.header.frame_id = stamp, base
        _fill(wrench.wrench.force, (state.wrench - zero)[:3])
        _fill(wrench.wrench.torque, (state.wrench - zero)[3:])
        self._send(self._wrench, wrench)

    def _joint_message(self, state: SceneState, stamp: Any) -> JointState:
        """Names in alphabetical order, fingers among them, as joint_state_broadcaster does."""
        arm = self._scene.arm
        finger_m = state.gripper * arm.gripper.stroke_m
        values = dict(
            zip(arm.joint_names, zip(state.joint_position, state.joint_velocity), strict=True)
        )
        values.update(dict.fromkeys(arm.gripper.finger_names, (finger_m, 0.0)))
        message = JointState()
        message.header.stamp = stamp
        order = sorted(values)
        message.name = [self._public_names[name] for name in order]
        message.position = [float(values[name][0]) for name in order]
        message.velocity = [float(values[name][1]) for name in order]
        return message

    def _send(self, publisher: Any, message: Any) -> None:
        """Publish, unless that topic is to be silent; later, if states are to be late."""
        now_s, delay_s = time.monotonic(), self._get("delay_s")
        silent = {name.strip("/") for name in self._get("silent")}
        if publisher.topic_name.strip("/") not in silent:
            self._delayed.append((now_s + delay_s, publisher, message))
        while self._delayed and self._delayed[0][0] <= now_s:
            _, due, earlier = self._delayed.popleft()
            due.publish(earlier)

    # -- images ----------------------------------------------------------------------------

    def _open_cameras(self, cameras: Sequence[str]) -> None:
        self._cameras = tuple(cameras)
        self._renderer = Renderer(
            self._scene.model, self._get("image_height"), self._get("image_width")
        )
        self._images = {
            name: (
                self.create_publisher(Image, f"{name}_camera/image_raw", qos_profile_sensor_data),
                self.create_publisher(
                    CompressedImage,
                    f"{name}_camera/image_raw/compressed",
                    qos_profile_sensor_data,
                ),
            )
            for name in cameras
        }
        self._threads.append(
            PeriodicThread(1.0 / self._get("image_rate_hz"), self._take_images, "images")
        )

    def _take_images(self) -> None:
        with self._lock:
            snapshot = Snapshot.of(self._scene.data)
        stamp = self.get_clock().now().to_msg()
        assert self._renderer is not None  # noqa: S101 - it is there before this thread
        images = self._renderer.render(snapshot, self._cameras)
        silent = {name.strip("/") for name in self._get("silent")}
        for name, image_hwc in zip(self._cameras, images, strict=True):
            frame = f"camera_{name}_optical_frame"
            raw, compressed = self._images[name]
            if raw.get_subscription_count() and raw.topic_name.strip("/") not in silent:
                raw.publish(_image(image_hwc, stamp, frame))
            if compressed.get_subscription_count():
                compressed.publish(_jpeg(image_hwc, stamp, frame))


def _image(image_hwc: Array, stamp: Any, frame: str) -> Image:
    message = Image()
    message.header.stamp, message.header.frame_id = stamp, frame
    message.height, message.width = image_hwc.shape[:2]
    message.encoding, message.step = "rgb8", 3 * image_hwc.shape[1]
    message.data.frombytes(image_hwc.tobytes())
    return message


def _jpeg(image_hwc: Array, stamp: Any, frame: str) -> CompressedImage:
    message = CompressedImage()
    message.header.stamp, message.header.frame_id = stamp, frame
    message.format = "rgb8; jpeg compressed bgr8"
    message.data.frombytes(cv2.imencode(".jpg", image_hwc[:, :, ::-1])[1].tobytes())
    return message


def _xyz(vector: Any) -> list[float]:
    return [vector.x, vector.y, vector.z]


def _fill(vector: Any, values: Array) -> None:
    for name, value in zip("xyzw", values.tolist(), strict=False):
        setattr(vector, name, value)


def main(args: Sequence[str] | None = None) -> int:
    """Run the node until SIGINT or SIGTERM; exit code 2 where it cannot begin."""
    start_rclpy(args)
    try:
        node = SimRosRobot()
    except SuiteError as error:
        print(f"sim_ros_robot: {error}", file=sys.stderr)
        rclpy.try_shutdown()
        return 2
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    done: Future[None] = Future(executor=executor)
    with StopSignals(lambda _: executor.create_task(done.set_result, None), final=True):  # type: ignore[arg-type,return-value]
        spin(executor, done, failed=lambda error: node.get_logger().error(str(error)))
    with limited(0):
        executor.shutdown()
        node.destroy_node()
        rclpy.try_shutdown()
    return 0


if __name__ == "__main__":
    sys.exit(main())
