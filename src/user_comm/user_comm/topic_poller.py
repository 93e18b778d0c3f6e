"""Messages for drivers by looking for them often, past the executor.

rclpy's executor builds its wait set anew for every message, which costs more than the message:
half a millisecond of a core each (docs/benchmarks.md), a quarter of a core for joint states at
500 Hz. A driver wants the newest every few milliseconds anyway. So these subscriptions are kept
out of the executor's sight, and one thread takes what has come, some 250 times a second.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from typing import Any, Protocol

from rclpy.callback_groups import CallbackGroup


class PolledGroup(CallbackGroup):
    """A callback group that no executor ever finds ready."""

    def can_execute(self, entity: Any) -> bool:
        return False

    def beginning_execution(self, entity: Any) -> bool:
        return False

    def ending_execution(self, entity: Any) -> None:
        return


class Polled(Protocol):
    """Something that can be looked into."""

    def poll(self) -> None:
        """Handle what has come; never raises."""


class TopicPoller:
    """One thread that looks into subscriptions, as long as there are any.

    Args:
        period_s: Time between two looks, seconds: what a message waits at most.
        name: Of the thread.
    """

    def __init__(self, period_s: float = 0.004, name: str = "topics") -> None:
        self._period_s, self._name = period_s, name
        self._lock = threading.Lock()
        self._polled: Sequence[Polled] = ()
        self._thread: threading.Thread | None = None

    def add(self, polled: Polled) -> None:
        """Begin to look into it."""
        with self._lock:
            self._polled = (*self._polled, polled)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
                self._thread.start()

    def remove(self, polled: Polled) -> None:
        """Look into it no more; a look that has begun may still go on."""
        with self._lock:
            self._polled = tuple(other for other in self._polled if other is not polled)

    def _run(self) -> None:
        due_s = time.monotonic()
        while True:
            with self._lock:
                polled = self._polled
                if not polled:
                    self._thread = None
                    return
            for one in polled:
                one.poll()
            due_s = max(due_s + self._period_s, time.monotonic())
            time.sleep(max(0.0, due_s - time.monotonic()))
