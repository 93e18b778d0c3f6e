"""One thread that handles what several queues hold, the most urgent first."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any

_log = logging.getLogger(__name__)


class RouteQueue:
    """A short queue of one route.

    Args:
        handle: Called in the dispatcher's thread with each item; must not raise.
        urgency: Queues with smaller numbers come first.
        depth: Items that may wait; the oldest gives way.
        period_s: Shortest time between two items, seconds; the newest wins. 0: no limit.

    Attributes:
        overrun: Items that gave way because the queue was full.
        thinned: Items that gave way to a newer one because of ``period_s``.
    """

    def __init__(
        self, handle: Callable[[Any], None], urgency: int, depth: int, period_s: float = 0.0
    ) -> None:
        self.handle, self.urgency, self.period_s = handle, urgency, period_s
        self.overrun = self.thinned = 0
        self.items: deque[Any] = deque(maxlen=1 if period_s else depth)
        self.due_s = 0.0

    def add(self, item: Any) -> None:
        """Add an item. Call it with the dispatcher's lock."""
        if len(self.items) == self.items.maxlen:
            if self.period_s:
                self.thinned += 1
            else:
                self.overrun += 1
        self.items.append(item)


class Dispatcher:
    """Handles the items of its queues in a thread of its own.

    Args:
        name: Of the thread.
        may_run: Items wait while this is false; see :meth:`wake`.
    """

    def __init__(self, name: str, may_run: Callable[[], bool] = lambda: True) -> None:
        self._may_run = may_run
        self._changed = threading.Condition()
        self._queues: list[RouteQueue] = []
        self._ending = False
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def queue(
        self, handle: Callable[[Any], None], urgency: int, depth: int, max_rate_hz: float = 0.0
    ) -> RouteQueue:
        """Add a queue."""
        queue = RouteQueue(handle, urgency, depth, 1.0 / max_rate_hz if max_rate_hz else 0.0)
        with self._changed:
            self._queues = sorted((*self._queues, queue), key=lambda one: one.urgency)
        return queue

    def offer(self, queue: RouteQueue, item: Any) -> None:
        """Queue an item. From any thread; returns at once."""
        with self._changed:
            queue.add(item)
            self._changed.notify()

    def wake(self) -> None:
        """``may_run`` may have changed."""
        with self._changed:
            self._changed.notify()

    def close(self, timeout_s: float = 2.0) -> None:
        """End the thread; what still waits is dropped. A handler that hangs is left behind."""
        with self._changed:
            self._ending = True
            self._changed.notify()
        self._thread.join(timeout_s)

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._ending:
                    queue, wait_s = self._next()
                    if queue is not None:
                        break
                    self._changed.wait(wait_s)
                if self._ending:
                    return
                assert queue is not None
                item = queue.items.popleft()
            try:
                queue.handle(item)
            except Exception:  # one message must not end all others
                _log.exception("bridge: a message could not be handled")

    def _next(self) -> tuple[RouteQueue | None, float | None]:
        """The most urgent queue with an item that is due; or how long to wait for one."""
        if not self._may_run():
            return None, None
        now_s = time.monotonic()
        due_s: float | None = None
        for queue in self._queues:
            if not queue.items:
                continue
            if queue.due_s <= now_s:
                if queue.period_s:
                    queue.due_s = now_s + queue.period_s
                return queue, None
            due_s = queue.due_s if due_s is None else min(due_s, queue.due_s)
        return None, None if due_s is None else due_s - now_s
