"""Stops a robot from a thread of its own, whatever the other threads are doing."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

_log = logging.getLogger(__name__)

#: Pause before a stop that raised is tried again, seconds.
_RETRY_S = 0.05


class Stopper:
    """Calls ``stop`` when asked to, and never makes the asker wait.

    A stop that raises is tried again until it succeeds. Requests that come while a stop is
    running lead to one more after it, so that a stop always begins after it was asked for.

    Args:
        stop: Stops the robot; may be called from any thread, may block.
        name: Of the thread.
    """

    def __init__(self, stop: Callable[[], None], name: str = "stopper") -> None:
        self._stop = stop
        self._changed = threading.Condition()
        self._asked = self._done = 0
        self._closed = True
        self._trouble, self._name = "", name
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin to do what was asked for."""
        self._closed = False
        self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
        self._thread.start()

    def request(self) -> None:
        """Have the robot stopped; returns at once."""
        with self._changed:
            self._asked += 1
            self._changed.notify_all()

    @property
    def pending(self) -> bool:
        """Whether a stop was asked for that is not done."""
        return self._done < self._asked

    @property
    def trouble(self) -> str:
        """Why the last stop failed; empty when it did not."""
        return self._trouble

    def wait(self, timeout_s: float) -> bool:
        """Wait until all stops that were asked for are done; tell whether they are."""
        with self._changed:
            return self._changed.wait_for(lambda: not self.pending, timeout_s)

    def close(self, timeout_s: float) -> None:
        """End the thread, when it is not stuck in a stop."""
        with self._changed:
            self._closed = True
            self._asked = self._done  # a stop that is still wanted is not for the next start
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join(timeout_s)

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self.pending or self._closed)
                if self._closed and not self.pending:
                    return
                asked = self._asked
            try:
                self._stop()
            except Exception as error:  # whatever the driver raises: try again
                self._report(f"{type(error).__name__}: {error}")
                with self._changed:
                    if self._closed:
                        return
                    self._changed.wait(_RETRY_S)
                continue
            with self._changed:
                self._done, self._trouble = min(asked, self._asked), ""
                self._changed.notify_all()

    def _report(self, trouble: str) -> None:
        if trouble != self._trouble:
            _log.error("stop failed, trying again: %s", trouble)
        self._trouble = trouble
