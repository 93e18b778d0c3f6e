"""Resets that were asked for and wait for the control loop."""

from __future__ import annotations

import threading
from concurrent.futures import Future
from typing import NamedTuple

from user_core.errors import SuiteError
from user_core.types import Observation


class ResetRequest(NamedTuple):
    """One reset.

    Attributes:
        seed: Makes the start reproducible; None: any start.
        done: Gets the first observation, or the error.
    """

    seed: int | None
    done: Future[Observation]


class Resets:
    """A queue of resets. Safe to use from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: list[ResetRequest] = []

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def add(self, seed: int | None) -> Future[Observation]:
        """Ask for a reset."""
        request = ResetRequest(seed, Future())
        with self._lock:
            self._waiting.append(request)
        return request.done

    def next(self) -> ResetRequest | None:
        """Take the oldest, if there is one."""
        with self._lock:
            return self._waiting.pop(0) if self._waiting else None

    def refuse(self, error: SuiteError) -> None:
        """Answer all that wait with an error."""
        while request := self.next():
            request.done.set_exception(error)
