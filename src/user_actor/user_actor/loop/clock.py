"""The clocks of the loop, and how it sleeps; a test injects its own."""

from __future__ import annotations

import threading
import time
from typing import Protocol


class Clock(Protocol):
    """Tells the time, and lets it pass."""

    def monotonic_ns(self) -> int:
        """For deadlines and durations; never jumps."""

    def wall_ns(self) -> int:
        """For stamps, nanoseconds since the epoch."""

    def wait(self, condition: threading.Condition, timeout_s: float) -> None:
        """Wait on a condition that is held, for at most this time, seconds."""


class SystemClock:
    """The clocks of the machine."""

    def monotonic_ns(self) -> int:
        return time.monotonic_ns()

    def wall_ns(self) -> int:
        return time.time_ns()

    def wait(self, condition: threading.Condition, timeout_s: float) -> None:
        condition.wait(timeout_s)
