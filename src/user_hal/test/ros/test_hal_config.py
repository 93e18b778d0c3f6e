"""A hal's parameters: a robot file, and what wins over it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from user_core.config import from_mapping
from user_core.errors import ConfigError
from user_hal.node_configs import HalConfig

FILE = """
robot: {plugin: mock, params: {rate_hz: 50.0, control: ee_twist}}
safety: {watchdog_s: 0.4, workspace: {low: [0, 0, 0], high: [1, 1, 1]}}
lease: {required: false}
task: stack
"""


@pytest.fixture
def path(tmp_path: Path) -> str:
    file = tmp_path / "arm.yaml"
    file.write_text(FILE, encoding="utf-8")
    return str(file)


def test_a_robot_file_says_everything(path) -> None:
    robot = HalConfig(robot_file=path).expand(["robot_file", "autostart", "use_sim_time"])
    assert (robot.robot.plugin, robot.task, robot.lease.required) == ("mock", "stack", False)
    assert robot.robot.params == {"rate_hz": 50.0, "control": "ee_twist"}
    assert robot.safety.watchdog_s == 0.4 and robot.safety.workspace.high == (1.0, 1.0, 1.0)


def test_parameters_that_are_given_win_over_it_also_with_their_usual_value(path) -> None:
    data = {
        "robot_file": path,
        "robot": {"params": {"rate_hz": 20.0}},
        "safety": {"watchdog_s": 0.2, "force": {"stop_n": 30.0}},
        "lease": {"required": True},
    }
    given = [
        "robot_file", "robot.params.rate_hz", "safety.watchdog_s", "safety.force.stop_n",
        "lease.required",
    ]  # fmt: skip
    robot = from_mapping(HalConfig, data).expand(given)
    assert robot.lease.required is True
    assert robot.robot.params == {"rate_hz": 20.0, "control": "ee_twist"}
    assert (robot.safety.watchdog_s, robot.safety.force.stop_n) == (0.2, 30.0)
    assert robot.safety.workspace.given


def test_without_a_file_the_parameters_say_everything() -> None:
    data = {"robot": {"plugin": "mock", "params": {"rate_hz": 5.0}}, "task": "reach"}
    robot = from_mapping(HalConfig, data).expand([])
    assert (robot.robot.plugin, robot.robot.params, robot.task) == (
        "mock",
        {"rate_hz": 5.0},
        "reach",
    )


def test_a_hal_without_a_robot_is_refused() -> None:
    with pytest.raises(ConfigError, match="name of a driver, or a robot_file"):
        HalConfig()
    with pytest.raises(ConfigError, match="panda_sim"):
        HalConfig(robot_file="no_such_robot").expand([])


@pytest.mark.parametrize(
    ("content", "told"),
    [(None, "no robot configuration"), ("robot: {plugin: mock}\nsafty: {}\n", "safty")],
    ids=["not there", "wrong"],
)
def test_the_node_refuses_such_a_robot_file_at_once(
    tmp_path: Path, content: str | None, told: str
) -> None:
    file = tmp_path / "arm.yaml"
    if content is not None:
        file.write_text(content, encoding="utf-8")
    words = [sys.executable, "-m", "user_hal.nodes.hal", "--ros-args", "-p", f"robot_file:={file}"]
    hal = subprocess.run(
        [*words, "-p", "autostart:=true"], capture_output=True, text=True, timeout=60, check=False
    )
    assert hal.returncode == 2
    assert told in hal.stderr and "Traceback" not in hal.stderr
