"""Robots of several groups: two arms, a lift in m beside joints in rad, a base."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import yaml

from user_core.config import from_mapping
from user_core.conformance import check_robot
from user_core.errors import ConfigError, DeviceError, DeviceTimeout
from user_core.specs import ActionGroup, ActionKind
from user_hal.fakes import LocalTopics
from user_hal.fakes.local_topics import (
    Header,
    JointState,
    Pose,
    PoseStamped,
    Quaternion,
    Time,
    Vector3,
)
from user_hal.robots.ros2.commanding.following import COMMANDS
from user_hal.robots.ros2.contract import Ros2Config
from user_hal.robots.ros2.driver import Ros2Robot
from user_testing.waiting import wait_until

#: One arm; the second one, of another kind, below.
ARM = """
robot: one
period_s: 0.05
timing: {max_age_s: 0.5, max_skew_s: 0.1, connect_timeout_s: 1.0}
observation:
  joint_position: {topic: /joint_states, type: sensor_msgs/msg/JointState, field: position}
groups:
  left:
    joints: [l1, l2]
    action:
      kind: joint_delta
      low: -0.05
      high: 0.05
      command: {topic: /left/commands, type: std_msgs/msg/Float64MultiArray}
    home: {joints: [0.2, -0.2], speed_rad_s: 5.0, tolerance_rad: 0.01, rate_hz: 100}
"""
SECOND_ARM = """
  right:
    joints: [r1, r2, r3]
    action:
      kind: joint_velocity
      low: [-0.4, -0.4, -0.2]
      high: [0.4, 0.4, 0.2]
      command:
        topic: /right/jog
        type: control_msgs/msg/JointJog
      gripper: {topic: /right/grip, type: std_msgs/msg/Float64, closed: 0.0, opened: 0.08}
    home: {joints: [0.1, 0.0, 0.0], speed_rad_s: 5.0, tolerance_rad: 0.02, rate_hz: 100}
"""
BASE = """
  base:
    base_frame: base_footprint
    action:
      kind: base_twist
      low: [-0.5, -1.0]
      high: [0.5, 1.0]
      command: {topic: /cmd_vel, type: geometry_msgs/msg/Twist}
"""


def merged(*parts: str, **changes: Any) -> dict[str, Any]:
    mapping: dict[str, Any] = yaml.safe_load("".join(parts))
    for path, value in changes.items():
        target = mapping
        *way, last = path.split("__")
        for step in way:
            target = target[step]
        target[last] = value
    return mapping


class World:
    """Joints that go where they are told at once, or as fast; all of them on one topic."""

    def __init__(self) -> None:
        self.io = LocalTopics()
        self.position = dict.fromkeys(("l1", "l2", "r1", "r2", "r3", "lift"), 0.0)
        self.speed: dict[str, float] = {}
        self.received: dict[str, list[Any]] = {}
        self.stuck: set[str] = set()
        self.silent: set[str] = set()
        self.place, self.heading = np.zeros(2), 0.0
        self._base_publisher = self.io.publisher("/base_pose", "geometry_msgs/msg/PoseStamped")
        self._publisher = self.io.publisher("/joint_states", "sensor_msgs/msg/JointState")
        take = self.io.subscribe
        take("/left/commands", "std_msgs/msg/Float64MultiArray", self._left)
        take("/right/jog", "control_msgs/msg/JointJog", self._jog)
        take("/right/grip", "std_msgs/msg/Float64", self._keep("grip"))
        take("/cmd_vel", "geometry_msgs/msg/Twist", self._keep("base"))
        take("/arm", "trajectory_msgs/msg/JointTrajectory", self._trajectory)
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> World:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._thread.join()

    def robot(self, mapping: dict[str, Any]) -> Ros2Robot:
        robot = Ros2Robot(from_mapping(Ros2Config, mapping))
        robot.attach(self.io)
        robot.connect()
        return robot

    def _keep(self, name: str) -> Any:
        return lambda message: self.received.setdefault(name, []).append(message)

    def _left(self, message: Any) -> None:
        self.received.setdefault("left", []).append(list(message.data))
        if "left" not in self.stuck:
            self.position.update(zip(("l1", "l2"), message.data))

    def _jog(self, message: Any) -> None:
        self.received.setdefault("right", []).append(list(message.velocities))
        self.speed.update(zip(message.joint_names, message.velocities))

    def _trajectory(self, message: Any) -> None:
        self.received.setdefault("arm", []).append(message)
        self.position.update(zip(message.joint_names, message.points[-1].positions))

    def _run(self) -> None:
        last_s = time.monotonic()
        while not self._stopping.wait(0.002):
            now_s = time.monotonic()
            for joint, speed in list(self.speed.items()):
                self.position[joint] += speed * (now_s - last_s)
            if "base" not in self.stuck and self.received.get("base"):
                twist = self.received["base"][-1]
                ahead = np.array([np.cos(self.heading), np.sin(self.heading)])
                self.place = self.place + ahead * twist.linear.x * (now_s - last_s)
                self.heading += twist.angular.z * (now_s - last_s)
            last_s = now_s
            seen = {k: v for k, v in self.position.items() if k not in self.silent}
            stamp = Time(*divmod(self.io.now_ns(), 10**9))
            self._publisher.publish(JointState(Header(stamp), list(seen), list(seen.values())))
            turn = Quaternion(0.0, 0.0, np.sin(self.heading / 2), np.cos(self.heading / 2))
            pose = Pose(Vector3(*self.place.tolist(), 0.0), turn)
            self._base_publisher.publish(PoseStamped(Header(stamp, "odom"), pose))


@pytest.fixture
def world() -> Iterator[World]:
    with World() as world:
        yield world


def action(*values: float) -> Any:
    return np.array(values, np.float32)


def test_a_second_arm_of_another_kind_is_a_few_lines() -> None:
    assert len(SECOND_ARM.strip().splitlines()) <= 30
    one, two = (Ros2Robot(from_mapping(Ros2Config, merged(*parts))).spec
                for parts in ((ARM,), (ARM, SECOND_ARM)))  # fmt: skip
    assert one.action_groups == (ActionGroup("left", ActionKind.JOINT_DELTA, 2),)
    assert one.action_kind is ActionKind.JOINT_DELTA
    assert two.action_groups[1] == ActionGroup("right", ActionKind.JOINT_VELOCITY, 4)
    assert two.action_kind is ActionKind.MIXED and two.grippers == (5,)
    assert two.action.names == ("l1", "l2", "r1", "r2", "r3", "right.gripper")
    assert two.action.high == (0.05, 0.05, 0.4, 0.4, 0.2, 1.0)
    assert two.action.unit == "" and one.action.unit == "rad"
    assert two.observation["joint_position"].names == ("l1", "l2", "r1", "r2", "r3")


def test_each_group_is_driven_in_its_own_way(world: World) -> None:
    robot = world.robot(merged(ARM, SECOND_ARM, BASE))
    assert robot.spec.action.names[-2:] == ("base.vx", "base.wz")
    start = dict(world.position)
    sent = robot.command(action(0.05, 0.0, 0.3, 0.0, -0.1, 1.0, 0.2, -0.5))
    np.testing.assert_allclose(sent, [0.05, 0.0, 0.3, 0.0, -0.1, 1.0, 0.2, -0.5], atol=1e-6)
    np.testing.assert_allclose(world.received["left"][-1], [start["l1"] + 0.05, start["l2"]])
    np.testing.assert_allclose(world.received["right"][-1], [0.3, 0.0, -0.1])
    assert world.received["grip"][-1].data == pytest.approx(0.08)
    twist = world.received["base"][-1]
    assert (twist.linear.x, twist.linear.y, twist.angular.z) == (pytest.approx(0.2), 0.0, -0.5)
    arrived = pytest.approx(start["l1"] + 0.05)
    wait_until(lambda: robot.read().arrays["joint_position"][0] == arrived, "l1 where it was sent")
    robot.stop()
    assert world.received["right"][-1] == [0.0] * 3
    twist = world.received["base"][-1]
    assert (twist.linear.x, twist.angular.z) == (0.0, 0.0)
    np.testing.assert_allclose(world.received["left"][-1], [start["l1"] + 0.05, start["l2"]])
    robot.close()


def test_it_keeps_the_promises_of_a_robot(world: World) -> None:
    mapping = merged(ARM, SECOND_ARM, BASE, period_s=0.02)
    robot = Ros2Robot(from_mapping(Ros2Config, mapping))
    robot.attach(world.io)
    report = check_robot(robot, steps=8)
    assert report.passed, str(report)


def test_groups_go_home_one_after_the_other(world: World) -> None:
    robot = world.robot(merged(ARM, SECOND_ARM))
    robot.reset()
    assert world.position["l1"] == pytest.approx(0.2)
    assert world.position["r1"] == pytest.approx(0.1, abs=0.03)
    assert world.received["right"][-1] == [0.0] * 3
    robot.close()


def test_what_one_group_lacks_keeps_all_of_them_from_moving(world: World) -> None:
    mapping = merged(ARM, SECOND_ARM, timing__max_age_s=0.5)
    mapping["observation"] = {
        f"{group}.joint_position": {"topic": "/joint_states", "type": "sensor_msgs/msg/JointState",
                                    "field": "position"}
        for group in ("left", "right")
    }  # fmt: skip
    mapping["groups"]["right"]["action"] |= {"kind": "joint_delta"}
    mapping["groups"]["right"]["action"]["command"] = {
        "topic": "/arm", "type": "trajectory_msgs/msg/JointTrajectory",
    }  # fmt: skip
    robot = world.robot(mapping)
    robot.command(action(0.01, 0, 0, 0, 0, 0))
    world.silent = {"r2"}
    wait_until(lambda: _fails(lambda: robot.read()))
    count = len(world.received["left"])
    with pytest.raises(DeviceError, match="right.joint_position"):
        robot.command(action(0.01, 0, 0, 0, 0, 0))
    assert len(world.received["left"]) == count
    robot.stop()  # the left arm holds, the right one where it was sent last
    assert len(world.received["left"]) == count + 1
    robot.close()


def _fails(function: Any) -> bool:
    try:
        function()
    except DeviceError:
        return True
    return False


def test_the_group_that_does_not_follow_is_named(world: World) -> None:
    robot = world.robot(merged(ARM, SECOND_ARM))
    robot.reset()
    assert not robot.trouble()
    world.stuck = {"left"}
    for _ in range(COMMANDS + 2):
        robot.command(action(0.02, 0.0, 0.1, 0.0, 0.0, 0.0))
        time.sleep(0.01)
    trouble = robot.trouble()
    assert trouble.code == "not_followed"
    assert trouble.text.startswith("group 'left': does not follow '/left/commands'")
    robot.close()


@pytest.mark.parametrize("stuck", [False, True])
def test_a_base_that_does_not_follow_is_told_where_its_place_is_seen(
    world: World, stuck: bool
) -> None:
    mapping = merged(ARM, BASE, period_s=0.01)
    mapping["observation"]["base.pose"] = {
        "topic": "/base_pose", "type": "geometry_msgs/msg/PoseStamped", "field": "pose",
        "layout": "pose", "frame": "odom",
    }  # fmt: skip
    world.stuck = {"base"} if stuck else set()
    world.heading = 2.0
    robot = world.robot(mapping)
    for _ in range(COMMANDS + 20):
        robot.command(action(0.0, 0.0, 0.5, 0.3))
        time.sleep(0.01)
    assert robot.trouble().code == ("not_followed" if stuck else "")
    if stuck:
        assert robot.trouble().text.startswith("group 'base': does not follow '/cmd_vel'")
    robot.close()


LIFT = {
    "robot": "lift",
    "period_s": 0.05,
    "joints": ["lift", "l1"],
    "prismatic": ["lift"],
    "timing": {"max_age_s": 0.5, "connect_timeout_s": 1.0},
    "observation": {
        "joint_position": {
            "topic": "/joint_states", "type": "sensor_msgs/msg/JointState", "field": "position",
        },
    },
    "action": {
        "kind": "joint_delta", "low": [-0.01, -0.1], "high": [0.01, 0.1],
        "max_lead_rad": 0.3, "max_lead_m": 0.02,
        "target_low": [0.0, -3.0], "target_high": [0.5, 3.0],
        "command": {"topic": "/arm", "type": "trajectory_msgs/msg/JointTrajectory"},
    },
    "home": {"joints": [0.004, 0.1], "speed_rad_s": 5.0, "speed_m_s": 0.1, "rate_hz": 100,
             "tolerance_rad": 0.05, "tolerance_m": 0.001},
}  # fmt: skip


def test_a_joint_in_metres_has_its_own_lead_speed_and_tolerance(world: World) -> None:
    robot = world.robot(LIFT)
    world.position.update(lift=0.05)
    wait_until(lambda: robot.read().arrays["joint_position"][0] == pytest.approx(0.05))
    robot.reset()
    assert world.position["lift"] == pytest.approx(0.004, abs=1.1e-3)  # rad's 0.05 is far too wide
    positions = [m.points[0].positions[0] for m in world.received["arm"]]
    assert max(np.abs(np.diff(positions))) <= 0.1 / 100 + 1e-9  # m/s, not 5 rad/s
    robot.close()


def test_the_lead_of_a_joint_in_metres_is_in_metres() -> None:
    from user_hal.robots.ros2.commanding.targets import make_targets
    from user_hal.robots.ros2.contract import groups_of

    config = from_mapping(Ros2Config, LIFT)
    (group,) = groups_of(config)
    lead = group.per_joint(group.action.max_lead_rad, group.action.max_lead_m)
    np.testing.assert_array_equal(lead, [0.02, 0.3])
    free = np.full(2, np.inf)
    targets = make_targets(group.action, 0.05, 2, -free, free, None, lead)
    measured = np.zeros(2)
    for _ in range(9):
        target, _ = targets.next(np.array([0.01, 0.1]), measured)
    np.testing.assert_allclose(target.values, [0.02, 0.3])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"joints": ["l1"]}, "joints: got given beside groups"),
        ({"home": {"joints": [0.0]}}, "home: got a place beside groups"),
        ({"prismatic": ["x"]}, r"prismatic: got \['x'\]"),
        ({"groups__left__joints": ["l1", "r1"]}, "joints: got .*expected each name once"),
        ({"groups__left__home__joints": [0.0]}, "groups.left.home.joints: got 1 numbers"),
        ({"groups__right__action__low": [0.0]}, "groups.right.action low: got 1 numbers"),
        ({"groups__right__action__command__topic": "/left/commands"},
         "groups.right.action.command.topic: .*which group 'left' commands, too"),
        ({"groups__left__action__command__topic": "/joint_states"},
         "groups.left.action.command.topic: .*observation.joint_position reads"),
        ({"groups__base__action__sideways": True}, "groups.base.action low: got 2 numbers"),
        ({"groups__left__joints": []}, "groups.left.joints: got none"),
        ({"groups__left__action__max_lead_rad": [0.1]}, "groups.left.action.max_lead_rad: got 1"),
        ({"observation__joint_position__names": ["l1", "r1", "r2", "r3"]},
         "observation.joint_position.names: .*the joints of group 'left'"),
        ({"groups__right__joints": ["r1", "r2", "r3"], "groups__right__action__kind": "ee_delta"},
         "groups.right.*command type for ee_delta"),
    ],
)  # fmt: skip
def test_groups_that_do_not_fit_are_told_by_their_keys(
    changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        from_mapping(Ros2Config, merged(ARM, SECOND_ARM, BASE, **changes))


def test_a_controller_that_is_missing_is_named(world: World) -> None:
    mapping = merged(ARM, SECOND_ARM, timing__connect_timeout_s=0.1)
    mapping["groups"]["right"]["action"]["command"]["topic"] = "/nobody"
    with pytest.raises(DeviceTimeout, match="command topic '/nobody'"):
        world.robot(mapping)
