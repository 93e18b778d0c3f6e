"""The two clocks of the HAL: one for durations, one for stamps."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Clock:
    """Time, injected so that tests can tell it.

    Attributes:
        monotonic_ns: For deadlines and ages; never jumps.
        wall_ns: For stamps, nanoseconds since the epoch; may be set.
    """

    monotonic_ns: Callable[[], int] = time.monotonic_ns
    wall_ns: Callable[[], int] = time.time_ns

    def monotonic_of(self, wall_ns: int) -> int:
        """The moment of the monotonic clock that a stamp stands for, as of now."""
        return self.monotonic_ns() + wall_ns - self.wall_ns()
