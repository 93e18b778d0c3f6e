"""A simulated arm that notes when a command reaches its driver, for measurements of latency."""

from __future__ import annotations

import time
from typing import ClassVar

from user_core.config import Config, setting
from user_core.specs import Array
from user_hal.robots.mujoco import MujocoConfig, MujocoRobot


class NotingRobotConfig(MujocoConfig):
    """A simulated arm that notes when a command reaches it."""

    times: str = setting(
        "", doc="File that gets a line for each command: monotonic ns, first element."
    )


class NotingRobot(MujocoRobot):
    """Writes the time of every command whose first element differs from the one before."""

    Config: ClassVar[type[Config]] = NotingRobotConfig

    def __init__(self, config: NotingRobotConfig) -> None:
        super().__init__(config)
        self._file = open(config.times, "a", buffering=1, encoding="utf-8")  # noqa: SIM115
        self._last_first = 0.0

    def command(self, action: Array) -> Array:
        """A command."""
        now_ns, first = time.monotonic_ns(), float(action[0])
        if first != self._last_first:
            self._last_first = first
            self._file.write(f"{now_ns} {first}\n")
        return super().command(action)
