"""Cuts the stream of steps into chunks: small enough to travel, soon enough to be safe."""

from __future__ import annotations

from collections.abc import Callable

from user_actor.outbox.drafts import Draft
from user_actor.outbox.progress import EpisodeProgress
from user_core.errors import StoreError
from user_core.types import EpisodeKey, EpisodeResult, FinalObservation, Step


class ChunkCutter:
    """Collects rows and cuts a chunk when it is full, old, or the end of its episode.

    The final observation waits for the episode's result, and goes out in one chunk with it:
    so an episode that has its final observation has its result, whatever happens between.

    Args:
        max_rows: Most rows of a chunk.
        max_age_s: Longest time that a chunk collects rows, seconds.
        clock_s: Monotonic time, seconds.
    """

    def __init__(self, max_rows: int, max_age_s: float, clock_s: Callable[[], float]) -> None:
        self._max_rows, self._max_age_s, self._clock_s = max_rows, max_age_s, clock_s
        self._progress: EpisodeProgress | None = None
        self._rows: list[Step | FinalObservation] = []
        self._since_s = 0.0

    def begin(self, progress: EpisodeProgress) -> None:
        """The rows that follow belong to this episode. Raises StoreError within another."""
        if self._progress is not None:
            raise StoreError(
                f"begin of episode {progress.key}",
                got=f"episode {self._progress.key} still open",
                expected="end_episode() first",
            )
        self._progress = progress

    def append(self, row: Step | FinalObservation) -> list[Draft]:
        """Take one row; return the chunk that it completes. Raises StoreError without episode."""
        self._require()
        if not self._rows:
            self._since_s = self._clock_s()
        self._rows.append(row)
        if isinstance(row, FinalObservation):
            return []
        return self._cut() if len(self._rows) >= self._max_rows else []

    def end(self, result: EpisodeResult) -> list[Draft]:
        """Close the episode; return its last chunk."""
        progress = self._require()
        if result.key != progress.key:
            raise StoreError("end of an episode", got=result.key, expected=progress.key)
        drafts = self._cut(result)
        self._progress = None
        return drafts

    def due(self) -> list[Draft]:
        """The chunk that has become old, if there is one."""
        return self.rest() if self.wait_s() == 0 else []

    def rest(self) -> list[Draft]:
        """What has been collected so far, however little; not a final observation."""
        if not self._rows or isinstance(self._rows[-1], FinalObservation):
            return []
        return self._cut()

    def wait_s(self) -> float | None:
        """Time until a chunk becomes old, seconds; None while there is none."""
        if not self._rows or isinstance(self._rows[-1], FinalObservation):
            return None
        return max(0.0, self._since_s + self._max_age_s - self._clock_s())

    @property
    def open_episode(self) -> EpisodeKey | None:
        """The episode that has begun and not ended."""
        return None if self._progress is None else self._progress.key

    def _cut(self, result: EpisodeResult | None = None) -> list[Draft]:
        progress = self._require().plus(self._rows)
        draft = Draft(progress, tuple(self._rows), result)
        self._progress, self._rows = progress, []
        return [draft]

    def _require(self) -> EpisodeProgress:
        if self._progress is None:
            raise StoreError(
                "outbox", got="a step outside an episode", expected="begin_episode() first"
            )
        return self._progress
