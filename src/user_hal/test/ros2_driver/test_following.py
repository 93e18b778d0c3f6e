"""A robot that listens and does nothing is told; noise, reversals and lag are not."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest

from user_core.config import from_mapping
from user_hal.fakes import LocalTopics
from user_hal.fakes.topic_arm import JOINTS, TopicArm
from user_hal.robots.ros2.commanding.following import COMMANDS, FollowWatch
from user_hal.robots.ros2.contract import Ros2Config
from user_hal.robots.ros2.driver import Ros2Robot

POSITIONS = ("joint_delta", "/positions/commands", "std_msgs/msg/Float64MultiArray")
VELOCITIES = ("joint_velocity", "/velocities/commands", "std_msgs/msg/Float64MultiArray")
TWIST = ("ee_delta", "/servo/twist", "geometry_msgs/msg/TwistStamped")


@pytest.mark.parametrize(("kind", "topic", "type_name"), [POSITIONS, VELOCITIES, TWIST])
@pytest.mark.parametrize("blocked", [True, False])
def test_commands_that_are_not_followed_are_told(
    kind: str, topic: str, type_name: str, blocked: bool
) -> None:
    def source(topic: str, type_name: str, field: str) -> dict[str, Any]:
        return {"topic": topic, "type": type_name, "field": field}

    pose = source("/tcp_pose_broadcaster/pose", "geometry_msgs/msg/PoseStamped", "pose")
    config = {
        "robot": "toy",
        "joints": list(JOINTS),
        "base_frame": "base",
        "period_s": 0.02,
        "observation": {
            "joint_position": source("/joint_states", "sensor_msgs/msg/JointState", "position"),
            "tcp_pose": pose,
        },
        "action": {
            "kind": kind, "low": -0.5, "high": 0.5,
            "command": {"topic": topic, "type": type_name},
        },
    }  # fmt: skip
    io = LocalTopics()
    with TopicArm(io) as arm:
        robot = Ros2Robot(from_mapping(Ros2Config, config))
        robot.attach(io)
        robot.connect()
        arm.blocked = blocked
        action = np.zeros(robot.spec.action.size, np.float32)
        action[0] = 0.2 if kind == "joint_velocity" else 0.005
        for _ in range(COMMANDS + 5):
            robot.command(action)
            time.sleep(0.02)
        trouble = robot.trouble()
        assert trouble.code == ("not_followed" if blocked else "")
        assert not blocked or topic in trouble.text
        robot.stop()
        assert not robot.trouble()
        robot.close()


def test_noise_at_rest_is_not_told() -> None:
    rng, watch = np.random.default_rng(0), FollowWatch(0.02)
    for _ in range(2000):
        measured = rng.normal(0, 0.002, 6)
        watch.note(measured, measured + rng.normal(0, 0.002, 6), velocities=False)
        assert not watch.failed


def test_an_arm_that_stands_and_sags_is_not_told() -> None:
    rng, watch = np.random.default_rng(2), FollowWatch(0.02)
    target = np.array([0.5, 0.2, 0.0])
    for step in range(300):
        target[0] += 0.01 * (100 <= step < 130)  # it moves on, and sags there as well
        measured = target - [0.0, 0.05, 0.02] + rng.normal(0, 0.001, 3)
        watch.note(measured, target, velocities=False)
        assert not watch.failed


def test_one_far_target_that_nobody_goes_to_is_told() -> None:
    watch = FollowWatch(0.02)
    for _ in range(COMMANDS + 1):
        watch.note(np.zeros(3), np.array([1.0, 0.0, 0.0]), velocities=False)
    assert watch.failed and watch.commanded == 1.0


def test_a_lagging_robot_that_is_sent_to_and_fro_is_not_told() -> None:
    rng, watch, position = np.random.default_rng(1), FollowWatch(0.02), np.zeros(3)
    for step in range(2000):
        target = 0.2 * np.sin(step / np.array([20.0, 30.0, 40.0]))
        watch.note(position + rng.normal(0, 0.001, 3), target, velocities=False)
        position = position + 0.2 * (target - position)
        assert not watch.failed


def test_a_continuous_joint_that_passes_its_seam_is_not_told() -> None:
    watch, angle = FollowWatch(0.02, turning=[True]), 3.0
    for _ in range(100):
        seen = (angle + np.pi) % (2 * np.pi) - np.pi
        watch.note(np.array([seen]), np.array([seen + 0.05]), velocities=False)
        angle += 0.02
        assert not watch.failed
