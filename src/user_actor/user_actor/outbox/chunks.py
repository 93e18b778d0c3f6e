"""From a stream of steps to chunks: small enough to travel, soon enough to be safe."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import pairwise
from typing import Any

from user_core.errors import StoreError
from user_core.types import (
    ActedBy,
    ChunkId,
    EpisodeKey,
    EpisodeResult,
    EpisodeSource,
    FinalObservation,
    Outcome,
    Step,
    TrajectoryChunk,
    TrajectorySchema,
)

_OVERRULED = (ActedBy.HUMAN, ActedBy.SCRIPT)


@dataclass(frozen=True)
class EpisodeProgress:
    """The sums over the rows of an episode so far; stored with every chunk of it.

    After a crash, the result of an episode that was not ended is made from it.

    Attributes:
        key: Which episode.
        source: Why it is recorded.
        rows: Rows so far, a final observation included.
        length: Steps so far.
        episode_return: Sum of the rewards so far.
        interventions: Steps on which a person or a script overruled the policy.
        takeovers: How often one of them took over: runs of such steps.
        overruled: Whether the last step was one of them.
        first_version: Policy version of the first step; 0 where a fallback acted.
        last_version: Policy version of the last step.
        start_ns: Stamp of the first observation, nanoseconds.
        last_ns: Stamp of the last one.
    """

    key: EpisodeKey
    source: EpisodeSource
    rows: int = 0
    length: int = 0
    episode_return: float = 0.0
    interventions: int = 0
    first_version: int = 0
    last_version: int = 0
    start_ns: int = 0
    last_ns: int = 0
    takeovers: int = 0
    overruled: bool = False

    def plus(self, rows: Sequence[Step | FinalObservation]) -> EpisodeProgress:
        """The progress after these rows."""
        steps = [row for row in rows if isinstance(row, Step)]
        if not rows:
            return self
        first = self.rows == 0
        began_with = steps[0].policy_version if first and steps else self.first_version
        fell_back = any(step.acted_by is ActedBy.FALLBACK for step in steps)
        overruled = [self.overruled, *(step.acted_by in _OVERRULED for step in steps)]
        return replace(
            self,
            rows=self.rows + len(rows),
            length=self.length + len(steps),
            episode_return=self.episode_return + sum(float(step.reward) for step in steps),
            interventions=self.interventions + sum(overruled[1:]),
            takeovers=self.takeovers
            + sum(now and not before for before, now in pairwise(overruled)),
            overruled=overruled[-1],
            first_version=0 if fell_back else began_with,
            last_version=steps[-1].policy_version if steps else self.last_version,
            start_ns=rows[0].stamp_ns if first else self.start_ns,
            last_ns=rows[-1].stamp_ns,
        )

    def result(self, outcome: Outcome, reason: str) -> EpisodeResult:
        """The result of an episode that ended at this point."""
        return EpisodeResult(
            key=self.key,
            source=self.source,
            outcome=outcome,
            length=self.length,
            episode_return=self.episode_return,
            interventions=self.interventions,
            first_version=self.first_version,
            last_version=self.last_version,
            start_ns=self.start_ns,
            end_ns=self.last_ns,
            reason=reason,
            takeovers=self.takeovers,
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> EpisodeProgress:
        """The inverse of :meth:`to_dict`."""
        return cls(
            **{
                **data,
                "key": EpisodeKey(**data["key"]),
                "source": EpisodeSource(data["source"]),
            }
        )


# --- Chunks ---


@dataclass(frozen=True)
class UnnumberedChunk:
    """A chunk that has no number yet.

    Attributes:
        progress: The episode up to and including these rows.
        rows: Consecutive rows of the episode.
        result: What came of the episode, on its last chunk.
    """

    progress: EpisodeProgress
    rows: tuple[Step | FinalObservation, ...] = field(repr=False)
    result: EpisodeResult | None = None

    @property
    def first_row(self) -> int:
        """Index of the first row within the episode."""
        return self.progress.rows - len(self.rows)


def number_chunk(
    unnumbered: UnnumberedChunk, identity: ChunkId, schema: TrajectorySchema, robot: str, task: str
) -> TrajectoryChunk:
    """Give a chunk its number, and put its rows into columns."""
    return TrajectoryChunk(
        id=identity,
        episode=unnumbered.progress.key,
        source=unnumbered.progress.source,
        first_row=unnumbered.first_row,
        columns=schema.rows(unnumbered.rows),
        schema_hash=schema.hash,
        result=unnumbered.result,
        robot=robot,
        task=task,
    )


# --- Collecting rows ---


class ChunkBuilder:
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

    def append(self, row: Step | FinalObservation) -> list[UnnumberedChunk]:
        """Take one row; return the chunk that it completes. Raises StoreError without episode."""
        self._require()
        if not self._rows:
            self._since_s = self._clock_s()
        self._rows.append(row)
        if isinstance(row, FinalObservation):
            return []
        return self._cut() if len(self._rows) >= self._max_rows else []

    def end(self, result: EpisodeResult) -> list[UnnumberedChunk]:
        """Close the episode; return its last chunk."""
        progress = self._require()
        if result.key != progress.key:
            raise StoreError("end of an episode", got=result.key, expected=progress.key)
        chunks = self._cut(result)
        self._progress = None
        return chunks

    def due(self) -> list[UnnumberedChunk]:
        """The chunk that has become old, if there is one."""
        return self.rest() if self.wait_s() == 0 else []

    def rest(self) -> list[UnnumberedChunk]:
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

    def _cut(self, result: EpisodeResult | None = None) -> list[UnnumberedChunk]:
        progress = self._require().plus(self._rows)
        chunk = UnnumberedChunk(progress, tuple(self._rows), result)
        self._progress, self._rows = progress, []
        return [chunk]

    def _require(self) -> EpisodeProgress:
        if self._progress is None:
            raise StoreError(
                "outbox", got="a step outside an episode", expected="begin_episode() first"
            )
        return self._progress
