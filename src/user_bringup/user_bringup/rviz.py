"""What rviz shows of a deployment: a view made for its robots, frames and cameras."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from user_core.config import load_yaml
from user_fleet.deployment import Deployment, ProcessSpec
from user_fleet.deployment.check import OF_EVERY_NODE
from user_hal.node_configs import HalConfig
from user_hal.robot_file import build_robot

#: What stands in config/rviz/user.rviz for a robot's namespace, base frame and prefix of frames.
_NAMESPACE, _FRAME, _PREFIX = "/ROBOT", "BASE_FRAME", "TF_PREFIX"
_IMAGE_DISPLAY = "rviz_default_plugins/Image"
_DESCRIPTION = "/ROBOT/robot_description"


@dataclass(frozen=True)
class ShownRobot:
    """A robot as rviz meets it.

    Attributes:
        namespace: Of its topics, for instance ``/robot0``.
        base_frame: Base frame, with its prefix.
        cameras: Names of its cameras, colour and depth.
        frame_prefix: What stands before the frames of its URDF.
        description: Topic of its URDF.
    """

    namespace: str
    base_frame: str
    cameras: tuple[str, ...] = ()
    frame_prefix: str = ""
    description: str = "/robot_description"

    @classmethod
    def of(cls, process: ProcessSpec, description: str = "") -> ShownRobot:
        """From the parameters of a ``hal_node``, by asking its driver; nothing is connected.

        Raises:
            SuiteError: The driver cannot be made, or its parameters are wrong.
        """
        parameters = {k: v for k, v in process.parameters.items() if k not in OF_EVERY_NODE}
        config = HalConfig(**parameters).expand(parameters)
        robot = build_robot(config)
        try:
            spec, display = robot.spec, config.display.of(robot)
        finally:
            robot.close()
        cameras = [
            name.partition("_")[2]
            for name, item in spec.observation.items()
            if len(item.shape) == 3 and name.startswith(("image_", "depth_"))
        ]
        return cls(
            process.namespace, display.frame_prefix + display.base_frame, tuple(cameras),
            display.frame_prefix, description or cls.description,
        )  # fmt: skip


def robots_of(deployment: Deployment) -> list[ProcessSpec]:
    """The processes that run its robots."""
    return [process for process in deployment.processes if process.executable == "hal_node"]


def rviz_view(template: Path, robots: Sequence[ShownRobot]) -> dict[str, Any]:
    """The content of an rviz file for these robots.

    Each display of the template that names a robot's topic is there once for each robot; its
    display of an image once for each camera. The first robot's base frame is the fixed frame.
    """
    view: dict[str, Any] = load_yaml(template)
    manager = view["Visualization Manager"]
    shown: list[Any] = []
    for display in manager["Displays"]:
        if not any(_NAMESPACE in text for text in _texts(display)):
            shown.append(display)
            continue
        for robot in robots:
            shown += _displays(display, robot, len(robots) > 1)
    manager["Displays"] = shown
    if robots:
        manager["Global Options"]["Fixed Frame"] = robots[0].base_frame
    return view


def _displays(template: dict[str, Any], robot: ShownRobot, several: bool) -> Iterator[Any]:
    cameras = robot.cameras if template["Class"] == _IMAGE_DISPLAY else ("",)
    for camera in cameras:
        words = {
            _DESCRIPTION: robot.description,
            _NAMESPACE: robot.namespace,
            _PREFIX: robot.frame_prefix,
            "CAMERA": camera,
        }
        display = _replaced(copy.deepcopy(template), words)
        if several:
            display["Name"] = f"{robot.namespace.strip('/')}: {display['Name']}"
        yield display


def _replaced(value: Any, words: dict[str, str]) -> Any:
    if isinstance(value, dict):
        return {key: _replaced(below, words) for key, below in value.items()}
    if isinstance(value, list):
        return [_replaced(below, words) for below in value]
    if isinstance(value, str):
        for word, text in words.items():
            value = value.replace(word, text)
    return value


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for below in value.values():
            yield from _texts(below)
    elif isinstance(value, list):
        for below in value:
            yield from _texts(below)
    elif isinstance(value, str):
        yield value
