"""What the loop counts, for people."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass
from enum import Enum

from user_core.reasons import NO_REASON, Reason
from user_core.runtime.histogram import LatencyHistogram
from user_core.types import EpisodeResult, EpisodeSource, Outcome

_EPISODES = 20
_RATE_WINDOW_NS = 5_000_000_000


class LoopState(str, Enum):
    """What the loop is doing."""

    WAITING = "waiting"
    RESETTING = "resetting"
    RUNNING = "running"
    CLOSING = "closing"
    PAUSED = "paused"


@dataclass(frozen=True)
class LoopStatus:
    """The loop at one moment.

    Attributes:
        state: What it is doing.
        reason: Why.
        steps: Steps of this process.
        episodes: Episodes of this process that had a step.
        success_rate: Over the last 20 that were no evaluations and of which it is known; NaN before
            the first.
        last_return: Return of the last episode; NaN before the first.
        rate_hz: Steps a second over the last seconds.
        lateness_p99_ms: 99th percentile of the lateness of the deadlines, milliseconds.
        overhead_p50_ms: Median time of a step beyond policy inference, milliseconds.
        inference_p50_ms: Median time of policy inference, milliseconds.
        skipped: Deadlines that passed altogether.
        warnings: What a person should look at.
        rounds_given_up: Rounds of evaluations that were given up, for their episodes were aborted.
    """

    state: LoopState
    reason: Reason
    steps: int
    episodes: int
    success_rate: float
    last_return: float
    rate_hz: float
    lateness_p99_ms: float
    overhead_p50_ms: float
    inference_p50_ms: float
    skipped: int
    warnings: tuple[Reason, ...]
    rounds_given_up: int = 0


class LoopStats:
    """Counts. The loop's thread adds, any may read.

    Attributes:
        state: What the loop is doing.
        reason: Why.
        steps: Steps of this process.
        episodes: Episodes of this process that had a step.
        overhead: Time of a step beyond policy inference.
        inference: Time of policy inference.
    """

    def __init__(self) -> None:
        self.state, self.reason = LoopState.WAITING, NO_REASON
        self.steps = self.episodes = 0
        self.overhead, self.inference = LatencyHistogram(), LatencyHistogram()
        self._successes: deque[bool] = deque(maxlen=_EPISODES)
        self.last_return = math.nan
        self._times_ns: deque[int] = deque(maxlen=4096)

    def set(self, state: LoopState, reason: Reason | str) -> None:
        """It does something else now, and why; a mere text is for people only."""
        self.state = state
        self.reason = reason if isinstance(reason, Reason) else Reason("", reason)

    def step(self, now_ns: int) -> None:
        """A step is complete."""
        self.steps += 1
        self._times_ns.append(now_ns)

    def episode(self, result: EpisodeResult) -> None:
        """An episode is over."""
        self.episodes += 1
        self.last_return = result.episode_return
        success = result.outcome.success
        if result.outcome is Outcome.ABORTED:
            success = False  # while collecting, that is what came of it
        if result.source is not EpisodeSource.EVALUATION and success is not None:
            self._successes.append(success)

    @property
    def success_rate(self) -> float:
        """Share of successes among the last episodes; NaN before the first."""
        successes = list(self._successes)
        return sum(successes) / len(successes) if successes else math.nan

    def rate_hz(self, now_ns: int) -> float:
        """Steps a second over the last five seconds."""
        times_ns = [t for t in self._times_ns.copy() if t > now_ns - _RATE_WINDOW_NS]
        if len(times_ns) < 2:
            return 0.0
        return (len(times_ns) - 1) * 1e9 / max(1, now_ns - times_ns[0])
