"""A thread that watches over the control loop and can stop the robot without it."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

_log = logging.getLogger(__name__)


class Sentinel:
    """Calls ``look`` at short intervals until it is closed. What it raises is logged.

    Args:
        look: Looks at everything that may call for a stop; must not block.
        period_s: Time between two looks.
    """

    def __init__(self, look: Callable[[], None], period_s: float) -> None:
        self._look, self._period_s = look, period_s
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, name="sentinel", daemon=True)
        self._trouble = ""

    def start(self) -> None:
        """Begin to watch."""
        self._thread.start()

    def close(self) -> None:
        """End the thread."""
        self._end.set()
        if self._thread.is_alive() and self._thread is not threading.current_thread():
            self._thread.join(1.0)

    def _run(self) -> None:
        while not self._end.wait(self._period_s):
            try:
                self._look()
            except Exception as error:  # nothing may end the watch
                if repr(error) != self._trouble:
                    _log.exception("sentinel: a look failed; it goes on")
                self._trouble = repr(error)
