"""What a command looks like on its topic, for each type and for types by a mapping of fields."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from user_core.config import from_mapping
from user_core.errors import ConfigError, DeviceTimeout, TransportError
from user_hal.fakes import LocalTopics, local_topics
from user_hal.fakes.topic_arm import TopicArm
from user_hal.robots.ros2.contract import Ros2Config
from user_hal.robots.ros2.driver import Ros2Robot
from user_testing.waiting import wait_until

NUMBERS = "std_msgs/msg/Float64MultiArray"
STATE = "sensor_msgs/msg/JointState"
FOLLOW = "control_msgs/action/FollowJointTrajectory"
JOINTS = ["shoulder", "elbow", "wrist"]


@pytest.fixture
def io() -> LocalTopics:
    return LocalTopics()


@pytest.fixture
def arm(io: LocalTopics) -> Iterator[TopicArm]:
    with TopicArm(io) as arm:
        yield arm


def contract(kind: str, command: dict[str, Any], **changes: Any) -> dict[str, Any]:
    sources = {
        "joint_position": {"topic": "/joint_states", "type": STATE, "field": "position"},
        "tcp_pose": {"topic": "/tcp_pose_broadcaster/pose",
                     "type": "geometry_msgs/msg/PoseStamped", "field": "pose"},
        "gripper": {"topic": "/joint_states", "type": STATE, "field": "position",
                    "names": ["finger"], "scale": 25.0},
    }  # fmt: skip
    action = {"kind": kind, "low": -0.1, "high": 0.1, "command": command}
    action.update(changes.pop("action", {}))
    return {
        "robot": "toy", "joints": JOINTS, "period_s": 0.05, "base_frame": "base",
        "timing": {"connect_timeout_s": 0.5, "max_age_s": 0.5}, "observation": sources,
        "action": action, **changes,
    }  # fmt: skip


def connected(io: LocalTopics, mapping: dict[str, Any]) -> Ros2Robot:
    robot = Ros2Robot(from_mapping(Ros2Config, mapping))
    robot.attach(io)
    robot.connect()
    return robot


def listen(io: LocalTopics, topic: str, type_name: str) -> list[Any]:
    received: list[Any] = []
    io.subscribe(topic, type_name, received.append)
    return received


def act(*values: float) -> Any:
    return np.array(values, np.float32)


def test_joint_jog(io: LocalTopics, arm: TopicArm) -> None:
    received = listen(io, "/jog", "control_msgs/msg/JointJog")
    command = {"topic": "/jog", "type": "control_msgs/msg/JointJog", "low": -1.0, "high": 1.0}
    robot = connected(io, contract("joint_delta", command))
    sent = robot.command(act(0.02, -0.1, 0.0))
    assert received[-1].joint_names == JOINTS
    np.testing.assert_allclose(received[-1].velocities, [0.4, -1.0, 0.0], rtol=1e-6)
    np.testing.assert_allclose(sent, [0.02, -0.05, 0.0], atol=1e-7)  # as the servo takes it
    robot.stop()
    assert received[-1].velocities == [0.0, 0.0, 0.0]
    robot.close()


@pytest.mark.parametrize("stamped", [True, False])
def test_twists_with_and_without_a_stamp(io: LocalTopics, arm: TopicArm, stamped: bool) -> None:
    type_name = f"geometry_msgs/msg/Twist{'Stamped' * stamped}"
    received = listen(io, "/servo", type_name)
    robot = connected(io, contract("ee_delta", {"topic": "/servo", "type": type_name}))
    robot.command(act(0.01, 0.0, 0.0, 0.0, 0.0, -0.02))
    twist = received[-1].twist if stamped else received[-1]
    assert (twist.linear.x, twist.angular.z) == pytest.approx((0.2, -0.4))
    robot.stop()
    assert (received[-1].twist if stamped else received[-1]).linear.x == 0.0
    robot.close()


@pytest.mark.parametrize("stamped", [True, False])
def test_poses_with_and_without_a_stamp(io: LocalTopics, arm: TopicArm, stamped: bool) -> None:
    type_name = f"geometry_msgs/msg/Pose{'Stamped' * stamped}"
    received = listen(io, "/target", type_name)
    robot = connected(io, contract("ee_delta", {"topic": "/target", "type": type_name}))
    robot.command(act(0.01, 0.0, 0.0, 0.0, 0.0, 0.0))
    pose = received[-1].pose if stamped else received[-1]
    assert pose.position.x == pytest.approx(0.41) and pose.orientation.x == pytest.approx(1.0)
    robot.close()


def test_a_topic_that_carries_another_type_is_told(io: LocalTopics, arm: TopicArm) -> None:
    listen(io, "/servo", "geometry_msgs/msg/Twist")
    command = {"topic": "/servo", "type": "geometry_msgs/msg/TwistStamped"}
    with pytest.raises(DeviceTimeout, match="the topic carries geometry_msgs/msg/Twist"):
        connected(io, contract("ee_twist", command))


def test_any_type_by_a_mapping_of_its_fields(io: LocalTopics, arm: TopicArm) -> None:
    received = listen(io, "/arm", STATE)
    fields = {"name": ["arm"], "effort": "values"}
    robot = connected(
        io,
        contract("joint_delta", {"topic": "/arm", "type": STATE, "fields": fields, "scale": 10.0}),
    )
    robot.command(act(0.1, 0.0, -0.1))
    assert received[-1].name == ["arm"] and received[-1].position == []
    np.testing.assert_allclose(received[-1].effort, [1.0, 0.0, -1.0], rtol=1e-6)
    robot.stop()
    robot.close()


@pytest.mark.parametrize(
    ("type_name", "fields"),
    [("std_msgs/msg/Float64", {}), ("geometry_msgs/msg/Wrench", {"force.x": "value"})],
)
def test_a_topic_for_each_joint(
    io: LocalTopics, arm: TopicArm, monkeypatch: pytest.MonkeyPatch, type_name: str,
    fields: dict[str, Any],
) -> None:  # fmt: skip
    monkeypatch.setitem(local_topics.MESSAGES, "geometry_msgs/msg/Wrench", local_topics.Wrench)
    topic = "/model/{joint}/cmd_pos"
    received = {joint: listen(io, f"/model/{joint}/cmd_pos", type_name) for joint in JOINTS}
    command = {"topic": topic, "type": type_name, "fields": fields, "scale": [1.0, -2.0, 1.0]}
    robot = connected(io, contract("joint_delta", command))
    assert robot.topics_commanded == tuple(f"/model/{joint}/cmd_pos" for joint in JOINTS)
    robot.command(act(0.1, 0.05, 0.0))
    sent = [m[-1].force.x if fields else m[-1].data for m in received.values()]
    np.testing.assert_allclose(sent, [0.1, -0.1, 0.0], atol=1e-7)
    robot.stop()
    robot.close()
    command["topic"] = "/nobody/{joint}"
    with pytest.raises(DeviceTimeout, match="command topic '/nobody/shoulder'"):
        connected(io, contract("joint_delta", command))


def test_a_trajectory_that_begins_where_the_robot_is(io: LocalTopics, arm: TopicArm) -> None:
    """Yaskawa-Global/motoros2#334: the first point is the state, and points have velocities."""
    received = listen(io, "/queue", "trajectory_msgs/msg/JointTrajectory")
    fields = {
        "joint_names": "joints",
        "points": [
            {"positions": "measured", "velocities": "zeros"},
            {"positions": "values", "velocities": "zeros", "time_from_start": "duration"},
        ],
    }
    command = {"topic": "/queue", "type": "trajectory_msgs/msg/JointTrajectory", "fields": fields}
    robot = connected(io, contract("joint_delta", command))
    arm.joints = np.array([0.3, 0.2, 0.1])
    wait_until(lambda: robot.read().arrays["joint_position"][0] == pytest.approx(0.3))
    robot.command(act(0.1, 0.0, 0.0))
    first, last = received[-1].points
    assert first.positions == pytest.approx([0.3, 0.2, 0.1]) and first.velocities == [0.0] * 3
    assert last.positions == pytest.approx([0.4, 0.2, 0.1])
    assert (first.time_from_start.nanosec, last.time_from_start.nanosec) == (0, 50_000_000)
    robot.close()


def test_poses_of_six_numbers(io: LocalTopics, arm: TopicArm) -> None:
    received = listen(io, "/servo_p", NUMBERS)
    command: dict[str, Any] = {"topic": "/servo_p", "type": NUMBERS, "fields": {"data": "values"},
               "quantity": "pose_rpy", "scale": [1000, 1000, 1000, 57.29578, 57.29578, 57.29578]}  # fmt: skip
    with pytest.raises(ConfigError, match="command type for ee_delta"):  # numbers of joints
        from_mapping(Ros2Config, contract("ee_delta", command))
    command["type"] = "geometry_msgs/msg/WrenchStamped"  # a type that is no command of its own
    command["fields"] = {f"wrench.{f}.{x}": f"values[{i}]" for i, (f, x) in enumerate(
        (f, x) for f in ("force", "torque") for x in "xyz")}  # fmt: skip
    received = listen(io, "/servo_p", command["type"])
    robot = connected(io, contract("ee_delta", command))
    robot.command(act(0.01, 0.0, 0.0, 0.0, 0.0, 0.1))
    wrench = received[-1].wrench
    assert (wrench.force.x, wrench.force.z) == pytest.approx((410.0, 300.0))
    assert abs(wrench.torque.x) == pytest.approx(180.0, abs=1e-3)
    assert wrench.torque.z == pytest.approx(5.7296, abs=1e-3)
    robot.close()


def test_goals_of_a_trajectory_action_and_what_is_rejected(io: LocalTopics, arm: TopicArm) -> None:
    goals: list[Any] = []
    homed = [True]

    def serve(goal: Any) -> bool:
        goals.append(goal.trajectory)
        if homed[0]:
            arm.joints = np.array(goal.trajectory.points[-1].positions)
        return homed[0]

    io.serve("/follow", FOLLOW, serve)
    robot = connected(io, contract("joint_delta", {"topic": "/follow", "type": FOLLOW}))
    sent = robot.command(act(0.05, 0.0, 0.0))
    assert goals[-1].joint_names == JOINTS
    assert goals[-1].points[0].positions == pytest.approx([0.05, 0.0, 0.0])
    assert goals[-1].points[0].time_from_start.nanosec == 100_000_000  # two periods
    np.testing.assert_allclose(sent, [0.05, 0.0, 0.0], atol=1e-7)
    wait_until(lambda: robot.read().arrays["joint_position"][0] == pytest.approx(0.05))

    homed[0] = False
    np.testing.assert_array_equal(robot.command(act(0.05, 0.0, 0.0)), [0.0, 0.0, 0.0])
    applied = robot.read().applied
    assert applied is not None and applied.action.tolist() == [0.0, 0.0, 0.0] and applied.changed
    assert robot.trouble().code == "command_rejected" and "'/follow'" in robot.trouble().text

    homed[0] = True
    robot.command(act(0.05, 0.0, 0.0))
    assert goals[-1].points[0].positions == pytest.approx([0.1, 0.0, 0.0])  # from where it is
    assert not robot.trouble()
    robot.close()


EFFORT = {"topic": "/efforts", "type": NUMBERS}


def test_efforts_and_what_a_stop_sends(io: LocalTopics, arm: TopicArm) -> None:
    received = listen(io, "/efforts", NUMBERS)
    robot = connected(
        io, contract("generic", EFFORT, action={"low": -5.0, "high": 5.0},
                     stop={"effort": [0.0, 2.5, 0.0]})
    )  # fmt: skip
    assert robot.spec.action.unit == "N m"
    robot.command(act(1.0, -9.0, 0.5))
    assert received[-1].data == [1.0, -5.0, 0.5]
    robot.stop()
    assert received[-1].data == [0.0, 2.5, 0.0]
    robot.close()


def test_efforts_need_to_know_what_a_stop_sends() -> None:
    with pytest.raises(ConfigError, match="stop.effort: got nothing, for efforts"):
        from_mapping(Ros2Config, contract("generic", EFFORT))


@pytest.mark.parametrize(
    ("kind", "command", "error", "message"),
    [
        ("joint_delta", {"type": "x_msgs/msg/Group", "fields": {"cmd": "values"}}, TransportError,
         "x_msgs/msg/Group"),
        ("joint_delta", {"type": STATE, "fields": {"positions": "values"}}, ConfigError,
         "action.command.fields.positions: .*did you mean 'position'"),
        ("joint_delta", {"type": STATE, "fields": {"position": "numbers"}}, ConfigError,
         "got 'numbers', expected .*one of the words"),
    ],
)  # fmt: skip
def test_a_mapping_is_checked_against_the_type_when_it_connects(
    io: LocalTopics, arm: TopicArm, kind: str, command: dict[str, Any], error: type[Exception],
    message: str,
) -> None:  # fmt: skip
    with pytest.raises(error, match=message):
        connected(io, contract(kind, {"topic": "/c", **command}))


@pytest.mark.parametrize(
    ("kind", "command", "message"),
    [
        ("joint_delta", {"type": "x_msgs/msg/Group"}, "or fields beside it"),
        ("joint_delta", {"type": "x_msgs/srv/Move", "fields": {"a": "values"}}, "A service blocks"),
        ("joint_delta", {"type": "x_msgs/msg/G", "fields": {"a": "values"}, "quantity": "twist"},
         "got twist, expected position or velocity, for joint_delta"),
        ("joint_delta", {"type": "control_msgs/msg/JointJog", "quantity": "position"},
         "quantity of a control_msgs/msg/JointJog"),
        ("joint_position", {"type": "control_msgs/msg/JointJog"}, "command type for joint_position"),
        ("ee_delta", {"type": "geometry_msgs/msg/Pose", "scale": 1000.0}, "poses are in m"),
        ("ee_pose", {"type": "geometry_msgs/msg/PoseStamped", "quantity": "pose_rpy"}, "pose_rpy"),
        ("base_twist", {"type": NUMBERS}, "command type for base_twist"),
        ("joint_delta", {"topic": "/{joint}", "type": NUMBERS}, "a topic per joint"),
        ("ee_twist", {"topic": "/{joint}", "type": "std_msgs/msg/Float64", "quantity": "twist"},
         "got /{joint}, expected one topic, for ee_twist"),
    ],
)  # fmt: skip
def test_commands_that_cannot_be_are_refused_at_build(
    kind: str, command: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        from_mapping(Ros2Config, contract(kind, {"topic": "/c", **command}))


def test_fields_that_say_the_same_whatever_the_action_are_refused(
    io: LocalTopics, arm: TopicArm
) -> None:
    command = {"topic": "/c", "type": STATE, "fields": {"name": "joints", "position": [0, 0, 0]}}
    with pytest.raises(ConfigError, match="the same message whatever the action"):
        connected(io, contract("joint_delta", command))
