"""Absolute deadlines: a grid in time that nothing shifts."""

from __future__ import annotations

from user_hal.runtime.lateness import Lateness


class Deadlines:
    """Points in time, one period apart, counted from the first; lateness never adds up.

    Attributes:
        due_ns: The next deadline, on the monotonic clock.
        lateness: How late they were met.
    """

    def __init__(self, period_ns: int) -> None:
        self.period_ns = period_ns
        self.due_ns = 0
        self.lateness = Lateness()

    def start(self, now_ns: int) -> None:
        """Begin a new grid: the first deadline is one period from now."""
        self.due_ns = now_ns + self.period_ns

    def met(self, now_ns: int) -> bool:
        """Whether a deadline has come; if so, move on to the next one that lies ahead."""
        late_ns = now_ns - self.due_ns
        if late_ns < 0:
            return False
        missed = late_ns // self.period_ns
        self.lateness.add(late_ns)
        self.lateness.missed += missed
        self.due_ns += (missed + 1) * self.period_ns
        return True
