"""When policies are made ready beside those that act: what answers take meanwhile is not what they take."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager


class Preparing:
    """Periods in which weights are loaded, and all that is done before a policy may act with them. Those of several
    learners that overlap are one period. For any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._begun = self._going_on = 0
        self._since_s = 0.0

    @contextmanager
    def __call__(self) -> Iterator[None]:
        """A policy is made ready in this; again within itself, too."""
        with self._lock:
            if not self._going_on:
                self._begun += 1
                self._since_s = time.monotonic()
            self._going_on += 1
        try:
            yield
        finally:
            with self._lock:
                self._going_on -= 1

    def over(self) -> int:
        """Number of the last period that is over; 0 before the first."""
        with self._lock:
            return self._begun - bool(self._going_on)

    def since(self, over: int) -> int:
        """Number of the newest period that there was since :meth:`over` was asked, also in part; 0: none."""
        with self._lock:
            return self._begun if self._begun > over else 0

    @property
    def for_s(self) -> float:
        """How long the period goes on already, seconds; 0 where nothing is prepared."""
        with self._lock:
            return time.monotonic() - self._since_s if self._going_on else 0.0
