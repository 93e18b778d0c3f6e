"""The topics that other people's nodes expect, and markers for rviz."""

from __future__ import annotations

import array
import logging
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from geometry_msgs.msg import Point, PoseStamped, Quaternion, TwistStamped, Vector3, WrenchStamped
from sensor_msgs.msg import CameraInfo, Image, JointState
from std_msgs.msg import ColorRGBA
from visualization_msgs.msg import Marker, MarkerArray

from user_comm import topics
from user_comm.converters import set_stamp
from user_comm.endpoints import TopicPublisher
from user_comm.topics import Topic
from user_core.specs import Array, Arrays, ArraySpec, RobotSpec
from user_core.types import ActedBy, ActionChunk, Observation
from user_hal.cameras.calibration import Calibration
from user_hal.robot_file import DisplayConfig
from user_hal.runtime.control_loop import HalStatus
from user_hal.safety.config import WorkspaceConfig
from user_hal.safety.stops import SafetyState

_log = logging.getLogger(__name__)
_KINDS = ("image", "depth")
#: How often it is asked whether anybody listens.
_LOOK_PERIOD_S = 0.2
#: How often it is asked who listens to images.
_READERS_PERIOD_S = 1.0
#: Makes a publisher; None where the topic must not be published.
Advertise = Callable[[Topic], TopicPublisher | None]
Maker = Callable[[Observation], Any]


@dataclass
class _Outlet:
    """A topic.

    Attributes:
        publisher: Of it.
        maker: Makes its messages.
        is_image: Whether these are large.
        eyes_hz: How many of them a second the consoles show that want them, where nobody else does; else 0.
        next_s: When the next one is due for these; monotonic.
    """

    publisher: TopicPublisher
    maker: Maker
    is_image: bool = False
    eyes_hz: float = 0.0
    next_s: float = 0.0

    def is_due(self, now_s: float) -> bool:
        """Whether the newest observation is to be published."""
        if not self.publisher.wanted:
            return False
        if not self.eyes_hz:
            return True
        period_s = 1.0 / self.eyes_hz
        if now_s < self.next_s - period_s / 4:  # observations come a little early and late
            return False
        self.next_s = max(self.next_s + period_s, now_s)
        return True


class StandardTopics:
    """Publishes joint states, tool pose, tool velocity, wrench, gripper and images.

    A thread of its own does the work, so that the control loop never waits for it: it takes
    the newest observation and drops those that it could not keep up with. Nothing is made for
    a topic that nobody listens to, and images that only consoles show come no oftener than
    these do (:data:`~user_comm.topics.EYES_HZ`).

    Args:
        spec: What the robot shows; topics exist for what it has.
        display: Names of the frames.
        advertise: Makes a publisher, or none for a topic that the robot is read from.
        extra: Called with every observation that is worked on, for further topics.
        extra_wanted: Whether anybody listens to those.
        calibrations: What is known now of how cameras project, by the name of the observation.
        ros_ns: What the ROS clock shows at a time since the epoch: what other nodes expect.
    """

    def __init__(
        self,
        spec: RobotSpec,
        display: DisplayConfig,
        advertise: Advertise,
        extra: Callable[[Observation], None] = lambda observation: None,
        extra_wanted: Callable[[], bool] = lambda: False,
        calibrations: Callable[[], Mapping[str, Calibration]] = dict,
        ros_ns: Callable[[int], int] = lambda wall_ns: wall_ns,
    ) -> None:
        self._calibrations, self._ros_ns = calibrations, ros_ns
        self._spec, self._display = spec, display
        joints = [n for n in spec.observation if n.rpartition(".")[2] == "joint_position"]
        self._joint_arrays = ["joint_position"] if "joint_position" in joints else joints
        self._extra, self._extra_wanted = extra, extra_wanted
        self._look_s, self._wanted = 0.0, False
        self._outlets: list[_Outlet] = []
        self._readers_s = 0.0
        self._changed = threading.Condition()
        self._newest: Observation | None = None
        self._ending = False
        self._thread: threading.Thread | None = None
        self._advertise_all(advertise)

    def start(self) -> None:
        """Begin to publish."""
        self._ending = False
        self._thread = threading.Thread(target=self._run, name="standard_topics", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End the thread."""
        with self._changed:
            self._ending = True
            self._changed.notify()
        if self._thread is not None:
            self._thread.join(1.0)

    def show(self, observation: Observation) -> None:
        """Hand over an observation; returns at once. Without subscribers no thread is woken."""
        now_s = time.monotonic()
        if now_s >= self._look_s:
            self._look_s = now_s + _LOOK_PERIOD_S
            self._wanted = self._extra_wanted() or any(
                one.publisher.wanted for one in self._outlets
            )
        if not self._wanted:
            return
        with self._changed:
            self._newest = observation
            self._changed.notify()

    def _advertise_all(self, advertise: Advertise) -> None:
        makers: dict[str, tuple[Topic, Callable[[str, Observation], Any]]] = {
            "tcp_pose": (topics.TCP_POSE, self._pose),
            "tcp_velocity": (topics.TCP_TWIST, self._twist),
            "wrench": (topics.WRENCH, self._wrench),
            "gripper": (topics.GRIPPER, self._gripper),
        }
        if self._joint_arrays:
            self._add(advertise(topics.JOINT_STATES), self._joints)
        for name in self._spec.observation:
            group, _, kind = name.rpartition(".")
            if kind in makers:
                topic, make_of = makers[kind]
                if group:  # of a robot with several: left/tcp_pose
                    topic = replace(topic, name=f"{group}/{topic.name}")
                self._add(advertise(topic), partial(make_of, name))
        for name, item in self._spec.observation.items():
            kind, _, camera = name.partition("_")
            if kind in _KINDS and camera and len(item.shape) == 3:
                make = self._image if kind == "image" else self._depth
                image, info = make(name, item), self._info(name, item)
                self._add(advertise(topics.CAMERA_IMAGE.at(camera=camera)), image, is_image=True)
                self._add(advertise(topics.CAMERA_INFO.at(camera=camera)), info)

    def _add(self, publisher: TopicPublisher | None, maker: Maker, is_image: bool = False) -> None:
        if publisher is not None:
            self._outlets.append(_Outlet(publisher, maker, is_image))

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._newest is not None or self._ending)
                if self._ending:
                    return
                observation, self._newest = self._newest, None
            if observation is None:
                continue
            try:
                self._publish(observation)
            except Exception:  # what people look at must not end anything
                if not self._ending:
                    _log.exception("standard topics could not be published")

    def _publish(self, observation: Observation) -> None:
        now_s = time.monotonic()
        if now_s >= self._readers_s:
            self._readers_s = now_s + _READERS_PERIOD_S
            for one in self._outlets:
                readers = one.publisher.readers if one.is_image else set()
                known = readers <= topics.EYES_HZ.keys()
                one.eyes_hz = (
                    max((topics.EYES_HZ[r] for r in readers), default=0.0) if known else 0.0
                )
        for one in self._outlets:
            if one.is_due(now_s):
                one.publisher.publish(one.maker(observation))
        self._extra(observation)

    def _joints(self, observation: Observation) -> JointState:
        """All joints, also where each group of the robot shows its own."""
        arrays, message = observation.arrays, JointState()
        self._stamp(message, observation)
        names = self._joint_arrays
        message.name = [joint for name in names for joint in self._joint_names(name)]
        for quantity in ("position", "velocity", "effort"):
            found = [name.removesuffix("position") + quantity for name in names]
            if all(name in arrays for name in found):
                values = np.concatenate([arrays[name] for name in found])
                setattr(message, quantity, _doubles(values))
        self._add_fingers(message, arrays)
        return message

    def _joint_names(self, array_name: str) -> Sequence[str]:
        spec, group = self._spec.observation[array_name], array_name.rpartition(".")[0]
        prefix = f"{group}_" if group else ""
        return spec.names or [f"{prefix}joint_{i + 1}" for i in range(spec.size)]

    def _add_fingers(self, message: JointState, arrays: Arrays) -> None:
        """The gripper's joints, where they are known; whole arrays only, as the message asks for."""
        known = self._display.gripper_joints
        opening = float(arrays["gripper"].reshape(-1)[0]) if "gripper" in arrays else 0.0
        for name, (closed, opened) in known.items():
            if name in message.name:
                continue
            message.name.append(name)
            message.position.append(closed + opening * (opened - closed))
            for more in (message.velocity, message.effort):
                if more:
                    more.append(0.0)

    def _pose(self, name: str, observation: Observation) -> PoseStamped:
        x, y, z, qx, qy, qz, qw = observation.arrays[name].tolist()
        message = PoseStamped()
        self._stamp(message, observation, self._spec.observation[name].frame)
        message.pose.position = Point(x=x, y=y, z=z)
        message.pose.orientation = Quaternion(x=qx, y=qy, z=qz, w=qw)
        return message

    def _twist(self, name: str, observation: Observation) -> TwistStamped:
        message = TwistStamped()
        self._stamp(message, observation, self._spec.observation[name].frame)
        message.twist.linear, message.twist.angular = _vectors(observation.arrays[name])
        return message

    def _wrench(self, name: str, observation: Observation) -> WrenchStamped:
        message = WrenchStamped()
        frame = self._spec.observation[name].frame or self._display.tool_frame
        self._stamp(message, observation, frame)
        message.wrench.force, message.wrench.torque = _vectors(observation.arrays[name])
        return message

    def _gripper(self, name: str, observation: Observation) -> JointState:
        message = JointState(name=[name.replace(".", "_")])
        self._stamp(message, observation)
        message.position = _doubles(observation.arrays[name].reshape(-1)[:1])
        return message

    def _image(self, name: str, spec: ArraySpec) -> Maker:
        height, width, channels = spec.shape

        def image(observation: Observation) -> Image:
            message = Image(height=height, width=width, step=width * channels)
            self._stamp(message, observation, spec.frame)
            message.encoding = "rgb8" if channels == 3 else "mono8"
            message.data = array.array("B", observation.arrays[name].tobytes())
            return message

        return image

    def _depth(self, name: str, spec: ArraySpec) -> Maker:
        """Metres as 32FC1, NaN where nothing was measured (REP-118)."""
        height, width, _ = spec.shape
        step_m = float(spec.unit.split()[0]) if spec.dtype == "uint16" and " " in spec.unit else 1.0

        def image(observation: Observation) -> Image:
            metres = observation.arrays[name].astype("float32") * np.float32(step_m)
            metres[metres <= 0] = np.nan
            message = Image(height=height, width=width, step=width * 4, encoding="32FC1")
            self._stamp(message, observation, spec.frame)
            message.is_bigendian = int(sys.byteorder == "big")
            message.data = array.array("B", metres.tobytes())
            return message

        return image

    def _info(self, name: str, spec: ArraySpec) -> Maker:
        height, width, _ = spec.shape

        def info(observation: Observation) -> CameraInfo:
            message = CameraInfo(height=height, width=width)  # K of zeros: not calibrated
            calibration = self._calibrations().get(name)
            if calibration is not None:
                calibration.fill(message)
            self._stamp(message, observation, spec.frame)
            return message

        return info

    def _stamp(self, message: Any, observation: Observation, frame: str = "") -> None:
        set_stamp(message.header.stamp, self._ros_ns(observation.stamp_ns))
        message.header.frame_id = self._display.frame_prefix + (frame or self._display.base_frame)


def _doubles(values: Array) -> array.array[float]:
    return array.array("d", values.astype("float64").tobytes())


def _vectors(six: Array) -> tuple[Vector3, Vector3]:
    a, b, c, d, e, f = six.tolist()
    return Vector3(x=a, y=b, z=c), Vector3(x=d, y=e, z=f)


_GREEN = ColorRGBA(r=0.2, g=0.8, b=0.3, a=0.6)
_BLUE = ColorRGBA(r=0.3, g=0.5, b=1.0, a=0.8)
_WHITE = ColorRGBA(r=1.0, g=1.0, b=1.0, a=1.0)
_RED = ColorRGBA(r=1.0, g=0.2, b=0.2, a=1.0)
_LINE_M, _TEXT_M, _TEXT_ABOVE_M = 0.003, 0.04, 0.12
_ACTORS = {
    ActedBy.POLICY: "policy",
    ActedBy.HUMAN: "human",
    ActedBy.SCRIPT: "script",
    ActedBy.RANDOM: "random",
    ActedBy.FALLBACK: "fallback",
}
#: Corners of a box, and the pairs of them that its edges join.
_CORNERS = [(x, y, z) for x in (0, 1) for y in (0, 1) for z in (0, 1)]
_EDGES = [(a, b) for a in range(8) for b in range(a + 1, 8) if bin(a ^ b).count("1") == 1]


def markers(
    observation: Observation,
    status: HalStatus,
    acting: ActionChunk | None,
    display: DisplayConfig,
    box: WorkspaceConfig,
    of_groups: Mapping[str, tuple[WorkspaceConfig, str]] | None = None,
) -> MarkerArray:
    """All markers of this moment, in the base frame; ``of_groups`` are the boxes of action groups,
    each with its frame."""
    found = [_who(observation.arrays, status, acting)]
    if box.given:
        found.append(_box(box))
    for name, (own, frame) in (of_groups or {}).items():
        if own.given:
            found.append(_box(own, f"workspace_{name}"))
            found[-1].header.frame_id = frame
    goal = observation.arrays.get(display.goal)
    if goal is not None and goal.ndim == 1 and len(goal) >= 3:
        marker = _marker("goal", Marker.SPHERE, _GREEN, 2 * display.goal_radius_m)
        x, y, z = goal[:3].tolist()
        marker.pose.position = Point(x=x, y=y, z=z)
        found.append(marker)
    for marker in found:
        frame = marker.header.frame_id or display.base_frame
        marker.header.frame_id = display.frame_prefix + frame
        set_stamp(marker.header.stamp, observation.stamp_ns)
    return MarkerArray(markers=found)


def who_acts(status: HalStatus, acting: ActionChunk | None) -> str:
    """Who drives the robot now, or why it is not driven."""
    if status.state in (SafetyState.STOPPED, SafetyState.EMERGENCY):
        return f"{status.state.name}: {status.cause.code}"
    if status.state is SafetyState.IDLE or acting is None:
        return "idle"
    version = f" v{acting.policy_version}" if acting.policy_version else ""
    return _ACTORS[acting.acted_by] + version


def _who(arrays: Arrays, status: HalStatus, acting: ActionChunk | None) -> Marker:
    stopped = status.state in (SafetyState.STOPPED, SafetyState.EMERGENCY)
    marker = _marker("acting", Marker.TEXT_VIEW_FACING, _RED if stopped else _WHITE, _TEXT_M)
    marker.text = who_acts(status, acting)
    pose = arrays.get("tcp_pose")
    x, y, z = pose[:3].tolist() if pose is not None else (0.0, 0.0, 0.5)
    marker.pose.position = Point(x=x, y=y, z=z + _TEXT_ABOVE_M)
    return marker


def _box(box: WorkspaceConfig, name: str = "workspace") -> Marker:
    marker = _marker(name, Marker.LINE_LIST, _BLUE, _LINE_M)
    corners = [
        Point(
            **{axis: (box.low, box.high)[side][i] for i, (axis, side) in enumerate(zip("xyz", c))}
        )
        for c in _CORNERS
    ]
    marker.points = [corners[end] for edge in _EDGES for end in edge]
    return marker


def _marker(namespace: str, kind: int, colour: ColorRGBA, size_m: float) -> Marker:
    marker = Marker(ns=namespace, type=kind, action=Marker.ADD, color=colour)
    marker.pose.orientation.w = 1.0
    marker.scale.x = marker.scale.y = marker.scale.z = size_m
    return marker
