"""The stand-in of a robot: it goes where it is told, and publishes what it measures."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from user_hal.fakes import LocalTopics
from user_hal.fakes.local_topics import (
    Header,
    JointState,
    LocalPublisher,
    Pose,
    PoseStamped,
    Quaternion,
    Time,
    Vector3,
)
from user_hal.safety.rotation import from_vector, multiply
from user_testing.invariant.checks import Invariant, joint_way, pose_way
from user_testing.invariant.robots import (
    BASE,
    CLOSED_M,
    CONTINUOUS,
    JOINT_STATE,
    NUMBERS,
    OPEN_M,
    POSE,
    START_JOINTS,
    START_POSE,
    TRAJECTORY,
    TWIST,
    CampaignRobot,
    joints_of,
)

if TYPE_CHECKING:
    from user_testing.invariant.world import World

#: The fastest that the stand-in moves by itself towards its target.
JOINT_SPEED, TOOL_SPEED, TURN_SPEED = 1.2, 0.35, 1.5
#: Readings older than this are not taken by the driver (its max_age_s, and a call that lasts).
_TAKEN_S = 0.45


@dataclass
class ReadingFault:
    """What is wrong with the next readings.

    Attributes:
        kind: Which fault.
        count: How many readings it lasts.
        values: Of a jump: what is read instead.
        amount_s: Of stamps: how far they are off.
        which: The arm that publishes them, counted round.
    """

    kind: str
    count: int = 1
    values: Sequence[float] = ()
    amount_s: float = 0.0
    which: int = 0


class StandIn:
    """An arm that follows targets at a limited speed, and a gripper, on topics in this process.

    Args:
        robot: Which of the campaign's, or one group of it.
        group: Name of the group; empty for a robot without groups.
        world: Takes what arrives.
        io: Topics.

    Attributes:
        check: What it was told is compared here.
        here: Where it really is.
        observed: Where the gate was shown it last.
    """

    def __init__(self, robot: CampaignRobot, group: str, world: World, io: LocalTopics) -> None:
        self.robot = self._robot = robot
        self._world, self._io = world, io
        self.check = Invariant(robot)
        self.joints = joints_of(group)
        self.array = (f"{group}." if group else "") + (
            "tcp_pose" if robot.pose else "joint_position"
        )
        self._readings: deque[tuple[float, list[float]]] = deque(maxlen=24)
        self.observed: Sequence[float] = ()
        self.here = list(START_POSE if robot.pose else START_JOINTS)
        self.blocked = False
        self.gripper_accepts = True
        self.opening: float | None = None  # the last goal that was accepted
        self._told: list[float] | None = None
        type_name = robot.contract["action"]["command"]["type"]
        take = {
            NUMBERS: self._numbers, TRAJECTORY: self._trajectory, JOINT_STATE: self._joint_state,
            POSE: self._pose, TWIST: self._twist, BASE: self._base,
        }[type_name]  # fmt: skip
        command = robot.contract["action"]["command"]["topic"]
        io.subscribe(command, type_name, lambda message: self._take(take(message)))
        if robot.gripper:
            topic = robot.contract["action"]["gripper"]["topic"]
            io.serve(topic, "control_msgs/action/GripperCommand", self._goal)
        self.topic = ""  # that it is read from
        self._publisher: LocalPublisher | None = None
        for source in robot.contract["observation"].values():
            self.topic = source["topic"]
            self._publisher = io.publisher(self.topic, source["type"])
        self._older: Any = None
        self.spoke_s = world.time.monotonic()  # when it published last, whatever it was

    def echo(self) -> None:
        """Publish what was observed where the robot publishes, as a node's standard topics do."""
        if self._publisher is not None and self.observed:
            stamp = Header(Time(*divmod(self._io.now_ns(), 10**9)), "base")
            self._publisher.publish(self._message(stamp, list(self.joints), self.observed))

    def readings(self, now_s: float) -> list[list[float]]:
        """What was published and may be taken still, the newest last."""
        fresh = [values for at_s, values in self._readings if now_s - at_s <= _TAKEN_S]
        return fresh or [list(self.here)]

    def let_go(self) -> None:
        """Its controller forgets its target, until it gets another one."""
        self._told = None

    def advance(self, duration_s: float) -> None:
        """Move for a while."""
        told, here = self._told, self.here
        if told is None or self.blocked:
            return
        if not self._robot.pose:
            if self._robot.rate:
                way = [value * duration_s for value in told]
            else:
                most = JOINT_SPEED * duration_s
                way = [min(max(w, -most), most) for w in joint_way(here, told)]
            here[:] = [_wrapped(h + w) if c else h + w for h, w, c in zip(here, way, CONTINUOUS)]
            return
        if self._robot.rate:
            way = [value * duration_s for value in told]
        else:
            way = pose_way(here, told)
            for part, speed in ((slice(0, 3), TOOL_SPEED), (slice(3, 6), TURN_SPEED)):
                length = math.hypot(*way[part])
                share = min(1.0, speed * duration_s / length) if length else 0.0
                way[part] = [w * share for w in way[part]]
        here[:] = _moved(here, way)

    def publish(self, fault: ReadingFault | None) -> None:
        """Publish a reading, with what is wrong with it."""
        if self._publisher is None:
            return  # a base, which nobody measures
        values, stamp_ns, frame = list(self.here), self._io.now_ns(), "base"
        kind = fault.kind if fault else ""
        names = list(self.joints)
        taken = True
        if kind == "gap":
            return
        self.spoke_s = self._world.time.monotonic()
        if kind == "repeat" and self._older is not None:
            self._publisher.publish(self._older)
            return
        if fault is not None and fault.values:
            values = list(fault.values)
        if kind == "zeros":
            values = [0.0] * 6 + [1.0] if self._robot.pose else [0.0] * 3
        elif kind == "swap":
            values[:3] = values[2::-1]
        elif kind == "not_finite":
            values[fault.count % 3] = math.nan if fault.count % 2 else math.inf  # type: ignore[union-attr]
            taken = False
        elif kind == "frame":
            values[:3], frame = [-values[0], -values[1], values[2]], "tool0"
            taken = not self._robot.pose
        elif kind == "names":
            names = ["x", "y", "z"]
            taken = self._robot.pose
        elif kind == "stamp":
            stamp_ns += round(fault.amount_s * 1e9)  # type: ignore[union-attr]
        elif kind == "short" and not self._robot.pose:
            names, values, taken = names[:2], values[:2], False
        elif kind == "quaternion" and self._robot.pose:
            values[3:7], taken = [0.0] * 4, False
        header = Header(Time(*divmod(max(stamp_ns, 0), 10**9)), frame)
        message = self._message(header, names, values)
        if taken:
            self._readings.append((self._world.time.monotonic(), values))
        self._older = message
        self._publisher.publish(message)

    def _message(self, header: Header, names: list[str], values: Sequence[float]) -> Any:
        if not self._robot.pose:
            return JointState(header, names, list(values))
        x, y, z, *q = values
        return PoseStamped(header, Pose(Vector3(x, y, z), Quaternion(*q)))

    def _take(self, values: list[float]) -> None:
        self._told = values
        self._world.arrived(self, values)

    def _base(self, message: Any) -> list[float]:
        if message.linear.z or message.angular.x or message.angular.y:
            self._world.violated(f"a base was told {message}")
        return [message.linear.x, message.linear.y, message.angular.z]

    def _numbers(self, message: Any) -> list[float]:
        return list(message.data)

    def _trajectory(self, message: Any) -> list[float]:
        if list(message.joint_names) != list(self.joints) or len(message.points) != 1:
            self._world.violated(f"a trajectory of {message.joint_names}")
        return list(message.points[0].positions)

    def _joint_state(self, message: Any) -> list[float]:
        if list(message.name) != list(self.joints):
            self._world.violated(f"a command for {message.name}")
        return list(message.velocity or message.position)

    def _pose(self, message: Any) -> list[float]:
        self._in_base(message)
        p, q = message.pose.position, message.pose.orientation
        return [p.x, p.y, p.z, q.x, q.y, q.z, q.w]

    def _twist(self, message: Any) -> list[float]:
        self._in_base(message)
        v, w = message.twist.linear, message.twist.angular
        return [v.x, v.y, v.z, w.x, w.y, w.z]

    def _in_base(self, message: Any) -> None:
        if message.header.frame_id != "base":
            self._world.violated(f"a command in frame {message.header.frame_id!r}")

    def _goal(self, message: Any) -> bool:
        opening = (message.command.position - CLOSED_M) / (OPEN_M - CLOSED_M)
        if not -1e-6 <= opening <= 1 + 1e-6:
            self._world.violated(f"the gripper was sent to {opening}")
        if self.gripper_accepts:
            self.opening = opening
        return self.gripper_accepts


def _wrapped(angle: float) -> float:
    return (angle + math.pi) % (2 * math.pi) - math.pi


def _moved(pose: Sequence[float], way: Sequence[float]) -> list[float]:
    x, y, z, w = pose[3:7]
    turned = multiply(from_vector((way[3], way[4], way[5])), (x, y, z, w))
    length = math.hypot(*turned)
    return [*(p + d for p, d in zip(pose[:3], way[:3])), *(q / length for q in turned)]
