"""Where observations arrive: the newest one, and a way to wait for the next."""

from __future__ import annotations

import threading
from collections.abc import Callable

from user_core.runtime.clock import Clock
from user_core.types import Observation


class ObservationBox:
    """Holds the newest observation. One thread puts, another takes and waits.

    Args:
        clock: Lets the time pass while somebody waits.

    Attributes:
        arrived_ns: When the newest came, monotonic nanoseconds; 0 before the first.
    """

    def __init__(self, clock: Clock | None = None) -> None:
        self._clock = clock or Clock()
        self._changed = threading.Condition()
        self._newest: Observation | None = None
        self._interrupted = False
        self.arrived_ns = 0

    def put(self, observation: Observation) -> None:
        """A new observation has come."""
        with self._changed:
            self._newest = observation
            self.arrived_ns = self._clock.monotonic_ns()
            self._changed.notify_all()

    def forget(self) -> None:
        """What was seen so far is over: the robot was lost or is another."""
        with self._changed:
            self._newest = None

    def interrupt(self) -> None:
        """Wake who waits, and let nobody wait until :meth:`resume`: the loop is to end."""
        with self._changed:
            self._interrupted = True
            self._changed.notify_all()

    def resume(self) -> None:
        """Waiting is possible again."""
        with self._changed:
            self._interrupted = False

    @property
    def newest(self) -> Observation | None:
        """The newest observation; None before the first."""
        return self._newest

    def wait_until(self, deadline_ns: int) -> None:
        """Let time pass until then, monotonic nanoseconds, or until interrupted."""
        self.wait_for(lambda _: False, deadline_ns)

    def wait_once(self, deadline_ns: int) -> None:
        """Wait until something comes, at most until then; may return before."""
        with self._changed:
            left_s = (deadline_ns - self._clock.monotonic_ns()) * 1e-9
            if left_s > 0 and not self._interrupted:
                self._clock.wait(self._changed, left_s)

    def wait_for(
        self, wanted: Callable[[Observation], bool], deadline_ns: int
    ) -> Observation | None:
        """The first newest observation that is ``wanted``; None if none is by the deadline."""
        with self._changed:
            while True:
                newest = self._newest
                if newest is not None and wanted(newest):
                    return newest
                left_s = (deadline_ns - self._clock.monotonic_ns()) * 1e-9
                if left_s <= 0 or self._interrupted:
                    return None
                self._clock.wait(self._changed, left_s)
