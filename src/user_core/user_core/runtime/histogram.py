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

    Args:
        window: Percentiles and the worst are those of the last ``window`` to twice as many
            durations; 0: of all.

    Attributes:
        count: Durations so far, all of them.
    """

    def __init__(self, window: int = 0) -> None:
        self._window = window
        self._buckets, self._before = _empty(), _empty()
        self._worst_ns = self._worst_before_ns = 0
        self.count = 0

    def add(self, duration_ns: int) -> None:
        """Count one duration."""
        if self._window and self.count and self.count % self._window == 0:
            self._before, self._worst_before_ns = self._buckets, self._worst_ns
            self._buckets, self._worst_ns = _empty(), 0
        place = 0
        if duration_ns > _FIRST_NS:
            place = math.ceil(math.log10(duration_ns / _FIRST_NS) * _PER_DECADE)
        self._buckets[min(place, _BUCKETS)] += 1
        self.count += 1
        self._worst_ns = max(self._worst_ns, duration_ns)

    @property
    def worst_ns(self) -> int:
        """The longest, nanoseconds."""
        return max(self._worst_ns, self._worst_before_ns)

    def percentile_ns(self, percent: float) -> int:
        """The duration that ``percent`` of all do not exceed, nanoseconds; 0 without any."""
        buckets = [now + before for now, before in zip(self._buckets, self._before, strict=True)]
        wanted = math.ceil(sum(buckets) * percent / 100)
        seen = 0
        for place, number in enumerate(buckets):
            seen += number
            if number and seen >= wanted:
                return min(int(_FIRST_NS * 10 ** (place / _PER_DECADE)), self.worst_ns)
        return 0


def _empty() -> list[int]:
    return [0] * (_BUCKETS + 1)
