"""The clocks of a process: one for durations, one for stamps; a test brings its own."""

from __future__ import annotations

import threading
import time


class Clock:
    """The clocks of the machine. A test derives one that it moves by itself."""

    def monotonic_ns(self) -> int:
        """For deadlines and durations, nanoseconds; never jumps."""
        return time.monotonic_ns()

    def wall_ns(self) -> int:
        """For stamps, nanoseconds since the epoch; may be set."""
        return time.time_ns()

    def monotonic_of(self, wall_ns: int) -> int:
        """The moment of the monotonic clock that a stamp stands for, as of now."""
        return self.monotonic_ns() + wall_ns - self.wall_ns()

    def wait(self, condition: threading.Condition, timeout_s: float) -> None:
        """Wait on a condition that is held, for at most this time, seconds."""
        condition.wait(timeout_s)
