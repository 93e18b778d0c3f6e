"""How often a robot takes a new version: as often as its link can spare."""

from __future__ import annotations

import logging

_log = logging.getLogger(__name__)
_WORTH_SAYING_S = 0.5
_CHANGE = 1.5


class PullPace:
    """Spaces pulls so that policies take at most a share of the link; the rest is for the others.

    On a fast link this does nothing. Versions that are published meanwhile are passed over.

    Args:
        share: Part of the measured rate that policies may take, over time.
        longest_s: However slow the link, a version is taken this often.

    Attributes:
        interval_s: Shortest time between the beginnings of two pulls now, seconds.
    """

    def __init__(self, share: float = 0.5, longest_s: float = 60.0) -> None:
        self._share, self._longest_s = share, longest_s
        self.interval_s = self._said_s = 0.0
        self._begun_s = float("-inf")

    def begin(self, now_s: float) -> None:
        """A pull begins."""
        self._begun_s = now_s

    def end(self, nbytes: int, rate_bytes_s: float) -> None:
        """It took this many bytes, on a link of this measured rate; 0: not measured."""
        if rate_bytes_s <= 0:
            return
        self.interval_s = min(nbytes / (rate_bytes_s * self._share), self._longest_s)
        low, high = sorted((max(self.interval_s, 0.01), max(self._said_s, 0.01)))
        if high >= _WORTH_SAYING_S and high > _CHANGE * low:
            self._said_s = self.interval_s
            _log.info(
                "policy versions at most every %.1f s: one has %.2f MB, the link %.2f MB/s, of "
                "which policies may take %.0f %%",
                self.interval_s, 1e-6 * nbytes, 1e-6 * rate_bytes_s, 100 * self._share,
            )  # fmt: skip

    def wait_s(self, now_s: float) -> float:
        """Time until the next may begin, seconds; 0: now."""
        return max(0.0, self._begun_s + self.interval_s - now_s)
