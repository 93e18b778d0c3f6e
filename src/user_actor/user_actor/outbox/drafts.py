"""Chunks that have no number yet."""

from __future__ import annotations

from dataclasses import dataclass, field

from user_actor.outbox.progress import EpisodeProgress
from user_core.types import (
    ChunkId,
    EpisodeResult,
    FinalObservation,
    Step,
    TrajectoryChunk,
    TrajectorySchema,
)


@dataclass(frozen=True)
class Draft:
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


def to_chunk(
    draft: Draft, identity: ChunkId, schema: TrajectorySchema, robot: str, task: str
) -> TrajectoryChunk:
    """Number a draft and put its rows into columns."""
    return TrajectoryChunk(
        id=identity,
        episode=draft.progress.key,
        source=draft.progress.source,
        first_row=draft.first_row,
        columns=schema.rows(draft.rows),
        schema_hash=schema.hash,
        result=draft.result,
        robot=robot,
        task=task,
    )
