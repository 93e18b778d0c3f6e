"""A mock robot that notes when a command reaches its driver, for measurements of latency."""

from __future__ import annotations

import time
from typing import ClassVar

from user_core.config import Config, setting
from user_core.specs import Array
from user_hal.robots.mock import MockConfig, MockRobot


class NotingRobotConfig(MockConfig):
    """A mock robot that notes when a command reaches it."""

    times: str = setting(
        "", doc="File that gets a line for each command: monotonic ns, first element."
    )


class NotingRobot(MockRobot):
    """Writes the time of every command that differs from the one before."""

    Config: ClassVar[type[Config]] = NotingRobotConfig

    def __init__(self, config: NotingRobotConfig) -> None:
        super().__init__(config)
        self._file = open(config.times, "a", buffering=1, encoding="utf-8")  # noqa: SIM115
        self._last = 0.0

    def command(self, action: Array) -> Array:
        """A command."""
        now_ns, first = time.monotonic_ns(), float(action[0])
        if first != self._last:
            self._last = first
            self._file.write(f"{now_ns} {first}\n")
        self.log.entries.clear()
        return super().command(action)
