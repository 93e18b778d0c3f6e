"""Time that a test tells: clocks that stand still until moved, also for modules that use ``time``."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from user_core.runtime.clock import Clock

EPOCH_NS = 1_700_000_000_000_000_000


class VirtualTime(Clock):
    """A monotonic and a wall clock, and a ``sleep`` that moves them.

    Args:
        let_pass: Called by :meth:`sleep` with the seconds that shall pass; what lives in this
            time (a robot, a watchdog) is run by it, and it moves the clocks with :meth:`move`.

    Attributes:
        now_ns: The monotonic clock.
        wall_offset_ns: Wall clock minus monotonic clock; a test may step it.
    """

    def __init__(self, let_pass: Callable[[float], None] | None = None) -> None:
        self.now_ns = 1_000_000_000
        self.wall_offset_ns = EPOCH_NS
        self.let_pass = let_pass or self.move

    def move(self, duration_s: float) -> None:
        """Let time pass, and nothing happen."""
        self.now_ns += max(0, round(duration_s * 1e9))

    def monotonic_ns(self) -> int:
        return self.now_ns

    def wall_ns(self) -> int:
        return self.wall_offset_ns + self.now_ns

    def monotonic(self) -> float:
        """As ``time.monotonic``."""
        return self.now_ns * 1e-9

    def time_ns(self) -> int:
        """As ``time.time_ns``."""
        return self.wall_ns()

    def time(self) -> float:
        """As ``time.time``."""
        return self.wall_ns() * 1e-9

    def sleep(self, duration_s: float) -> None:
        """As ``time.sleep``; a sleep of nothing still takes a moment, so that loops end."""
        self.let_pass(max(duration_s, 1e-6))

    @contextmanager
    def instead_of_time(self, *packages: str) -> Iterator[VirtualTime]:
        """In the loaded modules of these packages, the name ``time`` means this one.

        Only for code that runs in the thread of the test.
        """
        modules = [
            module
            for name, module in list(sys.modules.items())
            if any(name == package or name.startswith(f"{package}.") for package in packages)
            and getattr(module, "time", None) is time
        ]
        for module in modules:
            module.time = self  # type: ignore[attr-defined]
        try:
            yield self
        finally:
            for module in modules:
                module.time = time  # type: ignore[attr-defined]
