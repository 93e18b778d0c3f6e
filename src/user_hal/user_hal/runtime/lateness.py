"""How late a loop is: percentiles over the last cycles."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class LatenessReport:
    """Lateness over the last cycles.

    Attributes:
        cycles: Cycles since the start.
        missed: Deadlines that passed altogether while the loop was busy.
        p50_ms: Median of the lateness, milliseconds.
        p99_ms: 99th percentile.
        worst_ms: Largest.
    """

    cycles: int
    missed: int
    p50_ms: float
    p99_ms: float
    worst_ms: float


class Lateness:
    """Takes one number a cycle, and keeps the last ones. One writer; readers may be others."""

    def __init__(self, kept: int = 1000) -> None:
        self._late_ns = np.zeros(kept, np.int64)
        self._cycles = 0
        self.missed = 0

    def add(self, late_ns: int) -> None:
        """A cycle began ``late_ns`` after its deadline."""
        self._late_ns[self._cycles % len(self._late_ns)] = late_ns
        self._cycles += 1

    def report(self) -> LatenessReport:
        """Percentiles now."""
        kept = self._late_ns[: min(self._cycles, len(self._late_ns))]
        if not len(kept):
            return LatenessReport(0, self.missed, 0.0, 0.0, 0.0)
        p50, p99, worst = np.percentile(kept, [50, 99, 100]) * 1e-6
        return LatenessReport(self._cycles, self.missed, float(p50), float(p99), float(worst))
