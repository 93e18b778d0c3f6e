"""A robot's configuration file: which driver, its parameters, cameras, safety."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from user_core.config import Config, from_mapping, load_yaml, setting
from user_core.errors import UserError
from user_core.interfaces import Robot
from user_core.plugins import build
from user_hal.cameras.with_cameras import CamerasConfig, RobotWithCameras, build_cameras
from user_hal.safety import SafetyConfig


@dataclass(frozen=True)
class RobotFile(Config):
    """The content of such a file."""

    driver: str = setting(
        doc="Robot plugin, for instance ros2, or package.module:Class.", min_length=1
    )
    params: dict[str, Any] = setting(factory=dict, doc="Parameters of the driver.")
    cameras: CamerasConfig = setting(
        factory=CamerasConfig, doc="Cameras that the driver does not know of."
    )
    safety: SafetyConfig = setting(
        factory=SafetyConfig, doc="What the safety gate lets through; used by the HAL node."
    )


def load_robot_file(path: str | Path) -> RobotFile:
    """Read a robot's file.

    Raises:
        ConfigError: It cannot be read, or a key is unknown, missing or out of range.
    """
    return from_mapping(RobotFile, load_yaml(path))


def build_robot(file: RobotFile) -> Robot:
    """Make the driver, with the cameras around it where there are any.

    Whether it wants topics is told by :func:`user_hal.topic_io.attach_topics`.

    Raises:
        PluginError: There is no such driver, or it cannot be imported.
        ConfigError: A parameter is unknown, missing or out of range.
    """
    robot: Robot = build("robots", file.driver, file.params, path="params")
    if not file.cameras.devices:
        return robot
    cameras = build_cameras(file.cameras)
    try:
        return RobotWithCameras(robot, cameras, file.cameras.max_skew_s)
    except UserError:
        robot.close()
        raise
