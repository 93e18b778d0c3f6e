"""Chunks that came too early wait here, in memory, for those before them.

Nothing in here is acknowledged, so losing it loses nothing: the outbox sends it again. It
saves a slow link from carrying everything twice when one chunk got lost on the way.
"""

from __future__ import annotations

from user_core.types import TrajectoryChunk

#: What an early chunk counts besides its arrays, so that empty ones are bounded too.
_OVERHEAD_BYTES = 1024


class Reorder:
    """Early chunks per (producer, incarnation), up to a number of bytes in all."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._held: dict[tuple[str, int], dict[int, TrajectoryChunk]] = {}
        self.nbytes = 0

    def hold(self, chunk: TrajectoryChunk) -> bool:
        """Keep an early chunk; False when it is not kept and must be sent again.

        Of one producer, those that come sooner in its order go before: they are of use first.
        """
        held = self._held.setdefault((chunk.id.producer, chunk.id.incarnation), {})
        if chunk.id.sequence in held:
            return True
        while self.nbytes + _cost(chunk) > self._max_bytes and held:
            last = max(held)
            if last < chunk.id.sequence:
                return False
            self.nbytes -= _cost(held.pop(last))
        if self.nbytes + _cost(chunk) > self._max_bytes:
            return False
        held[chunk.id.sequence] = chunk
        self.nbytes += _cost(chunk)
        return True

    def take(self, producer: str, incarnation: int, sequence: int) -> TrajectoryChunk | None:
        """The chunk of this number, if it waits here; drops what is older."""
        held = self._held.get((producer, incarnation))
        if not held:
            self._held.pop((producer, incarnation), None)
            return None
        for old in [number for number in held if number < sequence]:
            self.nbytes -= _cost(held.pop(old))
        chunk = held.pop(sequence, None)
        if chunk is not None:
            self.nbytes -= _cost(chunk)
        return chunk

    def clear(self) -> None:
        """Forget everything."""
        self._held.clear()
        self.nbytes = 0


def _cost(chunk: TrajectoryChunk) -> int:
    return chunk.nbytes + _OVERHEAD_BYTES
