"""What one sees of a training while it goes on: progress, and its numbers."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import IntEnum

from user_core.reasons import NO_REASON, Reason


class LearnerState(IntEnum):
    """What the loop is doing; the numbers are those of ``user_msgs/LearnerStatus``."""

    WAITING = 0
    """For data."""
    TRAINING = 1
    LIMITED = 2
    """By the ratio of updates to environment steps."""
    PAUSED = 3
    FINISHED = 4


@dataclass(frozen=True)
class Progress:
    """A snapshot; see ``user_msgs/LearnerStatus`` for the meaning of the numbers.

    Attributes:
        state: What the loop is doing.
        update: Gradient updates of the run, those before a restart included.
        environment_steps: Steps collected online.
        utd_ratio: Updates per environment step over the whole run.
        utd_target: The ratio aimed at; infinite without a limit.
        updates_per_s: Over the last seconds.
        data_wait_share: Share of the last seconds spent waiting for batches, 0 to 1.
        policy_version: Newest published version; 0 before the first.
        policy_period_s: Time between the last two versions, seconds.
        checkpoint_update: Update of the newest complete checkpoint; -1 without one.
        metrics: Means over the last period.
        reason: Why it is in this state; none while it trains.
        warnings: What a person should look at.
    """

    state: LearnerState
    update: int = 0
    environment_steps: int = 0
    utd_ratio: float = 0.0
    utd_target: float = 0.0
    updates_per_s: float = 0.0
    data_wait_share: float = 0.0
    policy_version: int = 0
    policy_period_s: float = 0.0
    checkpoint_update: int = -1
    metrics: Mapping[str, float] = field(default_factory=dict)
    reason: Reason = NO_REASON
    warnings: tuple[Reason, ...] = ()


class Means:
    """Means of named numbers until they are taken."""

    def __init__(self) -> None:
        self._sums: dict[str, float] = {}
        self._counts: dict[str, int] = {}

    def add(self, values: Mapping[str, float]) -> None:
        """Add one sample of each."""
        for name, value in values.items():
            self._sums[name] = self._sums.get(name, 0.0) + value
            self._counts[name] = self._counts.get(name, 0) + 1

    def take(self) -> dict[str, float]:
        """Means since the last call, and begin anew."""
        means = {name: total / self._counts[name] for name, total in self._sums.items()}
        self._sums.clear()
        self._counts.clear()
        return means


class Rate:
    """How fast a sum grows, over the last seconds; may be asked from any thread."""

    def __init__(self, window_s: float = 5.0, clock: Callable[[], float] = time.monotonic) -> None:
        self._window_s, self._clock = window_s, clock
        self._lock = threading.Lock()
        self._points: deque[tuple[float, float]] = deque([(clock(), 0.0)])

    def add(self, amount: float) -> None:
        """Let the sum grow."""
        with self._lock:
            now_s, total = self._clock(), self._points[-1][1] + amount
            if len(self._points) > 1 and now_s - self._points[-2][0] < self._window_s / 50:
                self._points.pop()  # bounded memory, however often it is called
            self._points.append((now_s, total))

    def per_s(self) -> float:
        """Growth per second."""
        with self._lock:
            now_s = self._clock()
            while len(self._points) > 1 and self._points[1][0] <= now_s - self._window_s:
                self._points.popleft()
            start_s, start = self._points[0]
            elapsed_s = min(now_s - start_s, self._window_s)
            return (self._points[-1][1] - start) / elapsed_s if elapsed_s > 0 else 0.0
