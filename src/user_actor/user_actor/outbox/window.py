"""How much may be under way: about what the link holds, measured from the acknowledgements."""

from __future__ import annotations

_SMOOTHING = 0.5
_UNKNOWN_S = 2.0


class DeliveryWindow:
    """Window of unacknowledged bytes, and the time after which a chunk counts as lost.

    The window follows FAST TCP (Wei, Jin, Low, Hegde, "FAST TCP: motivation, architecture,
    algorithms, performance", 2006)::

        window <- (1 - g) * window + g * (base_rtt / rtt * window + alpha)

    whose rest point keeps ``alpha`` bytes waiting in the network beyond the bandwidth-delay
    product: enough to use the link, and little enough that control traffic beside it stays
    fast. ``alpha`` is the smallest window. A loss halves it. The time-out is that of RFC 6298 with some room,
    with samples from chunks that were sent once only (Karn).

    Args:
        min_bytes: Smallest window.
        max_bytes: Largest window.
        min_timeout_s: Shortest time-out, seconds.
        max_timeout_s: Longest time-out, seconds.
    """

    def __init__(
        self, min_bytes: int, max_bytes: int, min_timeout_s: float, max_timeout_s: float
    ) -> None:
        self._min_bytes, self._max_bytes = min_bytes, max_bytes
        self._min_timeout_s, self._max_timeout_s = min_timeout_s, max_timeout_s
        self._window = float(min_bytes)
        self._next_change_s = 0.0
        self._base_s: float | None = None  # shortest round trip since the link came (back)
        self._smooth_s: float | None = None
        self._deviation_s = 0.0
        self._backoff = 1

    @property
    def nbytes(self) -> int:
        """Bytes that may be sent and not acknowledged."""
        return int(self._window)

    @property
    def round_trip_s(self) -> float:
        """Smoothed time from sending to acknowledgement, seconds; 0 before the first."""
        return self._smooth_s or 0.0

    @property
    def timeout_s(self) -> float:
        """Time after which what was sent is sent again, seconds."""
        measured_s = _UNKNOWN_S
        if self._smooth_s is not None:
            measured_s = 1.5 * self._smooth_s + 4 * self._deviation_s
        base_s = max(self._min_timeout_s, measured_s)
        return min(base_s * self._backoff, self._max_timeout_s)

    def on_answer(self, rtt_s: float | None, was_full: bool, now_s: float) -> None:
        """An acknowledgement moved on.

        Args:
            rtt_s: Round trip of the newest chunk it covers; None where that was sent twice.
            was_full: The window, and not a lack of data, limits what is under way.
            now_s: Monotonic time, seconds.
        """
        if rtt_s is None:
            return
        self._backoff = 1  # only now: until then the time-out may be what was wrong
        base_s = self._note(rtt_s)
        if now_s < self._next_change_s:
            return
        self._next_change_s = now_s + rtt_s
        wanted = base_s / max(rtt_s, 1e-9) * self._window + self._min_bytes
        if wanted > self._window and not was_full:
            return  # growing what is not used would only prepare a burst
        self._set((1 - _SMOOTHING) * self._window + _SMOOTHING * wanted)

    def on_timeout(self) -> None:
        """What was sent did not arrive."""
        self._set(self._window / 2)
        if self._backoff > 1:  # not one loss but a cut: the link may come back another way
            self._base_s = None
        if self.timeout_s < self._max_timeout_s:
            self._backoff *= 2

    @property
    def is_backing_off(self) -> bool:
        """Nothing has been answered for a while."""
        return self._backoff > 1

    def revive(self) -> None:
        """There is a sign of life: do not wait out the long time-out."""
        self._backoff = 1

    def _note(self, rtt_s: float) -> float:
        """Take in a round trip; return the shortest."""
        if self._smooth_s is None:
            self._smooth_s, self._deviation_s = rtt_s, rtt_s / 2
        else:
            self._deviation_s += (abs(rtt_s - self._smooth_s) - self._deviation_s) / 4
            self._smooth_s += (rtt_s - self._smooth_s) / 8
        self._base_s = rtt_s if self._base_s is None else min(self._base_s, rtt_s)
        return self._base_s

    def _set(self, nbytes: float) -> None:
        self._window = min(max(nbytes, self._min_bytes), self._max_bytes)
