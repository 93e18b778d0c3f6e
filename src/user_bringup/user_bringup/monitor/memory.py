"""How much memory the processes of a run have, and how much of each GPU is in use: for the report of a run."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress

from user_fleet.processes import resident_memory
from user_fleet.resources.machine import gpus

_PERIOD_S = 5.0
_log = logging.getLogger(__name__)


class MemoryWatch:
    """Looks at memory now and then, in a thread: a driver may take its time to answer.

    Args:
        pids: Called for the processes that are there now, by their names.
        period_s: Time between two looks, seconds.

    Attributes:
        of_processes: Memory of each by its name without a robot's number, those of one kind together, bytes. What they
            read of files (code of libraries) is not counted.
        of_gpus: In use of each GPU of this host, by whatever program, bytes; empty without any.
    """

    def __init__(self, pids: Callable[[], Mapping[str, int]], period_s: float = _PERIOD_S) -> None:
        self._pids, self._period_s = pids, period_s
        self.of_processes: dict[str, int] = {}
        self.of_gpus: list[int] = []
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="memory", daemon=True)

    def __enter__(self) -> MemoryWatch:
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._over.set()

    def look(self) -> None:
        """Look once."""
        found: dict[str, int] = {}
        for name, pid in self._pids().items():
            with suppress(OSError, ValueError):  # it has just ended
                kind = name.rpartition(".")[2].rstrip("0123456789")
                found[kind] = found.get(kind, 0) + resident_memory(pid)
        self.of_processes = found
        amounts = [resource.amounts for resource in gpus("here")[0]]
        self.of_gpus = [
            int(one["memory_bytes"] - one["memory_free_bytes"])
            for one in amounts
            if "memory_free_bytes" in one
        ]

    def _watch(self) -> None:
        while not self._over.is_set():
            try:
                self.look()
            except Exception as error:  # of a driver: what it says next may be right again
                _log.debug("memory is not known now: %r", error)
            self._over.wait(self._period_s)
