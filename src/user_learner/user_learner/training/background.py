"""One job at a time in another thread, the newest request first."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")
_log = logging.getLogger(__name__)


class LatestWorker(Generic[T]):
    """Works on what was offered last; what is superseded before its turn is dropped.

    An exception of ``work`` is logged, kept in :attr:`error` until a later job succeeds, and
    never reaches who offered.

    Args:
        name: Of the thread.
        work: Called in the thread with what was offered.
    """

    def __init__(self, name: str, work: Callable[[T], None]) -> None:
        self.error: Exception | None = None
        self.dropped = 0
        self._name, self._work = name, work
        self._condition = threading.Condition()
        self._waiting: list[T] = []
        self._busy = self._closed = False
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    @property
    def busy(self) -> bool:
        """Whether a job is being worked on or waits."""
        with self._condition:
            return self._busy or bool(self._waiting)

    def offer(self, job: T) -> None:
        """Work on this next; returns at once."""
        with self._condition:
            self.dropped += len(self._waiting)
            self._waiting = [job]
            self._condition.notify_all()

    def flush(self, timeout_s: float | None = None) -> bool:
        """Wait until all is done; False when it takes longer than ``timeout_s``."""
        with self._condition:
            return self._condition.wait_for(lambda: not (self._busy or self._waiting), timeout_s)

    def close(self) -> None:
        """Finish what was offered, and end. Idempotent."""
        with self._condition:
            self._closed = True
            self._condition.notify_all()
        self._thread.join()

    def _run(self) -> None:
        while True:
            with self._condition:
                self._condition.wait_for(lambda: self._waiting or self._closed)
                if not self._waiting:
                    return
                job = self._waiting.pop()
                self._busy = True
            try:
                self._work(job)
                self.error = None
            except Exception as error:  # the thread must live on, whatever a sink does
                _log.exception("%s failed", self._name)
                self.error = error
            finally:
                with self._condition:
                    self._busy = False
                    self._condition.notify_all()
