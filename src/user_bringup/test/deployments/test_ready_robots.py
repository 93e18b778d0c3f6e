"""Every ready robot file makes a robot and a safety gate that fit each other, before anything is connected."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from user_core.config import from_mapping, load_yaml
from user_hal.checking.motion import elements_of
from user_hal.local import LocalHal
from user_hal.robot_file import build_robot, load_robot_file
from user_hal.robots.ros2.contract import Ros2Config
from user_hal.robots.ros2.driver import Ros2Robot
from user_hal.safety.gate import SafetyGate

CONFIG = Path(__file__).parents[2] / "config"
READY = sorted((CONFIG / "robots").glob("*.yaml"))


@pytest.mark.parametrize("path", READY, ids=lambda path: path.stem)
def test_a_ready_robot_and_its_safety_fit_each_other(path: Path) -> None:
    file = load_robot_file(path)
    if file.robot.plugin == "lerobot":
        pytest.importorskip("lerobot", reason="LeRobot is not installed")
    robot = build_robot(file)
    spec = robot.spec
    SafetyGate(file.safety, spec)
    assert file.safety.watchdog_s > spec.period_s
    assert np.isfinite(spec.action.low_array).all() and np.isfinite(spec.action.high_array).all()
    robot.close()


@pytest.mark.parametrize("path", READY, ids=lambda path: path.stem)
def test_a_contract_says_where_it_is_from_and_what_joints_can_do(path: Path) -> None:
    data = load_yaml(path)["robot"]
    if data["plugin"] != "ros2" or path.stem in ("generic_ros2_control", "sim_ros_robot"):
        pytest.skip("not a robot that somebody builds")
    head = [line for line in path.read_text(encoding="utf-8").splitlines() if line[:1] == "#"]
    assert any("Source" in line for line in head)
    assert "joint_velocity_limits" in data["params"]


def test_an_arm_is_thirty_lines() -> None:
    """Of the file that one fills in for a second arm, however many comments stand between them."""
    text = (CONFIG / "robots" / "generic_ros2_control.yaml").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if line.strip() and line.strip()[0] != "#"]
    assert len(lines) <= 30


@pytest.mark.parametrize("path", sorted((CONFIG / "grippers").glob("*.yaml")), ids=lambda p: p.stem)
def test_an_entry_of_a_gripper_fits_a_contract(path: Path) -> None:
    file = load_yaml(CONFIG / "robots" / "ur_ros2_control.yaml")
    params = file["robot"]["params"]
    for key, value in load_yaml(path).items():
        params[key] = {**params.get(key, {}), **value} if isinstance(value, dict) else value
    robot = Ros2Robot(from_mapping(Ros2Config, params))
    assert robot.spec.grippers == (6,)


def test_a_lift_is_tried_by_a_centimetre_and_a_joint_by_radians() -> None:
    file = load_robot_file(CONFIG / "robots" / "tiago.yaml")
    hal = LocalHal(build_robot(file), file.safety)
    amounts = {
        element.name: (element.amount, element.unit)
        for element, _ in elements_of(hal)
        if element is not None
    }
    assert amounts["torso_lift_joint"] == (0.01, "m")
    assert amounts["arm_1_joint"] == (0.05, "rad")
