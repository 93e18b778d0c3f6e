"""Absolute deadlines: a grid in time that nothing shifts."""

from __future__ import annotations

from user_actor.loop.histogram import LatencyHistogram


class Pacer:
    """Deadlines one period apart, counted from the first; lateness never adds up.

    A loop that was held up past whole periods skips them: it acts on what is true now, and does
    not try to catch up with what is over.

    Args:
        period_ns: Time between two deadlines, nanoseconds.

    Attributes:
        due_ns: The next deadline, monotonic nanoseconds.
        lateness: How late deadlines were met.
        skipped: Deadlines that passed altogether.
    """

    def __init__(self, period_ns: int) -> None:
        self.period_ns = period_ns
        self.due_ns = 0
        self.skipped = 0
        self.lateness = LatencyHistogram()

    @property
    def step(self) -> int:
        """Number of the present step on the grid; skipped ones count, too."""
        return self.due_ns // self.period_ns

    def start(self, now_ns: int) -> None:
        """Begin a new grid: the first deadline is one period from now."""
        self.due_ns = now_ns + self.period_ns

    def met(self, now_ns: int) -> None:
        """A step begins at ``now_ns``, at its deadline or later; move on to the next deadline."""
        late_ns = max(0, now_ns - self.due_ns)
        self.lateness.add(late_ns)
        missed = late_ns // self.period_ns
        self.skipped += missed
        self.due_ns += (missed + 1) * self.period_ns

    def catch_up(self, now_ns: int) -> None:
        """A step took until ``now_ns``: deadlines that passed meanwhile are skipped."""
        if now_ns >= self.due_ns:
            self.met(now_ns)
            self.skipped += 1
