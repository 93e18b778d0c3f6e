"""A node's log: what plain Python code says in it, and nothing too often."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Hashable, Mapping
from typing import Any


class Throttle:
    """Lets one text per key and period through, with the number of those it held back.

    Args:
        period_s: Shortest time between two texts of one key, seconds.
        clock_s: A clock that does not go back, seconds.
        keys: Most keys that are remembered; the oldest is forgotten first, so that hostile
            input cannot fill the memory.
    """

    def __init__(
        self,
        period_s: float = 5.0,
        clock_s: Callable[[], float] = time.monotonic,
        keys: int = 256,
    ) -> None:
        self._period_s, self._clock_s, self._keys = period_s, clock_s, keys
        self._last: dict[Hashable, tuple[float, int]] = {}
        self._lock = threading.Lock()

    def __call__(self, key: Hashable, text: str) -> str | None:
        """The text to be said now, or None if it is too soon."""
        now_s = self._clock_s()
        with self._lock:
            said_s, held_back = self._last.pop(key, (-float("inf"), 0))
            if now_s - said_s < self._period_s:
                self._last[key] = (said_s, held_back + 1)
                return None
            self._last[key] = (now_s, 0)
            if len(self._last) > self._keys:
                self._last.pop(next(iter(self._last)))
        return f"{text} ({held_back} more like this before)" if held_back else text


class NodeLogHandler(logging.Handler):
    """Hands records of Python's ``logging`` to a node's logger, with their level.

    Args:
        logger: The node's logger.
    """

    def __init__(self, logger: Any) -> None:
        super().__init__()
        self.setFormatter(logging.Formatter("%(message)s"))
        # rclpy ties a level to the place of the call, so each level has a place of its own.
        self._say: Mapping[int, Callable[[str], None]] = {
            logging.DEBUG: lambda text: logger.debug(text),
            logging.INFO: lambda text: logger.info(text),
            logging.WARNING: lambda text: logger.warning(text),
            logging.ERROR: lambda text: logger.error(text),
            logging.CRITICAL: lambda text: logger.fatal(text),
        }

    def emit(self, record: logging.LogRecord) -> None:
        """Log one record."""
        try:
            level = min(record.levelno // 10 * 10, logging.CRITICAL) or logging.DEBUG
            self._say[level](self.format(record))
        except Exception:
            self.handleError(record)


def bridge_logging(logger: Any, package: str) -> Callable[[], None]:
    """Send what a package logs to a node's logger; return what ends that."""
    handler, source = NodeLogHandler(logger), logging.getLogger(package)
    source.addHandler(handler)
    source.setLevel(logging.INFO)
    return lambda: source.removeHandler(handler)
