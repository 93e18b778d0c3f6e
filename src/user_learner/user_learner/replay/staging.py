"""Staging: a chunk goes to the files of its episode's segment, and into the ledger."""

from __future__ import annotations

from dataclasses import dataclass

from user_core.errors import StoreError
from user_core.specs import Arrays
from user_core.types import (
    ChunkId,
    EpisodeKey,
    EpisodeResult,
    EpisodeSource,
    TrajectoryChunk,
)
from user_learner.replay.chunklog import LogEntry, encode_entry
from user_learner.replay.lanes import Lanes
from user_learner.replay.layout import RowLayout
from user_learner.replay.ledger import Ledger
from user_learner.replay.segment import OpenSegment
from user_learner.replay.states import CLOSED, OPEN, OVER, EpisodeState


@dataclass(frozen=True)
class Rows:
    """Consecutive rows of one episode, to be stored: a chunk, or a piece of an import.

    Attributes:
        chunk: Identity for exactly-once delivery; None for what is imported from a file.
        episode: Which episode.
        source: Why the episode was recorded.
        first_row: Index of the first row within the episode.
        columns: The rows by column, checked.
        result: What came of the episode, with its last rows.
        robot: Name of the robot.
        task: Name of the task.
    """

    chunk: ChunkId | None
    episode: EpisodeKey
    source: EpisodeSource
    first_row: int
    columns: Arrays
    result: EpisodeResult | None = None
    robot: str = ""
    task: str = ""

    @classmethod
    def of(cls, chunk: TrajectoryChunk) -> Rows:
        """The rows of a chunk."""
        return cls(
            chunk.id, chunk.episode, chunk.source, chunk.first_row, chunk.columns, chunk.result,
            chunk.robot, chunk.task,
        )  # fmt: skip

    def __len__(self) -> int:
        return len(self.columns["reward"])


class Stager:
    """Writes rows to the lanes of a store and enters them in its ledger; commits nothing."""

    def __init__(self, layout: RowLayout, lanes: Lanes, ledger: Ledger) -> None:
        self.layout, self._lanes, self._ledger = layout, lanes, ledger

    def check(self, rows: Rows) -> None:
        """Raise StoreError unless the rows can follow what is known of their episode."""
        episode = self._ledger.episode(rows.episode)
        if episode is None:
            return
        if rows.source != episode.source:
            raise StoreError(
                f"source of episode {rows.episode}",
                got=rows.source.name,
                expected=f"{episode.source.name}, as its earlier rows have",
            )
        if len(rows) == 0:
            return
        if rows.first_row < episode.rows:
            raise StoreError(
                f"first row of a chunk of episode {rows.episode}",
                got=rows.first_row,
                expected=f"{episode.rows}: the rows before are stored already",
            )
        only_final = len(rows) == 1 and bool(rows.columns["final"][0])
        if episode.ended == CLOSED or (episode.ended == OVER and not only_final):
            raise StoreError(
                f"rows of episode {rows.episode} after its end",
                got=f"{len(rows)} rows from {rows.first_row}",
                expected="at most its final observation",
                hint="Give every episode a number of its own",
            )

    def write(self, rows: Rows) -> None:
        """Write checked rows. Raises OSError, and leaves the ledger to be reset then."""
        episode = self._ledger.episode(rows.episode)
        if episode is None:
            episode = self._ledger.begin_episode(rows.episode, rows.source, rows.robot, rows.task)
        done, total = 0, len(rows)
        while True:
            segment = self._lanes.segment_for(rows.episode, episode.source)
            room = self._ledger.meta.segment_rows - segment.state.rows
            count = min(room, total - done)
            self._write_piece(segment, episode, rows, done, count)
            done += count
            if done == total:
                break
        if episode.ended == CLOSED:
            self._lanes.release(rows.episode)
        if rows.chunk is not None:
            producer, incarnation = rows.chunk.producer, rows.chunk.incarnation
            left_out = rows.chunk.sequence - self._ledger.sequence(producer, incarnation) - 1
            self._ledger.advance(producer, incarnation, rows.chunk.sequence, left_out)

    def _write_piece(
        self, segment: OpenSegment, episode: EpisodeState, rows: Rows, done: int, count: int
    ) -> None:
        start, last = segment.state.rows, done + count == len(rows)
        checksums = {}
        if count:
            packed = self.layout.pack(rows.columns, done, done + count)
            checksums = segment.write(packed, self._ledger.meta.block_rows)
            segment.state.sealed = segment.state.rows == self._ledger.meta.segment_rows
            acted_by = rows.columns["acted_by"][done : done + count]
            steps = count - int(rows.columns["final"][done : done + count].sum())
            first_row = rows.first_row + done
            self._ledger.place(episode, first_row, segment.state, start, acted_by, steps)
        episode.ended = max(episode.ended, _ended(rows, done, count))
        if last and rows.result is not None:
            episode.ended, episode.result = CLOSED, rows.result
        segment.write_log(
            encode_entry(
                LogEntry(
                    chunk=rows.chunk,
                    offset=done,
                    total=len(rows),
                    episode=rows.episode,
                    robot=rows.robot,
                    task=rows.task,
                    first_row=rows.first_row + done,
                    start=start,
                    rows=count,
                    ended=episode.ended,
                    checksums=checksums,
                    result=rows.result if last else None,
                )
            )
        )
        self._ledger.changed_segment(segment.state)
        self._ledger.changed_episode(episode)


def _ended(rows: Rows, done: int, count: int) -> int:
    """Whether the last row of a piece ends the episode."""
    if count == 0:
        return OPEN
    at = done + count - 1
    if rows.columns["final"][at]:
        return CLOSED
    return OVER if rows.columns["terminated"][at] or rows.columns["truncated"][at] else OPEN
