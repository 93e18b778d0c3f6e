"""Delivery to the store: which chunk is next, in which coding its images travel, and the thread
that sends it.

:class:`SendQueue` has no clock, thread or I/O of its own: the same logic drives the real outbox
and the simulations of bad links in its tests.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from user_actor.outbox.config import OutboxConfig
from user_actor.outbox.storage import Entry, OutboxDatabase
from user_core.codecs.images import LOSSLESS, is_image_column
from user_core.errors import StoreCorrupt, StoreError, SuiteError
from user_core.runtime.link_model import LinkWindow, Sent
from user_core.specs import Array
from user_core.types import TrajectoryChunk

_log = logging.getLogger(__name__)
_CALM_FOR_S = 30.0
_CALM_SHARE = 0.2
_LOOK_S = 1.0

_AHEAD = 64


@dataclass
class _SentChunk:
    """A chunk that was sent and is not acknowledged."""

    entry: Entry
    sent: Sent
    times: int = 1


class SendQueue:
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
        self._under_way: deque[_SentChunk] = deque()  # in the order of their sending
        self._lost: deque[_SentChunk] = deque()  # all behind those under way
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
        self._under_way.append(_SentChunk(entry, sent, times))
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


# --- The coding of images ---


class CodingChooser:
    """Steps from plain to lossless to lossy while the backlog grows old, and back when it is gone.

    Coding costs processor time that the robot may need, so it is not done where the link keeps
    up. Lossy images are taken only where the configuration names a lossy coding. What is on
    the disk stays as it was; a chunk is coded when it is sent.

    Args:
        config: Parameters.

    Attributes:
        coding: What images are sent in now; empty: plain.
        changes: How often that was changed.
    """

    def __init__(self, config: OutboxConfig) -> None:
        self._fixed = config.image_coding != "auto"
        self._after_s = config.coding_after_s
        self._steps = ["", LOSSLESS, *([config.lossy_coding] if config.lossy_coding else [])]
        self._step = 0
        if config.image_coding == "lossless":
            self._step = 1
        elif config.image_coding == "lossy":
            self._step = 2
        self._since_s: float | None = None
        self._calm_since_s: float | None = None
        self.changes = 0

    @property
    def coding(self) -> str:
        """What images are sent in now; empty: plain."""
        return self._steps[self._step]

    def update(self, oldest_age_s: float, now_s: float) -> None:
        """Look at the age of the oldest chunk that is not acknowledged."""
        if self._fixed:
            return
        if self._since_s is None:
            self._since_s = now_s
        calm = oldest_age_s < _CALM_SHARE * self._after_s
        if not calm:
            self._calm_since_s = None
        elif self._calm_since_s is None:
            self._calm_since_s = now_s
        waited_s = now_s - self._since_s
        if oldest_age_s > self._after_s < waited_s and self._step + 1 < len(self._steps):
            self._change(
                self._step + 1, now_s, f"the oldest chunk has waited for {oldest_age_s:.1f} s"
            )
        elif calm and self._step and now_s - (self._calm_since_s or now_s) >= _CALM_FOR_S:
            self._change(self._step - 1, now_s, f"delivery has kept up for {_CALM_FOR_S:.0f} s")

    def codings(self, columns: Mapping[str, Array]) -> dict[str, str]:
        """The coding of each column that is coded."""
        if not self.coding:
            return {}
        return {
            name: self.coding if self._possible(column) else LOSSLESS
            for name, column in columns.items()
            if is_image_column(column)
        }

    def _possible(self, column: Array) -> bool:
        return self.coding == LOSSLESS or column.ndim == 3 or column.shape[3] in (1, 3)

    def _change(self, step: int, now_s: float, why: str) -> None:
        before, self._step = self.coding, step
        self._since_s, self._calm_since_s = now_s, None
        self.changes += 1
        _log.info(
            "images are sent %s instead of %s: %s", self.coding or "plain", before or "plain", why
        )


# --- The delivery thread ---


class DeliveryThread:
    """Reads chunks from the file and hands them to ``send``, as the window allows.

    Args:
        database: Where the chunks are.
        queue: Says which is next.
        changed: Guards ``queue``; notified when it may have something to do.
        chooser: Chooses how images travel.
        damaged: Called with incarnation, number and reason for a chunk that cannot be read.

    Attributes:
        sent: Chunks that were handed over, repetitions included.
        trouble: Why the last attempt failed; empty if it did not.
    """

    def __init__(
        self,
        database: OutboxDatabase,
        queue: SendQueue,
        changed: threading.Condition,
        chooser: CodingChooser,
        damaged: Callable[[int, int, str], None],
    ) -> None:
        self._database, self._queue, self._changed = database, queue, changed
        self._damaged, self._chooser = damaged, chooser
        self._next_look_s = 0.0
        self._send: Callable[[TrajectoryChunk], None] | None = None
        self._ending = False
        self.sent = 0
        self.trouble = ""
        self._thread = threading.Thread(target=self._run, name="outbox-delivery", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def deliver_to(self, send: Callable[[TrajectoryChunk], None] | None) -> None:
        """Hand chunks to ``send`` from now on; None: keep them for now."""
        with self._changed:
            self._send = send
            self._changed.notify_all()

    def stop(self) -> None:
        """End the thread; a chunk that is being sent is sent."""
        with self._changed:
            self._ending = True
            self._changed.notify_all()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        while True:
            with self._changed:
                if self._ending:
                    return
                if self._send is None:
                    self._changed.wait()
                    continue
                send, now_s = self._send, time.monotonic()
                entry = self._queue.take(now_s)
                if entry is None:
                    self._changed.wait(self._queue.wait_s(now_s))
                    continue
            self._hand_over(entry, send)

    def _hand_over(self, entry: Entry, send: Callable[[TrajectoryChunk], None]) -> None:
        """Send one chunk. Whatever goes wrong, it stays pending and is sent again later."""
        try:
            self._look()
            chunk = self._database.read(entry.sequence)
            send(replace(chunk, codings=self._chooser.codings(chunk.columns)))
            self.sent += 1
            self.trouble = ""
        except StoreCorrupt as error:
            self._damaged(self._database.incarnation, entry.sequence, str(error))
        except StoreError:
            pass  # acknowledged meanwhile
        except Exception as error:  # of a publisher, in any form
            if not self.trouble:
                ours = isinstance(error, SuiteError)
                _log.warning("chunk %d waits: %s", entry.sequence, error, exc_info=not ours)
            self.trouble = f"{type(error).__name__}: {error}"

    def _look(self) -> None:
        """How old the backlog is, once a second."""
        now_s = time.monotonic()
        if now_s < self._next_look_s:
            return
        self._next_look_s = now_s + _LOOK_S
        oldest_ns = self._database.oldest_ns()
        self._chooser.update((time.time_ns() - oldest_ns) / 1e9 if oldest_ns else 0.0, now_s)
