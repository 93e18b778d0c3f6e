"""A package of one's own in another workspace holds robots, deployments, fragments and algorithms."""

import os
from pathlib import Path

import pytest

pytest.importorskip("rclpy")

from user_bringup.running import find_deployment, prepare_run, read_deployment
from user_bringup.running.find import config_folder
from user_core.config import find_shared, path_of_file, shared_names
from user_core.errors import ConfigError
from user_fleet.deployment import Faults, parse_overrides
from user_hal.robot_file import find_robot_file


class Workspace:
    """Packages as colcon installs them, in front of those that are there."""

    def __init__(self, folder, monkeypatch):
        self.folder = folder
        before = os.environ["AMENT_PREFIX_PATH"]
        monkeypatch.setenv("AMENT_PREFIX_PATH", f"{folder}{os.pathsep}{before}")

    def add(self, package, file, text):
        share = self.folder / "share" / package
        path = share / file
        path.parent.mkdir(parents=True, exist_ok=True)
        (share / "package.xml").write_text("<package/>")
        path.write_text(text)
        return path


@pytest.fixture
def workspace(tmp_path, monkeypatch):
    return Workspace(tmp_path / "install", monkeypatch)


def deployment_of(name, *words):
    faults = Faults()
    composition = read_deployment(
        find_deployment(name), parse_overrides(words), Path("runs") / "r", faults, False
    )
    return composition.deployment, [str(fault) for fault in faults.found]


LAB = """
name: lab
roles: [learner]
robots: {arm: [lab_robot]}
arguments:
  robot: lab_arm
  algorithm: lab_sac
"""


@pytest.fixture
def lab(workspace):
    config = config_folder()
    for kind, name, text in (
        ("robots", "lab_arm", (config / "robots" / "sim_ros_robot.yaml").read_text()),
        ("algorithms", "lab_sac", (config / "algorithms" / "sac_small.yaml").read_text()),
        ("fragments", "lab_robot", "extends: [ros2_robot, teleop]\narguments: {teleop: twist}\n"),
        ("deployments", "lab", LAB),
    ):
        workspace.add("my_lab", f"config/{kind}/{name}.yaml", text)
    return workspace


def test_a_whole_deployment_is_in_another_package(lab, tmp_path):
    deployment, faults = deployment_of("lab")
    assert not faults
    assert deployment.process("hal").parameters["robot_file"] == "lab_arm"
    assert deployment.process("teleop").parameters["teleop"]["plugin"] == "twist"
    assert deployment.process("learner").parameters["algorithm"]["plugin"] == "sac"
    run = prepare_run(find_deployment("lab"), {}, tmp_path / "runs", "r")
    assert run.parameter_files["hal"].is_file()


def test_names_of_all_packages_are_known_everywhere(lab):
    assert find_robot_file("lab_arm") == find_robot_file("my_lab/lab_arm")
    assert not deployment_of("real_robot", "robot:=lab_arm", "algorithm:=lab_sac")[1]
    (fault,) = deployment_of("real_robot", "robot:=lab_arn")[1]
    assert "did you mean 'lab_arm'" in fault
    (fault, *_) = deployment_of("real_robot", "algorithm:=lab_sacc")[1]
    assert "did you mean 'lab_sac'" in fault
    with pytest.raises(ConfigError, match="did you mean 'lab'"):
        find_deployment("laab")
    with pytest.raises(ConfigError, match="lab_arm"):
        find_robot_file("nothing")


def test_two_packages_may_have_the_same_name_and_then_the_package_says_which(lab):
    other = lab.add("other_lab", "config/robots/lab_arm.yaml", "robot: {plugin: fake}\n")
    with pytest.raises(ConfigError, match="my_lab/lab_arm, other_lab/lab_arm"):
        find_robot_file("lab_arm")
    assert find_robot_file("other_lab/lab_arm") == other


def test_files_by_package_and_by_home(lab, tmp_path, monkeypatch):
    text = "package://my_lab/config/robots/lab_arm.yaml"
    assert find_robot_file(text) == find_robot_file("lab_arm")
    assert not deployment_of("real_robot", f"robot:={text}")[1]
    algorithm = "package://my_lab/config/algorithms/lab_sac.yaml"
    assert not deployment_of("sim_single", f"algorithm:={algorithm}")[1]
    assert find_deployment("package://my_lab/config/deployments/lab.yaml").stem == "lab"
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "arm.yaml").write_text(find_robot_file("lab_arm").read_text())
    assert find_robot_file("~/arm.yaml") == tmp_path / "arm.yaml"
    assert not deployment_of("real_robot", "robot:=~/arm.yaml")[1]
    for wrong in ("package://my_lap/x.yaml", "package:///x.yaml"):
        with pytest.raises(ConfigError, match="no such package is installed"):
            path_of_file(wrong)
    faults = deployment_of("sim_single", "algorithm:=package://my_lap/x.yaml")[1]
    assert any("my_lap" in fault for fault in faults)


def test_of_a_package_in_two_workspaces_the_topmost_counts(lab, tmp_path, monkeypatch):
    above = Workspace(tmp_path / "above", monkeypatch)
    file = above.add("my_lab", "config/robots/lab_arm.yaml", "robot: {plugin: fake}\n")
    assert find_robot_file("lab_arm") == file
    assert find_shared("algorithms", "lab_sac") is None or "lab_sac" in shared_names("algorithms")
