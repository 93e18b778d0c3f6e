"""The simulated ROS robot as a process of its own, and how to make it misbehave."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rclpy.parameter import Parameter

from user_core.errors import DeviceError
from user_hal.topic_io import TopicIo
from user_testing.processes import Process


class SimProcess(Process):
    """``sim_ros_robot`` in another process; ends with the ``with`` block, whatever happens.

    Args:
        folder: For its output.
        params: Its ROS parameters.
        remaps: Names from and to.
    """

    def __init__(
        self, folder: Path, params: dict[str, str], remaps: dict[str, str] | None = None
    ) -> None:
        words = [sys.executable, "-m", "user_hal.nodes.sim_ros_robot", "--ros-args"]
        for name, value in params.items():
            words += ["-p", f"{name}:={value}"]
        for old, new in (remaps or {}).items():
            words += ["-r", f"{old}:={new}"]
        super().__init__(words, folder / "sim_ros_robot.log")

    def set(self, io: TopicIo, name: str, value: Any) -> None:
        """Change one of its parameters."""
        parameter = Parameter(name, value=value).to_parameter_msg()
        answer = io.call(
            "/sim_ros_robot/set_parameters",
            "rcl_interfaces/srv/SetParameters",
            {"parameters": [parameter]},
            timeout_s=60.0,
        )
        assert answer.results[0].successful, answer.results[0].reason


def failure(read: Callable[[], Any]) -> str:
    """The text of the DeviceError that a reading raises; empty when it raises none."""
    try:
        read()
    except DeviceError as error:
        return str(error)
    return ""
