"""A thread that does something at absolute deadlines."""

from __future__ import annotations

import atexit
import threading
import time
from collections.abc import Callable
from weakref import WeakSet

_running: WeakSet[PeriodicThread] = WeakSet()


@atexit.register
def _stop_all() -> None:
    """End the threads before the interpreter goes: one that steps physics while native libraries
    are being unloaded ends the process with a segmentation fault."""
    for thread in list(_running):
        thread.stop()


class PeriodicThread:
    """Calls a function at ``start + k * period`` until it is stopped or the function raises.

    Deadlines are absolute: lateness of one call does not move the next ones. After a delay
    of more than ``catch_up_s`` (a suspended computer, a debugger) the deadlines begin anew,
    instead of a burst of calls.

    Attributes:
        late: How often deadlines began anew.
        error: What the function raised; the thread has ended then.
    """

    def __init__(
        self, period_s: float, function: Callable[[], None], name: str, catch_up_s: float = 0.1
    ) -> None:
        self._period_s, self._function, self._catch_up_s = period_s, function, catch_up_s
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self.late = 0
        self.error: BaseException | None = None

    def start(self) -> None:
        """Begin; the first call comes at once."""
        _running.add(self)
        self._thread.start()

    def stop(self) -> None:
        """End after the call in progress, and wait for that. Idempotent."""
        self._stop.set()
        if self._thread.is_alive() and threading.current_thread() is not self._thread:
            self._thread.join()

    def _run(self) -> None:
        start_s, calls = time.monotonic(), 0
        try:
            while True:
                self._function()
                calls += 1
                wait_s = start_s + calls * self._period_s - time.monotonic()
                if wait_s < -self._catch_up_s:
                    start_s, calls = time.monotonic(), 0
                    self.late += 1
                if self._stop.wait(max(wait_s, 0.0)):
                    return
        except BaseException as error:  # handed on to whoever uses what this thread makes
            self.error = error
