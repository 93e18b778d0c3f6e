"""Batches drawn ahead of their use."""

from __future__ import annotations

import queue
import threading
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from user_core.errors import StoreError
from user_core.interfaces import TransitionSource
from user_core.types import Batch


@dataclass(frozen=True)
class Drawn:
    """A batch, and the state of its source right after it was drawn (None without one)."""

    batch: Batch
    source_state: Any


class Prefetcher:
    """Draws batches in a thread of its own while the one before is being trained on.

    A source that has nothing to draw yet (StoreError) is asked again; :attr:`reason` says what
    it lacks. Whatever else it raises is raised by :meth:`take`. The source must give batches
    that stay as they are until ``depth`` + 2 more have been drawn.

    Args:
        source: Where batches come from; used by one thread only.
        rows: Rows of a batch.
        depth: Batches held ready; 0 draws in :meth:`take`, without a thread.
        retry_s: Time between two attempts at a source that is empty.
    """

    def __init__(
        self, source: TransitionSource, rows: int, depth: int, retry_s: float = 0.05
    ) -> None:
        self.reason = ""
        self._source, self._rows, self._depth, self._retry_s = source, rows, depth, retry_s
        self._ready: queue.Queue[Drawn | Exception] = queue.Queue(maxsize=max(depth, 1))
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def take(self, timeout_s: float) -> Drawn | None:
        """The next batch, or None when there is none within ``timeout_s``."""
        if self._depth == 0:
            drawn_now = self._draw()
            if drawn_now is None:
                self._stop.wait(min(timeout_s, self._retry_s))
            return drawn_now
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="prefetch", daemon=True)
            self._thread.start()
        try:
            drawn = self._ready.get(timeout=timeout_s)
        except queue.Empty:
            return None
        if isinstance(drawn, Exception):
            raise drawn
        return drawn

    def close(self) -> None:
        """End the thread. Idempotent."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def _run(self) -> None:
        drawn: Drawn | Exception | None = None
        while not self._stop.is_set() and not isinstance(drawn, Exception):
            try:
                drawn = self._draw()
            except Exception as error:  # it belongs to who takes
                drawn = error
            if drawn is None:
                self._stop.wait(self._retry_s)
            else:
                self._put(drawn)

    def _put(self, drawn: Drawn | Exception) -> None:
        while not self._stop.is_set():
            with suppress(queue.Full):
                self._ready.put(drawn, timeout=0.05)
                break

    def _draw(self) -> Drawn | None:
        try:
            batch = self._source.sample(self._rows)
        except StoreError as error:
            self.reason = str(error)
            return None
        self.reason = ""
        state = getattr(self._source, "state", None)
        return Drawn(batch, state() if callable(state) else None)
