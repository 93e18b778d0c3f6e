"""What a launch file starts besides a deployment, where it is installed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ament_index_python.packages import get_package_share_directory
from launch.actions import LogInfo
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node

from launch import LaunchContext
from user_bringup.launching.description import installed
from user_bringup.running import PreparedRun


def robot_state_publisher(prepared: PreparedRun, context: LaunchContext) -> list[Any]:
    """robot_state_publisher for each arm whose URDF is known (launch argument ``urdf``, or the
    simulated arms' own)."""
    actions: list[Any] = []
    for process in prepared.deployment.processes:
        if process.executable != "hal_node":
            continue
        file = _urdf_of(process.parameters, LaunchConfiguration("urdf").perform(context))
        if file is None:
            continue
        if not installed("robot_state_publisher"):
            return [LogInfo(msg="robot_state_publisher is not installed: no tf of the robot")]
        actions.append(
            Node(
                package="robot_state_publisher",
                executable="robot_state_publisher",
                namespace=process.namespace,
                parameters=[{"robot_description": file.read_text(encoding="utf-8")}],
            )
        )
    return actions


def rviz(prepared: PreparedRun, context: LaunchContext) -> list[Any]:
    """rviz2, when the launch argument ``rviz`` is true."""
    if LaunchConfiguration("rviz").perform(context).lower() not in ("true", "1", "yes"):
        return []
    if not installed("rviz2"):
        return [LogInfo(msg="rviz2 is not installed: going on without it")]
    view = Path(get_package_share_directory("user_bringup")) / "config" / "rviz" / "user.rviz"
    return [Node(package="rviz2", executable="rviz2", arguments=["-d", str(view)])]


def _urdf_of(parameters: Any, chosen: str) -> Path | None:
    if chosen:
        return Path(chosen)
    params = parameters.get("params", {})
    arm = params.get("robot") if parameters.get("driver") == "mujoco" else None
    if arm is None:
        return None
    file = Path(get_package_share_directory("user_hal")) / "urdf" / f"{arm}.urdf"
    return file if file.exists() else None
