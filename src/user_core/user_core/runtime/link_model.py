"""A model of a link, from acknowledgements: how much may be under way, and when to send next.

:class:`LinkGauge` measures a link (its round trip, its queue, how fast things arrive);
:class:`LinkWindow` decides by that what may be sent.

A model of the link instead of a reaction to loss, after BBR (Cardwell, Cheng, Gunn, Yeganeh,
Jacobson, "BBR: congestion-based congestion control", 2016): the *rate* is the fastest that went
through without a queue, the *round trip* the shortest of the last ten seconds; their product is
what the link holds. What is sent is paced at the rate, so that bursts of answers (a store that
commits every 50 ms) make no bursts on the link, and the window bounds the rest. So a bulk
transfer takes the link and leaves its queue short, and control traffic beside it stays fast.

What is a queue and what is not comes from the far end: its answers say when something arrived, by
its own clock, and for how long it was held back there (QUIC's ACK Delay, RFC 9000). So a queue of a
few milliseconds on the way there (LEDBAT's one-way delay, RFC 6817) is told from a store that syncs
its disk, and from what stands in the queue of the way back.

Where this differs from BBR: the start ends when the queue grows, as in Vegas (Brakmo, Peterson,
1995); probing for more is gentle, and judged by the queue that it makes; the rate is lowered only by
a queue that stays, for a moment in which nothing passes says nothing (TCP with BBR makes one every
ten seconds to see its own round trip).

Pure: no clock, no thread, no I/O. Bytes and monotonic seconds come from the caller.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass
from enum import Enum

#: Without a message that met no queue for this long, one is to be made.
_BASE_LIFE_S, _LIKE_BASE = 10.0, 0.03
#: Round trips that a rate is measured over, and for which it counts as recent.
_SAMPLE_ROUNDS, _RECENT_ROUNDS = 1.5, 3.0


@dataclass(frozen=True)
class Sent:
    """The state when something was sent; to be handed back with its acknowledgement."""

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


_UNKNOWN_S = 2.0
_START_GAIN = 2.0
#: How fast to send while probing whether the link can do more: so little that the queue of a link
#: that cannot stays short, and more boldly each time that it brought something.
_PROBE_GAINS = (1.05, 1.05, 1.15, 1.3)
_PAYS, _GREW, _NEAR = 1.02, 0.5, 1.25
#: Round trips between two probes; after each that brought nothing twice as many.
_FIRST_CRUISE_ROUNDS, _CRUISE_ROUNDS, _MOST_CRUISE_ROUNDS = 1, 4, 20
_PROBE_ROUNDS, _PROBE_LOOK_ROUNDS, _DRAIN_ROUNDS = 3, 2, 3
_DRAIN_GAIN, _START_DRAIN_GAIN = 0.85, 0.5
#: A queue that comes although nothing was probed: the rate was measured as a little too much.
_TOO_MUCH = 0.99
#: Room for what the far end holds back and for late answers; pacing keeps the queue short.
_WINDOW_GAIN, _MOST_JITTER_S, _GROUP_DECAY, _MOST_GROUP_S = 1.1, 0.1, 0.9, 0.25
#: Messages of about the size of the largest of late are compared with each other.
_ALIKE, _MESSAGE_DECAY = 0.8, 0.99
_BASE_PROBE_S, _SAME = 0.2, 1.3
_LATE_S = 0.01
#: The start ends when three rounds bring less than a quarter more, or the queue is this part of a
#: round trip long.
_GROWTH, _FLAT_ROUNDS = 1.25, 3
_QUEUED = 0.08
#: The same later on, where control traffic would wait behind it for ever.
_STANDING = 0.15
#: What was measured as the fastest is a little more than the link carries on the average.
_MARGIN = 0.99
#: A queue of this part of a round trip, for this many round trips: the link has become slower. What
#: TCP held up for a moment, and then lets go at once, is gone sooner.
_SWAMPED, _SWAMPED_ROUNDS = 0.5, 8


class Phase(Enum):
    """What the window is doing."""

    START = "start"
    DRAIN = "drain"
    CRUISE = "cruise"
    PROBE_RATE = "probe rate"
    PROBE_BASE = "probe round trip"


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
    """

    def __init__(
        self, min_bytes: int, max_bytes: int, min_timeout_s: float, max_timeout_s: float
    ) -> None:
        self._min_bytes, self._max_bytes = min_bytes, max_bytes
        self._min_timeout_s, self._max_timeout_s = min_timeout_s, max_timeout_s
        self._backoff = 1
        self._message_bytes = 0
        self._sent_bytes = 0
        self._group_bytes = 0.0  # that one answer covers, at most, of late
        self._gauge = LinkGauge()
        self._forget()

    def _forget(self) -> None:
        self.phase = Phase.START
        self.rate_bytes_s = self._phase_since_s = 0.0
        self._gauge.forget()
        self._round, self._round_ends = 0, 0
        self._round_queue_s = self._least_s = math.inf  # shortest queue of the last round, of this
        self._best_rate, self._flat, self._swamped_since_s = 0.0, 0, math.inf
        self._next_s = 0.0
        self._hard = False  # the queue that is being drained is long
        self._probe: Sent | None = None  # the first that was sent by this probe
        self._queue_s = self._queue_before_s = self._queue_after_s = 0.0
        self._ceiling = math.inf  # a rate that made a queue
        self._wins, self._cruise_rounds = 0, _FIRST_CRUISE_ROUNDS

    @property
    def base_s(self) -> float:
        """Shortest recent round trip, seconds; 0 before the first."""
        return self._gauge.base_s

    @property
    def round_trip_s(self) -> float:
        """Smoothed round trip, with what the far end holds back, seconds; 0 before the first."""
        return self._gauge.round_trip_s

    @property
    def nbytes(self) -> int:
        """Bytes that may be sent and not answered."""
        if self.phase is Phase.PROBE_BASE:
            return self._within(self.rate_bytes_s * (0.5 * self.base_s + self._gauge.held_s))
        if not self.rate_bytes_s:
            return self._min_bytes
        room_s = self._gauge.held_s
        if self.phase is Phase.START:
            return self._within(
                self.rate_bytes_s * (_START_GAIN * self.base_s + room_s) + self._message_bytes
            )
        # Answers that come late, or for many at once, must not stop the sending: pacing bounds
        # the queue.
        late_s = min(self._gauge.deviation_s, _MOST_JITTER_S)
        group_bytes = max(self._group_bytes, self._message_bytes, self.rate_bytes_s * late_s)
        return self._within(self.rate_bytes_s * (_WINDOW_GAIN * self.base_s + room_s) + group_bytes)

    @property
    def timeout_s(self) -> float:
        """Time after which what was sent counts as lost, seconds (RFC 6298, with some room)."""
        measured_s = _UNKNOWN_S
        if self.round_trip_s:
            measured_s = 1.5 * self.round_trip_s + 4 * self._gauge.deviation_s
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
        gauge = self._gauge
        if not under_way:
            gauge.pause(now_s)
        self._message_bytes = max(nbytes, int(_MESSAGE_DECAY * self._message_bytes))
        if self.rate_bytes_s:
            # Who wakes up late makes up for it: what is not sent in time is not sent at all.
            from_s = max(now_s - _LATE_S, self._next_s) if under_way else now_s
            self._next_s = from_s + nbytes / (self._gain() * self.rate_bytes_s)
        self._sent_bytes += nbytes
        sent = Sent(nbytes, now_s, gauge.delivered, gauge.delivered_s, idle, self._sent_bytes)
        if self.phase is Phase.PROBE_RATE and self._probe is None:
            self._probe = sent
        return sent

    def answered(
        self,
        sent: Sent | None,
        nbytes: int,
        now_s: float,
        *,
        held_s: float = 0.0,
        arrived_s: float | None = None,
        lag_s: float | None = None,
    ) -> None:
        """Answers came.

        Args:
            sent: The newest of what they cover; None where that was sent twice (Karn).
            nbytes: All that they cover, bytes.
            now_s: Monotonic time, seconds.
            held_s: For how long the far end had it before it answered, seconds.
            arrived_s: When it arrived where the bytes go, by the clock of that place; None: not
                known.
            lag_s: Its time on the way that the bytes go, seconds, by two clocks: only how it
                changes counts. None: not known, the round trip must do.
        """
        took_s = max(now_s - sent.at_s, 1e-6) if sent is not None else 0.0
        if not 0.0 <= held_s < took_s:  # of another time, or a lie
            held_s = 0.0
        gauge = self._gauge
        gauge.delivered += nbytes
        gauge.delivered_s = now_s - held_s
        if sent is None:
            return
        self._backoff = 1  # only now: until then the time-out may be what was wrong
        gauge.note_took(took_s, held_s)
        if sent.nbytes < _ALIKE * self._message_bytes:  # through sooner: not to be compared
            return
        round_trip_s = took_s - held_s
        queue_s = gauge.note_queue(round_trip_s, round_trip_s if lag_s is None else lag_s, now_s)
        self._least_s = min(self._least_s, queue_s)
        new_round = sent.delivered >= self._round_ends
        if new_round:
            self._round, self._round_ends = self._round + 1, gauge.delivered
            self._round_queue_s, self._least_s = self._least_s, math.inf
        self._group_bytes = max(
            min(nbytes, _MOST_GROUP_S * self.rate_bytes_s), _GROUP_DECAY * self._group_bytes
        )
        rate = gauge.note_rate(sent, gauge.delivered_s if arrived_s is None else arrived_s, now_s)
        # Later on what is sent without a queue is what is measured: it comes in no pieces.
        if self.phase is Phase.START or self._hard:
            self.rate_bytes_s = max(self.rate_bytes_s, rate)
        self._move(sent, queue_s, new_round and not sent.idle, now_s)

    def timed_out(self) -> None:
        """What was sent did not arrive."""
        if self._backoff > 1:  # not one loss but a cut: the link may come back another
            self._forget()
        elif self.phase is not Phase.START:  # a jam, or what a full queue dropped
            self._enter(Phase.DRAIN, self._phase_since_s)
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
            return _START_DRAIN_GAIN if self._hard else _DRAIN_GAIN
        if self.phase is Phase.PROBE_RATE:
            bold = self._wins if self._ceiling < _NEAR * self.rate_bytes_s else self._wins + 2
            return _PROBE_GAINS[min(bold, len(_PROBE_GAINS) - 1)]
        return _MARGIN

    def _within(self, nbytes: float) -> int:
        return int(min(max(nbytes, self._min_bytes), self._max_bytes))

    def _move(self, sent: Sent, queue_s: float, new_round: bool, now_s: float) -> None:
        """Next phase, where it is time."""
        twice_s, self._queue_s = min(self._queue_s, queue_s), queue_s  # one may be late by chance
        least_s = min(self._round_queue_s, queue_s)
        if queue_s <= _SWAMPED * self.base_s:
            self._swamped_since_s = math.inf
        elif self._swamped_since_s == math.inf:
            self._swamped_since_s = now_s
        if new_round:
            self._note_round()
        queued = least_s > _STANDING * self.base_s
        since_s = now_s - self._phase_since_s
        if self.phase is Phase.START:
            queued = twice_s > _QUEUED * self.base_s
            if self._flat >= _FLAT_ROUNDS or (queued and self._round > 3):
                self._ceiling = _START_GAIN * self.rate_bytes_s
                self._enter(Phase.DRAIN, now_s)
        elif self.phase is Phase.PROBE_BASE:
            if since_s > _BASE_PROBE_S + self.round_trip_s and self._gauge.take_base(now_s):
                self._enter(Phase.CRUISE, now_s)
        elif self._gauge.is_base_old(now_s):
            self._probe_base(now_s)
        elif now_s - self._swamped_since_s > _SWAMPED_ROUNDS * self.base_s:
            self._swamped_since_s = now_s
            if self.phase is Phase.DRAIN and self._is_still(queue_s):
                self._probe_base(now_s)
            else:
                # A moment in which nothing goes through is not that: before and after it all does.
                self.rate_bytes_s = min(self.rate_bytes_s, self._gauge.recent_rate_bytes_s)
                self._ceiling, self._cruise_rounds = self.rate_bytes_s, _CRUISE_ROUNDS
                self._enter(Phase.DRAIN, now_s)
                self._hard = True
        elif self.phase is Phase.DRAIN:
            if queue_s <= _STANDING * self.base_s:
                self._enter(Phase.CRUISE, now_s)
            elif since_s > _DRAIN_ROUNDS * self.base_s:
                if self._is_still(queue_s):
                    self._probe_base(now_s)
                else:
                    self._enter(Phase.CRUISE, now_s)
        elif self.phase is Phase.PROBE_RATE:
            self._judge_probe(sent, queue_s, twice_s > _STANDING * self.base_s, now_s)
        elif queued:
            self.rate_bytes_s *= _TOO_MUCH
            self._enter(Phase.DRAIN, now_s)
        elif since_s > self._cruise_rounds * self.base_s:
            self._enter(Phase.PROBE_RATE, now_s)

    def _is_still(self, queue_s: float) -> bool:
        """If sending less makes the queue neither shorter nor longer, it is no queue: the path changed."""
        return self._queue_before_s / _SAME < queue_s < self._queue_before_s * _SAME

    def _note_round(self) -> None:
        """A round has ended."""
        grown = self.rate_bytes_s >= _GROWTH * self._best_rate
        self._best_rate = max(self._best_rate, self.rate_bytes_s)
        self._flat = 0 if grown else self._flat + 1

    def _judge_probe(self, sent: Sent, queue_s: float, queued: bool, now_s: float) -> None:
        """What was sent faster, and met no longer queue at the end than at the beginning, is what
        the link can do: more exact than what arrives, which comes in pieces."""
        first, gain = self._probe, self._gain()
        if first is None or sent.at_s <= first.at_s:
            return  # of before
        since_s = sent.at_s - first.at_s
        if since_s > _PROBE_LOOK_ROUNDS * self.base_s:
            self._queue_after_s = min(self._queue_after_s, queue_s)
        if not queued and since_s < _PROBE_ROUNDS * self.base_s:
            return
        rate = (sent.total - first.total) / since_s
        full_s = (1 - 1 / gain) * _PROBE_LOOK_ROUNDS * self.base_s  # a full link's queue by now
        grew = self._queue_after_s - self._queue_before_s > _GREW * full_s
        if queued or grew or rate < _PAYS * self.rate_bytes_s:
            if queued:
                self._ceiling = gain * self.rate_bytes_s
            self._cruise_rounds = min(2 * self._cruise_rounds, _MOST_CRUISE_ROUNDS)
            self._enter(Phase.DRAIN if queued else Phase.CRUISE, now_s)
        else:
            self.rate_bytes_s = rate
            self._ceiling = self._ceiling if rate < self._ceiling else math.inf
            self._wins, self._cruise_rounds = self._wins + 1, _CRUISE_ROUNDS
            self._enter(Phase.PROBE_RATE, now_s)

    def _probe_base(self, now_s: float) -> None:
        self._gauge.look_for_base()
        self._enter(Phase.PROBE_BASE, now_s)

    def _enter(self, phase: Phase, now_s: float) -> None:
        self._hard = self.phase is Phase.START
        self.phase, self._phase_since_s = phase, now_s
        self._probe, self._queue_after_s = None, math.inf
        self._queue_before_s = min(self._round_queue_s, self._least_s, self._queue_s)
        if phase is not Phase.PROBE_RATE:
            self._wins = 0
