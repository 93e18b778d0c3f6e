"""The ready contracts, each against another process that has the names which it asks for."""

from __future__ import annotations

import time
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from user_comm.topic_io import open_topic_io
from user_core.config import from_mapping, load_yaml
from user_hal.robots.ros2.contract import Ros2Config
from user_hal.robots.ros2.driver import Ros2Robot
from user_testing.waiting import wait_until
from user_testing.worlds.robots.sim_ros_robot import SimProcess

pytest.importorskip("mujoco", reason="the simulated robot needs MuJoCo")


CONTRACTS = Path(__file__).parents[3] / "user_bringup" / "config" / "robots"
UR_NAMES = {
    "joint_trajectory_controller/joint_trajectory":
        "/scaled_joint_trajectory_controller/joint_trajectory",
    "~/zero_ftsensor": "/io_and_status_controller/zero_ftsensor",
    "__node": "ur",
}  # fmt: skip
FRANKA_NAMES = {
    "joint_states": "/franka_robot_state_broadcaster/measured_joint_states",
    "tcp_pose_broadcaster/pose": "/franka_robot_state_broadcaster/current_pose",
    "force_torque_sensor_broadcaster/wrench":
        "/franka_robot_state_broadcaster/external_wrench_in_stiffness_frame",
    "joint_trajectory_controller/joint_trajectory": "/fr3_arm_controller/joint_trajectory",
    "__node": "fr3",
}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "params", "remaps", "home"),
    [
        ("ur_ros2_control", {"arm": "ur5e", "base_frame": "base"}, UR_NAMES, None),
        (
            "franka_fr3",
            {"arm": "panda", "base_frame": "fr3_link0", "rename": "panda:fr3"},
            FRANKA_NAMES,
            None,
        ),
        (
            "generic_ros2_control",
            {"arm": "ur5e"},
            {"__node": "generic"},
            [0.0, -1.571, 1.571, -1.571, -1.571, 0.0],
        ),
    ],
)
def test_the_ready_contracts_drive_a_robot_with_those_names(
    name: str,
    params: dict[str, str],
    remaps: dict[str, str],
    home: list[float] | None,
    tmp_path: Path,
) -> None:
    """The topics, joints, frames and services that the contract names, from another process."""
    data = load_yaml(CONTRACTS / f"{name}.yaml")["robot"]["params"]
    busy = {"connect_timeout_s": 20.0, "max_age_s": 0.5, "max_skew_s": 0.1}
    data["timing"] = {**data.get("timing", {}), **busy}
    data["home"]["speed_rad_s"] = 1.5
    data.pop("stop_when", None)  # the simulated robot has no teach pendant
    if name == "franka_fr3":  # its gripper is an action whose interface is not on PyPI
        for place in (data["observation"], data["action"], data["home"]):
            place.pop("gripper")
    if home is not None:  # what one fills in
        data["joints"] = [
            "shoulder_pan_joint", "shoulder_lift_joint", "elbow_joint",
            "wrist_1_joint", "wrist_2_joint", "wrist_3_joint",
        ]  # fmt: skip
        data["home"]["joints"] = home
    with SimProcess(tmp_path, params, remaps), open_topic_io("hal") as io:
        robot = Ros2Robot(from_mapping(Ros2Config, data))
        robot.attach(io)
        with closing(robot):  # its commands are this process's until then
            robot.connect()
            first = robot.reset()
            np.testing.assert_allclose(
                first.arrays["joint_position"], data["home"]["joints"], atol=0.025
            )
            action = np.full(robot.spec.action.shape, 0.02, np.float32)
            for _ in range(5):
                robot.command(action)
                time.sleep(data["period_s"])
            wait_until(lambda: np.abs(robot.read().arrays["joint_velocity"]).max() < 0.01)
            moved = robot.read().arrays["joint_position"] - first.arrays["joint_position"]
            np.testing.assert_allclose(moved, 0.1, atol=0.03)
