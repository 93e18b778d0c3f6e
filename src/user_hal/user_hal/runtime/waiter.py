"""How the control loop waits for its next deadline, or for news before that."""

from __future__ import annotations

import threading
import time
from typing import Protocol


class Waiter(Protocol):
    """Waits in the loop's thread. Commands may arrive while it waits, and end the wait."""

    def wait(self, until_ns: int) -> None:
        """Wait until this moment of the monotonic clock, or until there are news."""

    def wake(self) -> None:
        """There are news: end the wait, or the next one. From any thread."""

    def discard(self) -> None:
        """Throw away what has arrived and was not looked at: it is from before."""


class ConditionWaiter:
    """Waits on a condition; commands come by other ways."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._news = False

    def wait(self, until_ns: int) -> None:
        """Wait."""
        with self._changed:
            left_s = (until_ns - time.monotonic_ns()) * 1e-9
            if not self._news and left_s > 0:
                self._changed.wait(left_s)
            self._news = False

    def wake(self) -> None:
        """End the wait."""
        with self._changed:
            self._news = True
            self._changed.notify()

    def discard(self) -> None:
        """Nothing arrives here."""
