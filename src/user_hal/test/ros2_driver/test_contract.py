"""Contracts: the ready ones are sound, and one whose parts do not fit is refused with a reason."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest

from user_core.config import from_mapping, load_yaml, to_mapping
from user_core.errors import ConfigError
from user_core.specs import ActionKind
from user_hal.robot_file import build_robot, load_robot_file
from user_hal.robots.ros2.contract import Group, Ros2Config, groups_of
from user_hal.robots.ros2.driver import Ros2Robot

READY = Path(__file__).parents[3] / "user_bringup" / "config" / "robots"
JOINT_STATE = "sensor_msgs/msg/JointState"
POSE_STAMPED = "geometry_msgs/msg/PoseStamped"
CONTRACT: dict[str, Any] = {
    "robot": "toy",
    "joints": ["a", "b"],
    "observation": {
        "joint_position": {"topic": "/joint_states", "type": JOINT_STATE, "field": "position"},
        "tcp_pose": {"topic": "/pose", "type": POSE_STAMPED, "field": "pose"},
    },
    "action": {
        "kind": "joint_delta",
        "low": -0.1,
        "high": 0.1,
        "command": {"topic": "/commands", "type": "std_msgs/msg/Float64MultiArray"},
    },
}
TWIST_COMMAND = {"topic": "/twist", "type": "geometry_msgs/msg/TwistStamped"}
POSE_COMMAND = {"topic": "/pose_command", "type": POSE_STAMPED}
TRAJECTORY_COMMAND = {"topic": "/jtc", "type": "trajectory_msgs/msg/JointTrajectory"}


def changed(changes: dict[str, Any]) -> dict[str, Any]:
    """The contract with values put in at dotted paths; ``None`` takes a key away."""
    result = copy.deepcopy(CONTRACT)
    for path, value in changes.items():
        *way, last = path.split(".")
        place = result
        for key in way:
            place = place.setdefault(key, {})
        if value is None:
            place.pop(last)
        else:
            place[last] = value
    return result


@pytest.mark.parametrize("path", sorted(READY.glob("*.yaml")), ids=lambda path: path.stem)
def test_the_ready_files_are_whole_robots(path: Path) -> None:
    file = load_robot_file(path)
    if file.robot.plugin == "lerobot":
        pytest.importorskip(
            "lerobot", reason="LeRobot is not installed: USER_EXTRA=lerobot make setup"
        )
    robot = build_robot(file)
    assert robot.spec.action.low is not None and robot.spec.action.high is not None
    assert file.safety.watchdog_s > robot.spec.period_s
    if file.robot.plugin == "ros2":
        contract = from_mapping(Ros2Config, load_yaml(path)["robot"]["params"])
        assert from_mapping(Ros2Config, to_mapping(contract)) == contract
        for group in groups_of(contract):
            if not group.joints:
                continue  # a base
            assert group.home.joints, "a ready contract knows the way home"
            for joint, (low, high) in enumerate(_limits(group)):
                assert low <= group.home.joints[joint] <= high


def _limits(group: Group) -> list[tuple[float, float]]:
    count = len(group.joints)
    low, high = group.action.target_low, group.action.target_high
    if low is None or high is None:
        return [(-10.0, 10.0)] * count
    lows = low if isinstance(low, tuple) else (low,) * count
    highs = high if isinstance(high, tuple) else (high,) * count
    return list(zip(lows, highs, strict=True))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"robots": "x"}, "unknown key 'robots'.*did you mean 'robot'"),
        ({"observation": {}}, "observation"),
        ({"observation.joint_position.topic": ""}, "observation.joint_position.topic"),
        ({"observation.joint_position.feild": "x"}, "'observation.joint_position.feild'"),
        ({"observation.joint_position.resample": "cubic"}, "one of .*'linear'"),
        ({"joints": ["a", "a"]}, "joints: got .* expected each name once"),
        ({"joints": None}, "joints: got none, expected names, for joint_delta actions"),
        ({"observation.joint_position": None}, "expected joint_position among them"),
        ({"observation.joint_position.names": ["b", "a"]}, "expected the robot's joints"),
        (
            {"observation.x": {"topic": "/x", "type": "std_msgs/msg/Float64MultiArray",
                               "field": "data"}},
            "observation.x: got a vector of unknown size at 'data', expected names, indices",
        ),
        (
            {"observation.x": {"topic": "/x", "type": "std_msgs/msg/Float64MultiArray",
                               "field": "data", "size": 2, "indices": [1]}},
            "more than one of names, indices, size",
        ),
        ({"observation.tcp_pose.size": 7}, "observation.tcp_pose: got names, indices or size"),
        ({"observation.tcp_pose.scale": [2.0]}, "expected none for a pose"),
        ({"observation.joint_position.scale": [1, 2, 3]}, "3 numbers, expected 1 or 2"),
        ({"observation.joint_position.low": [1, 2, 3]}, "low: got 3 numbers"),
        ({"observation.joint_position.low": 2, "observation.joint_position.high": 1}, "at most high"),
        (
            {"observation.joint_position.resample": "latest",
             "observation.tcp_pose.resample": "latest"},
            "latest everywhere",
        ),
        ({"action.kind": "joint_torque"}, "action.kind: got 'joint_torque'.*joint_velocity"),
        ({"action.kind": "mixed"}, "expected a kind in .*ee_pose"),
        ({"action.kind": "generic"}, "stop.effort: got nothing, for efforts"),
        ({"action.command": TWIST_COMMAND}, "command type for joint_delta actions: got geometry"),
        ({"action.kind": "ee_twist"}, "command type for ee_twist actions: got std_msgs"),
        ({"action.kind": "ee_pose", "action.command": TWIST_COMMAND}, "expected one of .*PoseSt"),
        ({"action.low": None}, "missing key 'action.low'"),
        ({"action.low": [0.1, 0.1, 0.1]}, "action low: got 3 numbers, expected 1 or 2"),
        ({"action.low": 0.2}, "action low: got 0.2, expected at most high"),
        ({"action.high": float("inf")}, "expected finite numbers"),
        ({"action.target_low": [0, 0, 0]}, "action.target low: got 3 numbers"),
        (
            {"action.kind": "joint_position", "action.command.quantity": "velocity"},
            "quantity of the command: got velocity, expected position",
        ),
        (
            {"action.command": {**TRAJECTORY_COMMAND, "quantity": "velocity"}},
            "quantity of a JointTrajectory",
        ),
        (
            {"action.kind": "ee_delta", "action.command": POSE_COMMAND,
             "observation.tcp_pose": None},
            "expected tcp_pose, because poses are commanded",
        ),
        (
            {"action.gripper": {"topic": "/g", "type": "std_msgs/msg/Float64", "closed": 1,
                                "opened": 1}},
            "opened of the gripper",
        ),
        (
            {"action.gripper": {"topic": "/g", "type": JOINT_STATE, "closed": 0, "opened": 1}},
            "joints of the gripper: got none",
        ),
        ({"home.joints": [0.0]}, "home.joints: got 1 numbers, expected 2"),
        ({"home.joints": [0.0, 0.0], "home.pose": [0] * 6 + [1]}, "joints and pose, expected one"),
        ({"home.pose": [0.0] * 7}, "home.pose: got 7 numbers, quaternion of length 0.000"),
        ({"home.pose": [0, 0, 0, 0, 0, 0, 1]}, "home.pose: got a command of type std_msgs"),
        (
            {"action.kind": "ee_delta", "action.command": TWIST_COMMAND, "home.joints": [0, 0]},
            "Give home.command a topic that can go there",
        ),
        ({"home.gripper": 1.0}, "home.gripper: got 1.0, expected action.gripper as well"),
        ({"timing.max_age_s": 0}, "timing.max_age_s"),
        ({"period_s": -1}, "period_s"),
    ],
)  # fmt: skip
def test_a_contract_whose_parts_do_not_fit(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        from_mapping(Ros2Config, changed(changes))


def test_defaults_that_are_worked_out() -> None:
    contract = from_mapping(Ros2Config, changed({}))
    assert contract.elements("joint_position") == ("a", "b")
    assert contract.layout("tcp_pose") == "pose" and contract.layout("joint_position") == "vector"
    assert groups_of(contract)[0].action.kind is ActionKind.JOINT_DELTA


def test_only_the_gripper_of_the_contract_is_a_gripper() -> None:
    names = {"joints": ["pan", "gripper"]}
    hobby = Ros2Robot(from_mapping(Ros2Config, changed(names))).spec
    assert hobby.action.names == ("pan", "gripper") and hobby.grippers == ()
    own = {"topic": "/g", "type": "std_msgs/msg/Float64", "closed": 0, "opened": 1}
    both = Ros2Robot(from_mapping(Ros2Config, changed({**names, "action.gripper": own}))).spec
    assert both.action.size == 3 and both.grippers == (2,)
