"""Counts of what a subscription took and refused."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable

from user_comm.diagnostics import Item, Level


class Refusals:
    """How many messages of one topic were taken, and how many refused, by error code.

    Args:
        name: Name of the topic.
        recent_s: For how long a refusal is shown as a warning, seconds.
        clock_s: A clock that does not go back, seconds.
    """

    def __init__(
        self,
        name: str,
        recent_s: float = 10.0,
        clock_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self.name = name
        self.accepted = 0
        self.refused: Counter[str] = Counter()
        self.last_error = ""
        self._recent_s, self._clock_s = recent_s, clock_s
        self._last_s = -float("inf")
        self._lock = threading.Lock()

    def accept(self) -> None:
        """Count a message that was taken."""
        self.accepted += 1

    def refuse(self, code: str, error: str) -> None:
        """Count a message that was refused."""
        with self._lock:
            self.refused[code] += 1
            self.last_error = error
            self._last_s = self._clock_s()

    def item(self) -> Item:
        """The counts as a diagnostic: a warning while there was a refusal lately."""
        with self._lock:
            recent = self._clock_s() - self._last_s < self._recent_s
            values = {f"refused_{code}": count for code, count in sorted(self.refused.items())}
            total = sum(self.refused.values())
            last = self.last_error
        message = f"{self.accepted} messages taken" + (f", {total} refused" if total else "")
        return Item(
            f"topic {self.name}",
            Level.WARN if recent else Level.OK,
            f"{message}; last: {last}" if recent else message,
            {
                "accepted": self.accepted,
                **values,
                **({"last_error": last} if last else {}),
            },
        )
