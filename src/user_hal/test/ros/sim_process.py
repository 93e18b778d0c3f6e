"""The simulated ROS robot as a process of its own, and how to make it misbehave."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

from rclpy.parameter import Parameter

from user_core.errors import DeviceError
from user_hal.topic_io import TopicIo


class SimProcess:
    """``sim_ros_robot`` in another process; ends with the ``with`` block, whatever happens.

    Args:
        params: Its ROS parameters.
        remaps: Names from and to.
    """

    def __init__(self, params: dict[str, str], remaps: dict[str, str] | None = None) -> None:
        self._command = [sys.executable, "-m", "user_hal.nodes.sim_ros_robot", "--ros-args"]
        for name, value in params.items():
            self._command += ["-p", f"{name}:={value}"]
        for old, new in (remaps or {}).items():
            self._command += ["-r", f"{old}:={new}"]
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> SimProcess:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def start(self) -> None:
        """Start it."""
        self._process = subprocess.Popen(self._command, env=dict(os.environ))

    def kill(self) -> None:
        """End it at once."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()

    def interrupt(self) -> int:
        """End it as Ctrl-C does; returns the exit status."""
        process, self._process = self._process, None
        assert process is not None
        process.send_signal(signal.SIGINT)
        try:
            return process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            process.kill()
            raise

    def set(self, io: TopicIo, name: str, value: Any) -> None:
        """Change one of its parameters."""
        parameter = Parameter(name, value=value).to_parameter_msg()
        answer = io.call(
            "/sim_ros_robot/set_parameters",
            "rcl_interfaces/srv/SetParameters",
            {"parameters": [parameter]},
            timeout_s=10.0,
        )
        assert answer.results[0].successful, answer.results[0].reason


def wait_until(condition: Callable[[], Any], timeout_s: float = 15.0) -> None:
    """Wait until something is so; AssertionError when it does not become so."""
    deadline_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline_s, "it did not happen in time"
        time.sleep(0.01)


def failure(read: Callable[[], Any]) -> str:
    """The text of the DeviceError that a reading raises; empty when it raises none."""
    try:
        read()
    except DeviceError as error:
        return str(error)
    return ""
