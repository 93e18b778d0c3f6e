"""Which chunk to send next: a window of unacknowledged ones, resent until they are answered.

Pure: no clock, no thread, no I/O. The same logic drives the real outbox and the simulations
of bad links in its tests.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from user_actor.outbox.database import Entry
from user_core.link_window import LinkWindow, Sent

_AHEAD = 64


@dataclass
class _Sent:
    """A chunk that was sent and is not acknowledged."""

    entry: Entry
    sent: Sent
    times: int = 1


class Sender:
    """Sends pending chunks in order, as many as the window allows, until they are acknowledged.

    At a change of schema it waits until all before it is acknowledged: should the store refuse
    the older ones, those behind have never been out and can get other numbers.

    Args:
        upcoming: ``upcoming(after, limit)`` gives the pending chunks behind a number, in order.
        window: How much may be under way.
    """

    def __init__(self, upcoming: Callable[[int, int], list[Entry]], window: LinkWindow) -> None:
        self._upcoming, self.window = upcoming, window
        self.resent = self.delivered_bytes = 0
        self.restart()

    def restart(self) -> None:
        """Forget what was sent: at the start, and after the chunks got other numbers."""
        self._under_way: deque[_Sent] = deque()  # in the order of their sending
        self._lost: deque[_Sent] = deque()  # all behind those under way
        self._ahead: deque[Entry] = deque()  # not sent yet
        self._after = 0
        self._drained = False
        self._hold_until_s = 0.0
        self.bytes_under_way = 0

    def more(self) -> None:
        """New chunks have been committed."""
        self._drained = False

    @property
    def head(self) -> int:
        """Number of the oldest chunk that was sent and not acknowledged; 0 without one."""
        first = self._under_way or self._lost
        return first[0].entry.sequence if first else 0

    def take(self, now_s: float) -> Entry | None:
        """The chunk to send now, if any; it counts as sent."""
        self._expire(now_s)
        if now_s < self._hold_until_s:
            return None
        entry = self._lost[0].entry if self._lost else self._next()
        if entry is None:
            return None
        if self._under_way:  # else one may always go, however large
            if self.bytes_under_way + entry.nbytes > self.window.nbytes:
                return None
            if self.window.wait_s(now_s) > 0:
                return None
            if entry.schema_hash != self._under_way[0].entry.schema_hash:
                return None
        times = 1
        if self._lost:
            times = self._lost.popleft().times + 1
            self.resent += 1
        else:
            self._ahead.popleft()
        idle = not self._lost and self._next() is None
        sent = self.window.sent(entry.nbytes, now_s, self.bytes_under_way, idle=idle)
        self._under_way.append(_Sent(entry, sent, times))
        self.bytes_under_way += entry.nbytes
        return entry

    def wait_s(self, now_s: float) -> float | None:
        """Time until :meth:`take` should be asked again, seconds; None: once something comes."""
        if now_s < self._hold_until_s:
            return self._hold_until_s - now_s
        if not self._under_way:
            return None
        expires_s = self._under_way[0].sent.at_s + self.window.timeout_s - now_s
        pace_s = self.window.wait_s(now_s)
        return max(0.0, min(expires_s, pace_s) if pace_s > 0 else expires_s)

    def acknowledge(
        self, sequence: int, now_s: float, arrived_s: float = 0.0, held_s: float = 0.0
    ) -> bool:
        """All chunks up to ``sequence`` are durable; whether that is news of what was sent.

        Args:
            sequence: Number of the chunk.
            now_s: Monotonic time, seconds.
            arrived_s: When this chunk arrived, by the store's clock, seconds; 0: not known.
            held_s: How long the store had it before it answered, seconds.
        """
        newest, nbytes = None, 0
        while self._under_way and self._under_way[0].entry.sequence <= sequence:
            newest = self._under_way.popleft()
            self.bytes_under_way -= newest.entry.nbytes
            nbytes += newest.entry.nbytes
        while self._lost and self._lost[0].entry.sequence <= sequence:
            newest = self._lost.popleft()
        while self._ahead and self._ahead[0].sequence <= sequence:  # sent by an earlier process
            self._ahead.popleft()
        self._after = max(self._after, sequence)
        self.delivered_bytes += nbytes
        if newest is None:
            return False
        self._hold_until_s = 0.0
        sent = newest.sent if newest.times == 1 else None
        if sent is not None and arrived_s:
            lag_s = arrived_s - sent.at_s
            self.window.answered(
                sent, nbytes, now_s, held_s=held_s, arrived_s=arrived_s, lag_s=lag_s
            )
        else:
            self.window.answered(sent, nbytes, now_s, held_s=held_s)
        return True

    def again(self) -> None:
        """What is under way is to be sent again at once: its content has changed."""
        self._lost.extendleft(reversed(self._under_way))
        self._under_way.clear()
        self.bytes_under_way = 0

    def revive(self) -> None:
        """Somebody listens again: send at once what was not answered for a while."""
        if self.window.is_backing_off:
            self.window.revive()
            self.again()

    def hold(self, now_s: float) -> None:
        """The store cannot take more now: leave it alone for a while, then try again."""
        if now_s >= self._hold_until_s:
            self._give_up()
            self._hold_until_s = now_s + self.window.timeout_s

    def _expire(self, now_s: float) -> None:
        """Once the oldest was not answered in time, all that was sent counts as lost."""
        if self._under_way and now_s >= self._under_way[0].sent.at_s + self.window.timeout_s:
            self._give_up()

    def _give_up(self) -> None:
        self.window.timed_out()
        self.again()

    def _next(self) -> Entry | None:
        if not self._ahead and not self._drained:
            self._ahead.extend(self._upcoming(self._after, _AHEAD))
            self._drained = not self._ahead
            if self._ahead:
                self._after = self._ahead[-1].sequence
        return self._ahead[0] if self._ahead else None
