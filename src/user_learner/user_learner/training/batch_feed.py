"""Batches for the training thread, drawn ahead of their use."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from typing import Any

from user_core.errors import StoreError
from user_core.interfaces import TransitionSource
from user_core.runtime.prefetch import Prefetcher
from user_core.types import Batch


@dataclass(frozen=True)
class Drawn:
    """A batch, and the state of its source right after it was drawn (None without one)."""

    batch: Batch
    source_state: Any


class BatchFeed:
    """Draws batches in a thread of its own while the one before is being trained on.

    A source that has nothing to draw yet (StoreError) is asked again; :attr:`reason` says what it lacks. Whatever else
    it raises is raised by :meth:`take`. The source must give batches that stay as they are until ``depth`` + 2 more
    have been drawn: a GPU may fetch one while the next is drawn. Where metrics are read an update later, one more.

    Args:
        source: Where batches come from; used by one thread only.
        rows: Rows of a batch.
        depth: Batches on the way; 0 draws in :meth:`take`, without a thread.
        retry_s: Time between two attempts at a source that is empty.
    """

    def __init__(
        self, source: TransitionSource, rows: int, depth: int, retry_s: float = 0.05
    ) -> None:
        self.reason = ""
        self._source, self._rows, self._retry_s = source, rows, retry_s
        self._ahead = Prefetcher(lambda: None, self._draw, depth)
        self._closed = threading.Event()

    def take(self, timeout_s: float) -> Drawn | None:
        """The next batch, or None when there is none within ``timeout_s``."""
        end_s = time.monotonic() + timeout_s
        while (left_s := end_s - time.monotonic()) > 0:
            try:
                _, drawn = self._ahead.next(left_s)
            except StoreError as error:
                self.reason = str(error)
                self._closed.wait(min(self._retry_s, max(0.0, end_s - time.monotonic())))
            except TimeoutError:
                break
            else:
                self.reason = ""
                return drawn
        return None

    def close(self) -> None:
        """End the thread. Idempotent."""
        self._closed.set()
        self._ahead.close()

    def _draw(self, _: None) -> Drawn:
        batch = self._source.sample(self._rows)
        state = getattr(self._source, "state", None)
        return Drawn(batch, state() if callable(state) else None)
