"""What answers tell of a link: its round trip, its queue, and how fast things arrive.

Pure: no clock, no thread, no I/O.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass

#: Without a message that met no queue for so long, one is to be made.
_BASE_LIFE_S, _LIKE_BASE = 10.0, 0.03
#: Round trips that a rate is measured over, and for which it counts as recent.
_SAMPLE_ROUNDS, _RECENT_ROUNDS = 1.5, 3.0


@dataclass(frozen=True)
class Sent:
    """What was known when something was sent; to be handed back with its answer."""

    nbytes: int
    at_s: float
    delivered: int
    delivered_s: float
    idle: bool
    total: int


class LinkGauge:
    """Measures one link from the answers to what is sent over it.

    Attributes:
        base_s: Shortest recent round trip, seconds; 0 before the first.
        round_trip_s: Smoothed round trip with what the far end held back, seconds.
        deviation_s: How much it differs, seconds.
        held_s: Smoothed time that the far end held answers back, seconds.
        delivered: Bytes answered.
        delivered_s: When the last of them arrived, by our clock.
    """

    def __init__(self) -> None:
        self.round_trip_s = self.deviation_s = self.held_s = 0.0
        self.forget()

    def forget(self) -> None:
        """The link may be another; how long answers take is kept."""
        self.base_s, self._base_until_s = 0.0, 0.0
        self._base_lag_s = self._arrived_s = -math.inf
        self._found: tuple[float, float] | None = None  # base and lag, while looking
        self.delivered, self.delivered_s = 0, 0.0
        self._points: deque[tuple[float, int, float]] = deque()  # time, delivered, time sent
        self._rates: deque[tuple[float, float]] = deque()  # time, rate

    @property
    def recent_rate_bytes_s(self) -> float:
        """The fastest arrival of the last round trips, bytes a second."""
        return max((rate for _, rate in self._rates), default=0.0)

    def pause(self, now_s: float) -> None:
        """Nothing was under way until now: a pause is not a slow link."""
        self.delivered_s = now_s
        self._points.clear()

    def note_took(self, took_s: float, held_s: float) -> None:
        """Take the time of a message there and back, of which the far end held it for some."""
        if not self.round_trip_s:
            self.round_trip_s, self.deviation_s, self.held_s = took_s, took_s / 2, held_s
        else:
            self.deviation_s += (abs(took_s - self.round_trip_s) - self.deviation_s) / 4
            self.round_trip_s += (took_s - self.round_trip_s) / 8
            self.held_s += (held_s - self.held_s) / 8

    def note_queue(self, round_trip_s: float, lag_s: float, now_s: float) -> float:
        """Take the times of a message; what of them was the link's queue, seconds."""
        if not self.base_s:
            self.base_s, self._base_lag_s = round_trip_s, lag_s
        self.base_s = min(self.base_s, round_trip_s)
        self._base_lag_s = min(self._base_lag_s, lag_s)
        if self._found is not None:
            self._found = min(self._found[0], round_trip_s), min(self._found[1], lag_s)
        # Also where the clocks went apart it is not longer than the round trip tells.
        queue_s = min(lag_s - self._base_lag_s, round_trip_s - self.base_s)
        if queue_s <= _LIKE_BASE * self.base_s:
            self._base_until_s = now_s + _BASE_LIFE_S
        return queue_s

    def is_base_old(self, now_s: float) -> bool:
        """No message met an empty queue for long: perhaps the way has become another."""
        return now_s >= self._base_until_s

    def look_for_base(self) -> None:
        """Little is sent from now on: what comes meets no queue."""
        self._found = math.inf, math.inf

    def take_base(self, now_s: float) -> bool:
        """Take what was found since :meth:`look_for_base`; whether anything was."""
        if self._found is None or self._found[0] == math.inf:
            return False
        self.base_s, self._base_lag_s = self._found
        self._found, self._base_until_s = None, now_s + _BASE_LIFE_S
        return True

    def note_rate(self, sent: Sent, arrived_s: float, now_s: float) -> float:
        """Delivery rate over about a round trip (BBR's rate sample, over a fixed time); 0: unknown.

        Not faster than it was sent: answers that were held up and come together say nothing.
        """
        if arrived_s < self._arrived_s:  # another clock
            self._points.clear()
        self._arrived_s = arrived_s
        self._points.append((arrived_s, self.delivered, sent.at_s))
        span_s = _SAMPLE_ROUNDS * self.base_s
        while len(self._points) > 2 and self._points[1][0] <= arrived_s - span_s:
            self._points.popleft()
        then_s, before, sent_s = self._points[0]
        took_s = max(arrived_s - then_s, sent.at_s - sent_s)
        if len(self._points) < 2 or took_s < self.base_s:  # the first flight
            took_s, before = self.delivered_s - sent.delivered_s, sent.delivered
        if took_s <= 0:
            return 0.0
        rate = (self.delivered - before) / took_s
        self._rates.append((now_s, rate))
        while self._rates[0][0] < now_s - _RECENT_ROUNDS * self.base_s and len(self._rates) > 1:
            self._rates.popleft()
        return rate
