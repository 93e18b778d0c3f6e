"""Durations by how often they occurred: percentiles over hours in a few hundred numbers."""

from __future__ import annotations

import math

_FIRST_NS = 1_000
_PER_DECADE = 20
_BUCKETS = 8 * _PER_DECADE  # 1 us to 100 s


class LatencyHistogram:
    """Counts durations in buckets that grow by 12 %, from 1 us to 100 s.

    One thread adds, any may read. A percentile is the upper edge of its bucket, so it is never
    better than the truth, and at most 12 % worse.

    Attributes:
        count: Durations so far.
        worst_ns: The longest, nanoseconds.
    """

    def __init__(self) -> None:
        self._buckets = [0] * (_BUCKETS + 1)
        self.count = 0
        self.worst_ns = 0

    def add(self, duration_ns: int) -> None:
        """Count one duration."""
        place = 0
        if duration_ns > _FIRST_NS:
            place = math.ceil(math.log10(duration_ns / _FIRST_NS) * _PER_DECADE)
        self._buckets[min(place, _BUCKETS)] += 1
        self.count += 1
        self.worst_ns = max(self.worst_ns, duration_ns)

    def percentile_ns(self, percent: float) -> int:
        """The duration that ``percent`` of all do not exceed, nanoseconds; 0 without any."""
        wanted = math.ceil(sum(self._buckets) * percent / 100)
        seen = 0
        for place, number in enumerate(self._buckets):
            seen += number
            if number and seen >= wanted:
                return min(int(_FIRST_NS * 10 ** (place / _PER_DECADE)), self.worst_ns)
        return 0
