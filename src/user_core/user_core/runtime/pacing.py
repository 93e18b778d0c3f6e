"""Absolute deadlines: a grid in time that nothing shifts, and how late they are met."""

from __future__ import annotations

from dataclasses import dataclass

from user_core.runtime.histogram import LatencyHistogram


@dataclass(frozen=True)
class LatenessReport:
    """How a loop keeps its deadlines.

    Attributes:
        cycles: Deadlines that were met since the start.
        missed: Deadlines that passed altogether while the loop was busy.
        p50_ms: Median of the lateness, milliseconds; of the last cycles, where the pacer has a
            window. So are the others.
        p99_ms: 99th percentile.
        worst_ms: Largest.
    """

    cycles: int
    missed: int
    p50_ms: float
    p99_ms: float
    worst_ms: float


class Pacer:
    """Deadlines one period apart, counted from the first; lateness never adds up.

    A loop that was held up past whole periods skips them: it acts on what is true now, and does
    not try to catch up with what is over.

    Args:
        period_ns: Time between two deadlines, nanoseconds.
        window: Cycles that the lateness is reported of; 0: all.

    Attributes:
        due_ns: The next deadline, monotonic nanoseconds.
        lateness: How late deadlines were met.
        skipped: Deadlines that passed altogether.
    """

    def __init__(self, period_ns: int, window: int = 0) -> None:
        self.period_ns = period_ns
        self.due_ns = 0
        self.skipped = 0
        self.lateness = LatencyHistogram(window)
        self._shifted_ns = 0

    @property
    def step(self) -> int:
        """Number of the present step on the grid; skipped ones count, too."""
        return (self.due_ns - self._shifted_ns) // self.period_ns

    def start(self, now_ns: int) -> None:
        """Begin a new grid: the first deadline is one period from now."""
        self.due_ns = now_ns + self.period_ns
        self._shifted_ns = 0

    def shift(self, later_ns: int) -> None:
        """Move the grid: the next deadline and all after it come this much later. Steps keep their numbers, and
        lateness is that against the new deadlines."""
        self.due_ns += later_ns
        self._shifted_ns += later_ns

    def met(self, now_ns: int) -> None:
        """A step begins at ``now_ns``, at its deadline or later; move on to the next deadline."""
        late_ns = max(0, now_ns - self.due_ns)
        self.lateness.add(late_ns)
        missed = late_ns // self.period_ns
        self.skipped += missed
        self.due_ns += (missed + 1) * self.period_ns

    def reached(self, now_ns: int) -> bool:
        """Whether the deadline has come; if so, move on to the next one that lies ahead."""
        if now_ns < self.due_ns:
            return False
        self.met(now_ns)
        return True

    def catch_up(self, now_ns: int) -> None:
        """A step took until ``now_ns``: deadlines that passed meanwhile are skipped."""
        if self.reached(now_ns):
            self.skipped += 1

    def report(self) -> LatenessReport:
        """How deadlines are kept now."""
        late = self.lateness
        return LatenessReport(
            late.count,
            self.skipped,
            late.percentile_ns(50) * 1e-6,
            late.percentile_ns(99) * 1e-6,
            late.worst_ns * 1e-6,
        )
