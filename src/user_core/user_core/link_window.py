"""How much may be under way on a link, and when the next may go: measured from the answers.

A model of the link instead of a reaction to loss, after BBR (Cardwell, Cheng, Gunn, Yeganeh,
Jacobson, "BBR: congestion-based congestion control", 2016): the *rate* is the fastest delivery
of the last rounds, the *round trip* the shortest of the last ten seconds; their product is what
the link holds. What is sent is paced at the rate, so that bursts of answers (a store that
commits every 50 ms) make no bursts on the link, and the window bounds the rest. So a bulk
transfer takes the link and leaves its queue short, and control traffic beside it stays fast.

Where this differs from BBR: probing is gentler, goes on while it brings more and delays
nothing, and the start ends also when the queue grows, as in Vegas (Brakmo, Peterson, 1995).

Pure: no clock, no thread, no I/O. Bytes and monotonic seconds come from the caller.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass
from enum import Enum

_UNKNOWN_S = 2.0
_START_GAIN = 2.0
_PROBE, _DRAIN, _CRUISE = 1.1, 0.85, 1.0
_CYCLE = (_PROBE, _DRAIN, *([_CRUISE] * 6))
#: Room for answers that come in bursts; pacing keeps it from standing in the link's queue.
_WINDOW_GAIN = 1.25
#: Probing that brings this much more goes on, and after the second time more boldly.
_PAYS, _BOLD = 1.02, 1.3
_JITTER_GAIN, _MOST_JITTER_S = 2.0, 0.1
_RATE_ROUNDS = 10
_BASE_LIFE_S = 10.0
_LATE_S = 0.025
_SAMPLE_ROUND_TRIPS = 3.0
_BASE_PROBE_S = 0.2
#: The start ends when three rounds bring less than a quarter more, or the queue is this long.
_GROWTH, _FLAT_ROUNDS = 1.25, 3
_QUEUED = 1.3
#: The same in the steady state, where control traffic would wait behind it for ever.
_STANDING = 1.15
#: What was measured as the fastest is a little more than the link carries on the average.
_MARGIN = 0.99
#: A round trip of this many times the shortest, for a whole round: the link has become slower.
_SWAMPED = 2.0


class Phase(Enum):
    """What the window is doing."""

    START = "start"
    DRAIN = "drain"
    STEADY = "steady"
    PROBE_BASE = "probe round trip"


@dataclass(frozen=True)
class Sent:
    """What was known when something was sent; to be handed back with its answer."""

    nbytes: int
    at_s: float
    delivered: int
    delivered_s: float
    idle: bool


class LinkWindow:
    """Window, pace and time-out of one link.

    Args:
        min_bytes: Smallest window.
        max_bytes: Largest window.
        min_timeout_s: Shortest time-out, seconds.
        max_timeout_s: Longest time-out, seconds.

    Attributes:
        phase: What it is doing.
        rate_bytes_s: Measured rate of the link, bytes a second; 0 before the first answers.
        base_s: Shortest recent round trip, seconds; 0 before the first.
        round_trip_s: Smoothed round trip, seconds; 0 before the first.
    """

    def __init__(
        self, min_bytes: int, max_bytes: int, min_timeout_s: float, max_timeout_s: float
    ) -> None:
        self._min_bytes, self._max_bytes = min_bytes, max_bytes
        self._min_timeout_s, self._max_timeout_s = min_timeout_s, max_timeout_s
        self._backoff = 1
        self._deviation_s = self.round_trip_s = 0.0
        self._forget()

    def _forget(self) -> None:
        self.phase = Phase.START
        self.rate_bytes_s = self.base_s = 0.0
        self._rates: deque[tuple[int, float]] = deque()  # round, rate
        self._points: deque[tuple[float, int, float]] = deque()  # time, delivered, time sent
        self._base_until_s = self._phase_since_s = 0.0
        self._delivered, self._delivered_s = 0, 0.0
        self._round, self._round_ends = 0, 0
        self._round_s = self._least_s = math.inf  # shortest round trip of the last round, of this
        self._best_rate, self._flat = 0.0, 0
        self._cycle, self._cycle_since_s, self._cycle_rate = 2, 0.0, 0.0
        self._next_s, self._found_s, self._wins = 0.0, 0.0, 0

    @property
    def nbytes(self) -> int:
        """Bytes that may be sent and not answered."""
        if self.phase is Phase.PROBE_BASE:
            return self._within(0.5 * self.rate_bytes_s * self.base_s)
        gain = _START_GAIN if self.phase is Phase.START else _WINDOW_GAIN
        if not self.rate_bytes_s:
            return self._min_bytes
        # Answers that come late at times must not stop the sending: pacing bounds the queue.
        room_s = min(_JITTER_GAIN * self._deviation_s, _MOST_JITTER_S)
        room_s = 0.0 if self.phase is Phase.START else room_s
        return self._within(self.rate_bytes_s * (gain * self.base_s + room_s) + self._min_bytes)

    @property
    def timeout_s(self) -> float:
        """Time after which what was sent counts as lost, seconds (RFC 6298, with some room)."""
        measured_s = _UNKNOWN_S
        if self.round_trip_s:
            measured_s = 1.5 * self.round_trip_s + 4 * self._deviation_s
        return min(max(self._min_timeout_s, measured_s) * self._backoff, self._max_timeout_s)

    def wait_s(self, now_s: float) -> float:
        """Time until the pace lets the next go, seconds; 0: now."""
        return max(0.0, self._next_s - now_s)

    def sent(self, nbytes: int, now_s: float, under_way: int, *, idle: bool = False) -> Sent:
        """Something is sent.

        Args:
            nbytes: Its size.
            now_s: Monotonic time, seconds.
            under_way: What else was sent and is not answered, bytes.
            idle: There is nothing more to send: the link could do more than will be measured.
        """
        if not under_way:  # a pause is not a slow link
            self._delivered_s = now_s
            self._points.clear()
        if self.rate_bytes_s:
            # Who wakes up late makes up for it: what is not sent in time is not sent at all.
            from_s = max(now_s - _LATE_S, self._next_s) if under_way else now_s
            self._next_s = from_s + nbytes / (_MARGIN * self._gain() * self.rate_bytes_s)
        return Sent(nbytes, now_s, self._delivered, self._delivered_s, idle)

    def answered(self, sent: Sent | None, nbytes: int, now_s: float) -> None:
        """Answers came.

        Args:
            sent: The newest of what they cover; None where that was sent twice (Karn).
            nbytes: All that they cover, bytes.
            now_s: Monotonic time, seconds.
        """
        self._delivered += nbytes
        self._delivered_s = now_s
        if sent is None:
            return
        self._backoff = 1  # only now: until then the time-out may be what was wrong
        round_trip_s = max(now_s - sent.at_s, 1e-6)
        self._note_round_trip(round_trip_s, now_s)
        self._least_s = min(self._least_s, round_trip_s)
        new_round = sent.delivered >= self._round_ends
        if new_round:
            self._round, self._round_ends = self._round + 1, self._delivered
            self._round_s, self._least_s = self._least_s, math.inf
        self._note_rate(sent, now_s)
        self._move(round_trip_s, new_round and not sent.idle, now_s)

    def timed_out(self) -> None:
        """What was sent did not arrive."""
        if self._backoff > 1:  # not one loss but a cut: the link may come back another
            self._forget()
        else:  # half as fast, and up again as fast as the answers allow
            self._rates = deque([(self._round, 0.5 * self.rate_bytes_s)])
            self.rate_bytes_s *= 0.5
            self.phase, self._best_rate, self._flat = Phase.START, 0.0, 0
        if self.timeout_s < self._max_timeout_s:
            self._backoff *= 2

    @property
    def is_backing_off(self) -> bool:
        """Nothing has been answered for a while."""
        return self._backoff > 1

    def revive(self) -> None:
        """There is a sign of life: do not wait out the long time-out."""
        self._backoff = 1

    def _gain(self) -> float:
        if self.phase is Phase.START:
            return _START_GAIN
        if self.phase is Phase.DRAIN:
            return 1 / _START_GAIN
        if self.phase is not Phase.STEADY:
            return 1.0
        return _BOLD if self._wins > 1 else _CYCLE[self._cycle]

    def _within(self, nbytes: float) -> int:
        return int(min(max(nbytes, self._min_bytes), self._max_bytes))

    def _note_round_trip(self, round_trip_s: float, now_s: float) -> None:
        if not self.round_trip_s:
            self.round_trip_s, self._deviation_s = round_trip_s, round_trip_s / 2
        else:
            self._deviation_s += (abs(round_trip_s - self.round_trip_s) - self._deviation_s) / 4
            self.round_trip_s += (round_trip_s - self.round_trip_s) / 8
        if not self.base_s or round_trip_s <= self.base_s:
            self.base_s, self._base_until_s = round_trip_s, now_s + _BASE_LIFE_S

    def _note_rate(self, sent: Sent, now_s: float) -> None:
        """Delivery rate over a few round trips (BBR's rate sample, over a longer time).

        Not faster than it was sent: answers that were held up and come together say nothing.
        """
        self._points.append((now_s, self._delivered, sent.at_s))
        span_s = _SAMPLE_ROUND_TRIPS * self.base_s
        while len(self._points) > 2 and self._points[1][0] < now_s - span_s:
            self._points.popleft()
        then_s, before, sent_s = self._points[0]
        took_s = max(now_s - then_s, sent.at_s - sent_s)
        if len(self._points) < 2 or took_s < self.base_s:  # the first flight
            took_s, before = now_s - sent.delivered_s, sent.delivered
        rate = (self._delivered - before) / took_s
        if sent.idle and rate <= self.rate_bytes_s:
            return
        self._rates.append((self._round, rate))
        while self._rates[0][0] < self._round - _RATE_ROUNDS:
            self._rates.popleft()
        self.rate_bytes_s = max(rate for _, rate in self._rates)

    def _move(self, round_trip_s: float, new_round: bool, now_s: float) -> None:
        # Beyond what the answers of this store or host are usually late by.
        usual_s = 0.5 * self._quantum_s() + self._deviation_s
        queued = min(self._round_s, round_trip_s) > _QUEUED * self.base_s + usual_s
        if self.phase is Phase.STEADY:  # the shortest of a round is not late by chance
            least_s = min(self._round_s, round_trip_s)
            queued = least_s > _STANDING * self.base_s + 0.5 * self._quantum_s()
        if self.phase is Phase.START:
            if new_round:
                grown = self.rate_bytes_s >= _GROWTH * self._best_rate
                self._best_rate = max(self._best_rate, self.rate_bytes_s)
                self._flat = 0 if grown else self._flat + 1
            if self._flat >= _FLAT_ROUNDS or (queued and self._round > 3):
                self._enter(Phase.DRAIN, now_s)
        elif self.phase is Phase.DRAIN:
            if not queued or now_s - self._phase_since_s > 2 * self.base_s:
                self._enter(Phase.STEADY, now_s)
        elif self.phase is Phase.PROBE_BASE:
            self._found_s = min(self._found_s, round_trip_s)
            if now_s - self._phase_since_s > _BASE_PROBE_S + round_trip_s:
                self.base_s, self._base_until_s = self._found_s, now_s + _BASE_LIFE_S
                self._enter(Phase.STEADY, now_s)
        elif new_round and self._round_s > _SWAMPED * self.base_s + 2 * usual_s:
            self._rates = deque(item for item in self._rates if item[0] >= self._round - 1)
            self.rate_bytes_s = max((rate for _, rate in self._rates), default=self.rate_bytes_s)
            self._enter(Phase.DRAIN, now_s)
        elif now_s >= self._base_until_s:
            self._found_s = round_trip_s
            self._enter(Phase.PROBE_BASE, now_s)
        elif now_s - self._cycle_since_s > self._turn_s(round_trip_s):
            self._turn(queued, now_s)

    def _quantum_s(self) -> float:
        """What the smallest window takes on the link: less than that cannot be told from a queue."""
        return self._min_bytes / self.rate_bytes_s if self.rate_bytes_s else 0.0

    def _turn_s(self, round_trip_s: float) -> float:
        """Length of a phase of the cycle, seconds."""
        gain = _CYCLE[self._cycle]
        if gain == _PROBE:
            return 2 * self.base_s  # the effect is seen a round trip later
        emptied = round_trip_s < 1.05 * self.base_s
        return self.base_s if gain == _CRUISE or emptied else 2 * self.base_s

    def _turn(self, queued: bool, now_s: float) -> None:
        """Next phase of the cycle; probing is repeated while it pays, a queue is let run dry."""
        gain = _CYCLE[self._cycle]
        pays = self.rate_bytes_s > _PAYS * self._cycle_rate and not queued
        self._wins = self._wins + 1 if pays and gain == _PROBE else 0
        if queued and gain != _PROBE:
            self._cycle = _CYCLE.index(_DRAIN)
        elif not (gain == _PROBE and pays):
            self._cycle = (self._cycle + 1) % len(_CYCLE)
        self._cycle_since_s, self._cycle_rate = now_s, self.rate_bytes_s

    def _enter(self, phase: Phase, now_s: float) -> None:
        self.phase, self._phase_since_s, self._wins = phase, now_s, 0
        self._cycle, self._cycle_since_s, self._cycle_rate = 2, now_s, self.rate_bytes_s
