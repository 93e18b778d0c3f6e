"""When chunks came, until they are acknowledged."""

from __future__ import annotations

from collections import deque


class Arrivals:
    """When the newest durable chunk of each producer came. Pure."""

    def __init__(self) -> None:
        self._came: dict[tuple[str, int], deque[tuple[int, int]]] = {}  # number, time

    def note(self, producer: str, incarnation: int, sequence: int, now_ns: int) -> None:
        """A chunk came and was staged."""
        came = self._came.setdefault((producer, incarnation), deque())
        while came and came[-1][0] >= sequence:  # staged before, and forgotten after a failure
            came.pop()
        came.append((sequence, now_ns))

    def of(self, producer: str, incarnation: int, sequence: int) -> int:
        """When this chunk came; 0 where that is not known.

        Older ones are forgotten: numbers of acknowledgements do not go back.
        """
        came = self._came.get((producer, incarnation))
        while came and came[0][0] < sequence:
            came.popleft()
        return came[0][1] if came and came[0][0] == sequence else 0
