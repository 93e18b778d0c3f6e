"""A type that is not installed is named, whatever stands in front of it in the contract."""

from __future__ import annotations

from typing import Any

import pytest

from user_core.config import from_mapping
from user_core.errors import DeviceNotConnected, TransportError
from user_hal.fakes import LocalTopics
from user_hal.fakes.topic_arm import JOINTS, TopicArm
from user_hal.robots.ros2.contract import Ros2Config
from user_hal.robots.ros2.driver import Ros2Robot


def test_connecting_without_the_grippers_type_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    io = LocalTopics()

    def goals(action: str, type_name: str) -> Any:
        raise TransportError(f"interface {type_name}", got="No module named 'control_msgs'")

    monkeypatch.setattr(io, "goals", goals)
    contract = {
        "robot": "arm",
        "joints": list(JOINTS),
        "observation": {
            "joint_position": {
                "topic": "/joint_states",
                "type": "sensor_msgs/msg/JointState",
                "field": "position",
            }
        },
        "action": {
            "kind": "joint_delta",
            "low": -0.1,
            "high": 0.1,
            "command": {
                "topic": "/trajectory",
                "type": "trajectory_msgs/msg/JointTrajectory",
            },
            "gripper": {
                "topic": "/gripper",
                "type": "control_msgs/action/GripperCommand",
                "closed": 0.0,
                "opened": 0.04,
            },
        },
    }
    with TopicArm(io):
        robot = Ros2Robot(from_mapping(Ros2Config, contract))
        robot.attach(io)
        for _ in range(2):
            with pytest.raises(TransportError, match="control_msgs/action/GripperCommand"):
                robot.connect()
        with pytest.raises(DeviceNotConnected):
            robot.read()
        robot.close()
