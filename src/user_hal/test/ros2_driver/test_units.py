"""Units of what is seen and of what is commanded belong together."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from user_core.config import from_mapping
from user_core.errors import ConfigError
from user_hal.fakes import LocalTopics
from user_hal.fakes.local_topics import JointState
from user_hal.fakes.topic_arm import JOINTS, TopicArm
from user_hal.robots.ros2.contract import Group, Ros2Config, groups_of
from user_hal.robots.ros2.driver import Ros2Robot
from user_hal.robots.ros2.reading.observations import Observer

DEGREE = math.pi / 180
NUMBERS = {"topic": "/positions/commands", "type": "std_msgs/msg/Float64MultiArray"}
VELOCITIES = {"topic": "/velocities/commands", "type": "std_msgs/msg/Float64MultiArray"}
TRAJECTORY = {"topic": "/trajectory", "type": "trajectory_msgs/msg/JointTrajectory"}
TWIST = {"topic": "/servo/twist", "type": "geometry_msgs/msg/TwistStamped"}


def contract(
    kind: str, command: dict[str, Any], high: float = 0.1, **position: Any
) -> dict[str, Any]:
    return {
        "robot": "toy",
        "joints": list(JOINTS),
        "period_s": 0.1,
        "observation": {
            "joint_position": {
                "topic": "/joint_states",
                "type": "sensor_msgs/msg/JointState",
                "field": "position",
                **position,
            }
        },
        "action": {"kind": kind, "low": -high, "high": high, "command": command},
        "timing": {"connect_timeout_s": 0.5, "max_age_s": 0.25},
    }


@pytest.fixture
def io() -> LocalTopics:
    return LocalTopics()


@pytest.fixture
def arm(io: LocalTopics) -> Iterator[TopicArm]:
    with TopicArm(io) as arm:
        yield arm


def connected(io: LocalTopics, mapping: dict[str, Any]) -> Ros2Robot:
    robot = Ros2Robot(from_mapping(Ros2Config, mapping))
    robot.attach(io)
    robot.connect()
    return robot


@pytest.mark.parametrize("scale", [DEGREE, [DEGREE]])
def test_an_arm_in_degrees_is_commanded_in_degrees(
    io: LocalTopics, arm: TopicArm, scale: Any
) -> None:
    arm.joints = np.array([45.0, -30.0, 10.0])
    robot = connected(io, contract("joint_delta", NUMBERS, scale=scale))
    robot.stop()
    np.testing.assert_allclose(arm.received["/positions/commands"][-1].data, [45, -30, 10])
    robot.command(np.array([DEGREE, 0, 0], np.float32))
    np.testing.assert_allclose(
        arm.received["/positions/commands"][-1].data, [46, -30, 10], atol=1e-4
    )
    robot.close()


def test_scale_and_offset_of_each_element_are_turned_round(io: LocalTopics, arm: TopicArm) -> None:
    arm.joints = np.array([1.0, 2.0, 3.0])
    seen = {"scale": [2.0, 1.0, -1.0], "offset": [0.5, 0.0, 1.0]}
    robot = connected(io, contract("joint_delta", NUMBERS, **seen))
    np.testing.assert_allclose(robot.read().arrays["joint_position"], [2.5, 2.0, -2.0])
    robot.stop()
    np.testing.assert_allclose(arm.received["/positions/commands"][-1].data, [1, 2, 3])
    robot.close()


def test_velocities_are_scaled_without_the_offset(io: LocalTopics, arm: TopicArm) -> None:
    seen = {"scale": DEGREE, "offset": 0.3}
    robot = connected(io, contract("joint_velocity", VELOCITIES, **seen))
    robot.command(np.array([0.1, 0, 0], np.float32))
    np.testing.assert_allclose(
        arm.received["/velocities/commands"][-1].data, [0.1 / DEGREE, 0, 0], rtol=1e-6
    )
    robot.close()


def test_a_scaled_position_beside_a_trajectory_without_scale_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"command.scale.*Write scale: .57\.29.*scale: 1.0"):
        from_mapping(Ros2Config, contract("joint_delta", TRAJECTORY, scale=DEGREE))
    explicit = {**TRAJECTORY, "scale": 1.0}
    from_mapping(Ros2Config, contract("joint_delta", explicit, scale=DEGREE))


@pytest.mark.parametrize(
    ("command", "match"),
    [
        ({**NUMBERS, "scale": [1.0, 2.0]}, r"command.scale.*2 numbers.*1 or 3"),
        ({**NUMBERS, "scale": 0.0}, r"command.scale.*no scale of 0"),
        ({**NUMBERS, "high": 1.0}, r"command.high.*Write action.target_high"),
    ],
)
def test_scaling_that_cannot_be_is_refused(command: dict[str, Any], match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        from_mapping(Ros2Config, contract("joint_delta", command))


def test_a_unitless_servo_moves_as_far_as_is_recorded(io: LocalTopics, arm: TopicArm) -> None:
    """Full deflection is 0.4 m/s and 0.8 rad/s."""
    servo = {**TWIST, "scale": [2.5, 2.5, 2.5, 1.25, 1.25, 1.25], "low": -1.0, "high": 1.0}
    robot = connected(io, contract("ee_delta", servo))
    within = robot.command(np.array([0.01, 0, 0, 0, 0, 0], np.float32))
    np.testing.assert_allclose(within, [0.01, 0, 0, 0, 0, 0], atol=1e-7)
    assert arm.received["/servo/twist"][-1].twist.linear.x == pytest.approx(0.25)
    beyond = robot.command(np.array([0.1, 0, -0.01, 0, 0, 0.1], np.float32))
    sent = arm.received["/servo/twist"][-1].twist
    assert (sent.linear.x, sent.angular.z) == pytest.approx((1.0, 1.0))
    np.testing.assert_allclose(beyond, [0.04, 0, -0.01, 0, 0, 0.08], atol=1e-7)
    applied = robot.read().applied
    assert applied is not None and applied.changed
    robot.close()


def group_of(kind: str, command: dict[str, Any], **arrays: dict[str, Any]) -> Group:
    """The only group of an arm that reports degrees; further arrays with their own scale."""
    mapping = contract(kind, command, scale=DEGREE, offset=[0.0, 0.1, 0.2])
    state = {"topic": "/joint_states", "type": "sensor_msgs/msg/JointState"}
    for name, entry in arrays.items():
        field = {"joint_velocity": "velocity", "joint_effort": "effort"}[name]
        mapping["observation"][name] = {**state, "field": field, **entry}
    if kind == "generic":
        mapping["stop"] = {"effort": 0.0}
    return groups_of(from_mapping(Ros2Config, mapping))[0]


@pytest.mark.parametrize(
    ("velocity", "factor"),
    [({}, 1 / DEGREE), ({"joint_velocity": {}}, 1 / DEGREE),
     ({"joint_velocity": {"scale": 0.5}}, 2.0)],
)  # fmt: skip
def test_velocities_are_commanded_in_the_unit_in_which_they_are_reported(
    velocity: dict[str, Any], factor: float
) -> None:
    group = group_of("joint_velocity", VELOCITIES, **velocity)
    scale, offset = group.scaling(group.action.command)
    np.testing.assert_allclose(np.broadcast_to(scale, 3), factor)
    np.testing.assert_array_equal(offset, 0.0)


def test_efforts_are_commanded_in_the_unit_in_which_they_are_reported() -> None:
    """Motor currents in mA: each joint has its own torque per current."""
    command = {"topic": "/effort/commands", "type": NUMBERS["type"], "quantity": "effort"}
    reversed_names = {"names": list(JOINTS)[::-1], "scale": [0.001, 0.002, 0.004]}
    group = group_of("generic", command, joint_effort=reversed_names)
    scale, offset = group.scaling(group.action.command)
    np.testing.assert_allclose(scale, [250.0, 500.0, 1000.0])
    np.testing.assert_array_equal(offset, 0.0)


def test_velocities_and_efforts_are_seen_scaled(io: LocalTopics) -> None:
    mapping = contract("joint_delta", {**NUMBERS, "require_subscriber": False})
    state = {"topic": "/joint_states", "type": "sensor_msgs/msg/JointState"}
    mapping["observation"] |= {
        "joint_velocity": {**state, "field": "velocity", "scale": DEGREE, "offset": 0.0},
        "joint_effort": {
            **state,
            "field": "effort",
            "scale": [1.0, -2.0, 3.0],
            "offset": [0, 0, 1],
        },
    }
    observer = Observer(from_mapping(Ros2Config, mapping))
    observer.subscribe(io)
    message = JointState(
        name=list(JOINTS), position=[0.0] * 3, velocity=[90.0] * 3, effort=[1.0, 2.0, 3.0]
    )
    io.publisher("/joint_states", "sensor_msgs/msg/JointState").publish(message)
    arrays, _ = observer.read()
    np.testing.assert_allclose(arrays["joint_velocity"], math.pi / 2, rtol=1e-6)
    np.testing.assert_allclose(arrays["joint_effort"], [1.0, -4.0, 10.0], rtol=1e-6)
