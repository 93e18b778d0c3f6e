"""Plays action chunks: each row at its time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from user_core.specs import Array
from user_core.types import ActionChunk

#: An action between an old and a new one, given the share of the new.
Between = Callable[[Array, Array, float], Array]


def _linear(old: Array, new: Array, share: float) -> Array:
    between: Array = (1 - share) * old + share * new
    return between


class Row(NamedTuple):
    """One row of a chunk that is due.

    Attributes:
        action: The command, (A,).
        chunk: The chunk that it came from.
        number: Its row in the chunk.
        due_ns: When it was due, on the monotonic clock.
    """

    action: Array
    chunk: ActionChunk
    number: int
    due_ns: int


@dataclass
class _Playing:
    """A chunk and how far it has been played."""

    chunk: ActionChunk
    start_ns: int
    actions_ta: Array
    next_index: int = 0

    def due_ns(self, index: int) -> int:
        return self.start_ns + index * self.chunk.period_ns

    @property
    def finished(self) -> bool:
        return self.next_index >= len(self.actions_ta)

    def index_at(self, now_ns: int) -> int:
        return (now_ns - self.start_ns) // self.chunk.period_ns

    def row(self, index: int) -> Row:
        return Row(self.actions_ta[index], self.chunk, index, self.due_ns(index))

    def give_way(self, start_ns: int) -> None:
        """Another chunk takes over then: what is due later than half a period before is its part.

        Both have a row for that moment, and clocks are not exact to the nanosecond: without this
        the robot might carry out the two, one right after the other.
        """
        period_ns = self.chunk.period_ns
        kept = (start_ns - period_ns // 2 - self.start_ns) // period_ns + 1
        self.actions_ta = self.actions_ta[: max(kept, self.next_index)]


class ChunkPlayer:
    """Gives each row when it is due, once, and skips rows whose time has passed.

    A newer chunk takes over from its start on; until then the one before plays on. When all
    rows have been played there is nothing more: the robot's watchdog stops it. Not safe to use
    from several threads.

    Args:
        blend_rows: Over how many first rows of a new chunk to fade over from what the one
            before had planned for the same times (0: not at all). Smooths the seam between
            chunks of a policy that plans several steps ahead (Zhao et al., "Learning
            fine-grained bimanual manipulation with low-cost hardware", 2023, ensemble over all
            chunks; here it is two).
        between: An action between an old and a new one, given the share of the new.

    Attributes:
        skipped: How many rows were skipped because their time had passed.
    """

    def __init__(self, blend_rows: int = 0, between: Between | None = None) -> None:
        self._blend_rows = blend_rows
        self._between = between or _linear
        self._current: _Playing | None = None
        self._next: _Playing | None = None
        self.skipped = 0

    def offer(self, chunk: ActionChunk, start_ns: int, now_ns: int) -> bool:
        """Take a chunk whose row 0 is due at ``start_ns`` of the monotonic clock.

        Returns False, and changes nothing, when all of its rows are too late already.
        """
        playing = _Playing(chunk, start_ns, chunk.actions_ta)
        if now_ns >= playing.due_ns(len(playing.actions_ta)):
            return False
        self._advance(now_ns)
        before = self._current
        if before is not None and self._blend_rows:
            playing.actions_ta = self._blended(before, playing)
        if start_ns <= now_ns or before is None or before.finished:
            self._current, self._next = playing, None
        else:
            before.give_way(start_ns)
            self._next = playing
        return True

    @property
    def due_ns(self) -> int | None:
        """When the next row is due; None when there is none."""
        times = [
            playing.due_ns(playing.next_index)
            for playing in (self._current, self._next)
            if playing is not None and not playing.finished
        ]
        return min(times, default=None)

    def take(self, now_ns: int) -> Row | None:
        """The row that is due now and was not given yet, or None.

        A single row that was due "now" is still good for one period after its own: a loop that
        was held up does not drop the newest command.
        """
        self._advance(now_ns)
        playing = self._current
        if playing is None or playing.finished or now_ns < playing.due_ns(playing.next_index):
            return None
        last = len(playing.actions_ta) - 1
        index = playing.index_at(now_ns)
        if index == last + 1 and playing.next_index <= last:
            index = last
        self.skipped += min(index, last + 1) - playing.next_index
        playing.next_index = min(index, last) + 1
        return playing.row(index) if index <= last else None

    def clear(self) -> None:
        """Forget all chunks: the robot was stopped."""
        self._current = self._next = None

    def _advance(self, now_ns: int) -> None:
        """Let the next chunk take over when its time has come."""
        if self._next is not None and now_ns >= self._next.start_ns:
            self._current, self._next = self._next, None

    def _blended(self, before: _Playing, after: _Playing) -> Array:
        """The rows of ``after``, the first ones faded over from ``before``."""
        rows = after.actions_ta
        if rows.dtype.kind != "f":
            return rows
        blended = np.array(rows)
        for i in range(min(self._blend_rows, len(rows))):
            old = before.index_at(after.due_ns(i) + before.chunk.period_ns // 4)
            if not 0 <= old < len(before.actions_ta):
                break
            share = (i + 1) / (self._blend_rows + 1)
            blended[i] = self._between(before.actions_ta[old], rows[i], share)
        return blended
