"""`user check robot` and `user robots` with a robot on ROS topics, in other processes."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from rich.console import Console

from user_comm.topic_io import open_topic_io
from user_core.config import load_yaml
from user_hal.cli import check, robots
from user_testing.waiting import wait_until
from user_testing.worlds.robots.sim_ros_robot import SimProcess

pytest.importorskip("mujoco", reason="the simulated robot needs MuJoCo")


#: For a machine with other work: what is late for seconds does not stop the robot.
PATIENT_SAFETY = {"watchdog_s": 3.0, "max_observation_age_s": 3.0}
READY = Path(__file__).parents[3] / "user_bringup" / "config" / "robots"


@pytest.fixture(scope="module")
def sim(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SimProcess]:
    params = {"arm": "ur5e", "task": "pick_place", "cameras": "[wrist]"}
    with (
        SimProcess(tmp_path_factory.mktemp("sim"), params) as process,
        open_topic_io("waiting") as io,
    ):
        wait_until(lambda: "/wrist_camera/image_raw" in io.topics())
        yield process


def test_the_ready_contract_with_its_camera_is_checked_to_the_end(
    sim: SimProcess, tmp_path: Path
) -> None:
    data = load_yaml(READY / "sim_ros_robot.yaml")
    params = data["robot"]["params"]
    params["timing"] = {"connect_timeout_s": 60.0, "max_age_s": 3.0, "max_skew_s": 0.5}
    params["cameras"]["max_skew_s"] = 1.0
    params["cameras"]["devices"]["wrist"]["params"]["max_age_s"] = 3.0
    # A twist that is held for longer, since the next one comes late, goes further: positions do not.
    params["action"]["command"] = {
        "topic": "/cartesian_controller/target_pose", "type": "geometry_msgs/msg/PoseStamped",
    }  # fmt: skip
    data["safety"] = {**data.get("safety", {}), **PATIENT_SAFETY}
    config = tmp_path / "robot.yaml"
    config.write_text(yaml.safe_dump(data), encoding="utf-8")
    console = Console(record=True, width=200)
    status = check.main([str(config), "--yes", "--seconds", "2", "--steps", "5"], console)
    text = console.export_text()
    assert status == 0, text
    assert "image_wrist: uint8 48x64x3" in text
    assert "0 broken" in text


def test_robots_finds_what_could_be_a_robot(sim: SimProcess) -> None:
    wanted = ("/joint_trajectory_controller/joint_trajectory", "/wrist_camera/image_raw")

    def found() -> bool:  # on a busy machine, discovery may be silent for longer than it waits
        console = Console(record=True, width=300)
        assert robots.main(["--all", "--wait", "2"], console) == 0
        text = console.export_text()
        return all(topic in text for topic in wanted)

    wait_until(found)


CONTRACT = """
robot:
  plugin: ros2
  params:
    robot: ur5e
    joints: [shoulder_pan_joint, shoulder_lift_joint, elbow_joint, wrist_1_joint, wrist_2_joint,
             wrist_3_joint]
    observation:
      joint_position: {topic: /joint_states, type: sensor_msgs/msg/JointState, field: position}
    action:
      kind: joint_velocity
      low: -0.3
      high: 0.3
      command: {topic: /forward_velocity_controller/commands, type: std_msgs/msg/Float64MultiArray}
    timing: {connect_timeout_s: 60.0, max_age_s: 3.0}
safety: {watchdog_s: 3.0, max_observation_age_s: 3.0}
"""


def test_ctrl_c_stops_the_robot(
    sim: SimProcess, tmp_path: Path, start_process: Callable[..., subprocess.Popen[str]]
) -> None:
    """The commands are velocities, which a controller goes on with: the stop must get through."""
    config = tmp_path / "velocity.yaml"
    config.write_text(CONTRACT)
    newest: dict[str, Any] = {}

    def position() -> np.ndarray:
        return np.array(newest["joints"].position)

    def gone(since: np.ndarray) -> float:
        """How far the joint that went furthest has gone, rad."""
        return float(np.abs(position() - since).max())

    with open_topic_io("watching") as io:
        io.subscribe("/joint_states", "sensor_msgs/msg/JointState",
                     lambda message: newest.update(joints=message))  # fmt: skip
        wait_until(lambda: newest)
        start = position()
        process = start_process(
            [sys.executable, "-m", "user_hal.cli.check", str(config), "--yes",
             "--seconds", "1", "--amount", "20"],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        wait_until(lambda: gone(start) > 0.05)
        process.send_signal(signal.SIGINT)
        output = process.communicate(timeout=60)[0]
        assert process.returncode != 0
        assert not re.search(r"Error:|Exception ignored", output), output
        stopped = position()
        time.sleep(0.5)
        assert gone(stopped) < 0.01, f"it goes on moving after\n{output}"
