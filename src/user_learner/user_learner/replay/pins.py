"""Pins: what is being gathered from must not be unmapped or overwritten."""

from __future__ import annotations

import threading
from collections import Counter


class Pins:
    """Counts the gathers in flight by the time at which they were planned."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._now = 0
        self._held: Counter[int] = Counter()

    def pin(self) -> int:
        """A gather was planned; give the ticket to :meth:`unpin` when it is done."""
        with self._condition:
            self._held[self._now] += 1
            return self._now

    def unpin(self, ticket: int) -> None:
        """A gather is done, or was given up."""
        with self._condition:
            self._held[ticket] -= 1
            if not self._held[ticket]:
                del self._held[ticket]
                self._condition.notify_all()

    def stamp(self) -> int:
        """A time after which nothing new is planned with what is going away."""
        with self._condition:
            self._now += 1
            return self._now - 1

    def passed(self, stamp: int) -> bool:
        """Whether all gathers planned up to a stamp are done."""
        with self._condition:
            return not self._held or min(self._held) > stamp

    def wait(self, stamp: int, timeout_s: float | None = None) -> bool:
        """Wait until all gathers planned up to a stamp are done."""
        with self._condition:
            return self._condition.wait_for(
                lambda: not self._held or min(self._held) > stamp, timeout_s
            )
