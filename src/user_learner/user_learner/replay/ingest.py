"""What happens to a chunk before a commit: validated, put in order, written to open segments.

:class:`Stager` writes rows and enters them in the pending index; nothing counts before the
writer commits (:mod:`user_learner.replay.writer`).
"""

from __future__ import annotations

import json
import math
import os
from collections import deque
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

import numpy as np

from user_core.codecs.images import is_lossy
from user_core.errors import SchemaMismatch, SpecError, StoreError
from user_core.specs import Arrays
from user_core.types import (
    ActedBy,
    ChunkId,
    EpisodeKey,
    EpisodeResult,
    EpisodeSource,
    RewardSource,
    TrajectoryAck,
    TrajectoryChunk,
    TrajectorySchema,
)
from user_learner.replay.layout import (
    LogEntry,
    RowLayout,
    encode_entry,
    require_same_schema,
    schema_of,
)
from user_learner.replay.pending_index import CLOSED, OPEN, OVER, EpisodeState, PendingIndex
from user_learner.replay.segments import OpenSegment, OpenSegments


class ChunkStatus(str, Enum):
    """The status of a chunk that was appended."""

    STAGED = "staged"
    """Written; the next commit makes it durable and moves the acknowledged number on."""
    DUPLICATE = "duplicate"
    """It was here before. Nothing changed; acknowledge again."""
    EARLY = "early"
    """A chunk before it is missing. It must count as not delivered until acknowledged."""
    REFUSED = "refused"
    """It cannot be stored as it is; ``ack`` says why. It must not be sent again as it is."""


@dataclass(frozen=True)
class AppendResult:
    """The writer's answer to one chunk.

    Attributes:
        status: What became of it.
        ack: What to tell its producer: the number up to which all is durable, and for a
            refused chunk its number, code and reason.
        staged: What was written for it, in order: the chunk itself, as the store holds it, and those
            that had come early and waited for it, of which no other answer tells.
    """

    status: ChunkStatus
    ack: TrajectoryAck
    staged: tuple[TrajectoryChunk, ...] = ()


# --------------------------------------------------------------------------------------------------
# Validation of chunks
# --------------------------------------------------------------------------------------------------


MAX_INT = 2**63 - 1
MAX_TEXT = 256


def check_chunk(
    chunk: TrajectoryChunk,
    schema: TrajectorySchema,
    schema_hash: str,
    max_rows: int,
    max_bytes: int,
) -> int:
    """Raise unless a chunk can be stored as it is; return its number of rows.

    Raises:
        SchemaMismatch: Its columns are not those of the store; says how they differ.
        SpecError: An array does not fit its spec, or is not finite.
        StoreError: Identity, size or flags are impossible.
    """
    _check_identity(chunk)
    what = f"chunk {chunk.id.sequence} of {chunk.id.producer}"
    try:
        rows = schema.check(chunk.columns)
    except SpecError:
        require_same_schema(schema, schema_of(chunk.columns), what)
        raise
    if chunk.schema_hash != schema_hash:
        raise SchemaMismatch(
            f"schema hash of {what}",
            got=chunk.schema_hash,
            expected=f"{schema_hash}, which is that of its columns",
        )
    if rows > max_rows or chunk.nbytes > max_bytes:
        raise StoreError(
            f"size of chunk {chunk.id.sequence} of {chunk.id.producer}",
            got=f"{rows} rows, {chunk.nbytes} bytes",
            expected=f"at most {max_rows} rows and {max_bytes} bytes",
        )
    _check_values(chunk)
    _check_flags(chunk, rows)
    return rows


def _check_identity(chunk: TrajectoryChunk) -> None:
    numbers = {
        "sequence": (chunk.id.sequence, 1),
        "incarnation": (chunk.id.incarnation, 0),
        "episode incarnation": (chunk.episode.incarnation, 0),
        "episode number": (chunk.episode.number, 0),
        "first_row": (chunk.first_row, 0),
    }
    for name, (value, low) in numbers.items():
        if not low <= value <= MAX_INT:
            raise StoreError(f"{name} of a chunk", got=value, expected=f"{low} to {MAX_INT}")
    texts = {"producer": chunk.id.producer, "robot": chunk.robot, "task": chunk.task}
    for name, text in texts.items():
        if len(text) > MAX_TEXT or (name == "producer" and not text):
            raise StoreError(
                f"{name} of a chunk", got=repr(text[:40]), expected=f"1 to {MAX_TEXT} characters"
            )
    if chunk.episode.producer != chunk.id.producer:
        raise StoreError(
            f"episode of chunk {chunk.id.sequence} of {chunk.id.producer}",
            got=f"an episode of {chunk.episode.producer}",
            expected="one of the same producer",
        )
    if chunk.result is not None and not math.isfinite(chunk.result.episode_return):
        raise StoreError(
            f"return of episode {chunk.episode}",
            got=chunk.result.episode_return,
            expected="a finite number",
        )
    if chunk.result is not None and chunk.result.key != chunk.episode:
        raise StoreError(
            f"result in chunk {chunk.id.sequence} of {chunk.id.producer}",
            got=f"that of episode {chunk.result.key}",
            expected=f"that of episode {chunk.episode}",
        )


def _check_values(chunk: TrajectoryChunk) -> None:
    for name, array in chunk.columns.items():
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            row = int(np.argwhere(~np.isfinite(array))[0][0])
            raise SpecError(
                f"column {name!r} of chunk {chunk.id.sequence} of {chunk.id.producer}",
                got=f"a value that is not finite in row {row}",
                expected="finite numbers",
            )
    for name, kind in (("acted_by", ActedBy), ("reward_source", RewardSource)):
        column = chunk.columns[name]
        if len(column) and column.max() >= len(kind):
            raise StoreError(
                f"column {name!r} of chunk {chunk.id.sequence} of {chunk.id.producer}",
                got=int(column.max()),
                expected=f"one of {[f'{k.value} {k.name}' for k in kind]}",
            )


def _check_flags(chunk: TrajectoryChunk, rows: int) -> None:
    """After a step that ended the episode only its final observation may come."""
    final = chunk.columns["final"]
    over = chunk.columns["terminated"] | chunk.columns["truncated"]
    if final[:-1].any() or (over[:-1] & ~final[1:]).any() or (over & final).any():
        raise StoreError(
            f"flags of chunk {chunk.id.sequence} of {chunk.id.producer}",
            got="a row after the end of the episode, or a final observation that ends it again",
            expected="terminated or truncated on the last step, final on the observation after it",
        )


# --------------------------------------------------------------------------------------------------
# Staging: rows into the files of open segments
# --------------------------------------------------------------------------------------------------


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
    """Writes rows to the open segments of a store and enters them in its pending index; commits nothing."""

    def __init__(
        self, layout: RowLayout, open_segments: OpenSegments, pending: PendingIndex
    ) -> None:
        self.layout, self._open_segments, self._pending = layout, open_segments, pending

    def check(self, rows: Rows) -> None:
        """Raise StoreError unless the rows can follow what is known of their episode."""
        episode = self._pending.episode(rows.episode)
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
        """Write checked rows. Raises OSError, and leaves the pending index to be reset then."""
        episode = self._pending.episode(rows.episode)
        if episode is None:
            episode = self._pending.begin_episode(rows.episode, rows.source, rows.robot, rows.task)
        done, total = 0, len(rows)
        while True:
            segment = self._open_segments.segment_for(rows.episode, episode.source)
            room = self._pending.meta.segment_rows - segment.state.rows
            count = min(room, total - done)
            self._write_piece(segment, episode, rows, done, count)
            done += count
            if done == total:
                break
        if episode.ended == CLOSED:
            self._open_segments.release(rows.episode)
        if rows.chunk is not None:
            producer, incarnation = rows.chunk.producer, rows.chunk.incarnation
            left_out = rows.chunk.sequence - self._pending.sequence(producer, incarnation) - 1
            self._pending.advance(producer, incarnation, rows.chunk.sequence, left_out)

    def _write_piece(
        self, segment: OpenSegment, episode: EpisodeState, rows: Rows, done: int, count: int
    ) -> None:
        start, last = segment.state.rows, done + count == len(rows)
        checksums = {}
        if count:
            packed = self.layout.pack(rows.columns, done, done + count)
            checksums = segment.write(packed, self._pending.meta.block_rows)
            segment.state.sealed = segment.state.rows == self._pending.meta.segment_rows
            acted_by = rows.columns["acted_by"][done : done + count]
            steps = count - int(rows.columns["final"][done : done + count].sum())
            first_row = rows.first_row + done
            self._pending.place(episode, first_row, segment.state, start, acted_by, steps)
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
        self._pending.changed_segment(segment.state)
        self._pending.changed_episode(episode)


def _ended(rows: Rows, done: int, count: int) -> int:
    """Whether the last row of a piece ends the episode."""
    if count == 0:
        return OPEN
    at = done + count - 1
    if rows.columns["final"][at]:
        return CLOSED
    return OVER if rows.columns["terminated"][at] or rows.columns["truncated"][at] else OPEN


# --------------------------------------------------------------------------------------------------
# Chunks that came too early
# --------------------------------------------------------------------------------------------------


#: What an early chunk counts besides its arrays, so that empty ones are bounded too.
_OVERHEAD_BYTES = 1024


class ReorderBuffer:
    """Early chunks per (producer, incarnation), up to a number of bytes in all."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._held: dict[tuple[str, int], dict[int, TrajectoryChunk]] = {}
        self.nbytes = 0

    def hold(self, chunk: TrajectoryChunk) -> bool:
        """Keep an early chunk; False when it is not kept and must be sent again.

        Of one producer, those that come sooner in its order go before: they are of use first.
        """
        held = self._held.setdefault((chunk.id.producer, chunk.id.incarnation), {})
        if chunk.id.sequence in held:
            return True
        while self.nbytes + _cost(chunk) > self._max_bytes and held:
            last = max(held)
            if last < chunk.id.sequence:
                return False
            self.nbytes -= _cost(held.pop(last))
        if self.nbytes + _cost(chunk) > self._max_bytes:
            return False
        held[chunk.id.sequence] = chunk
        self.nbytes += _cost(chunk)
        return True

    def take(self, producer: str, incarnation: int, sequence: int) -> TrajectoryChunk | None:
        """The chunk of this number, if it waits here; drops what is older."""
        held = self._held.get((producer, incarnation))
        if not held:
            self._held.pop((producer, incarnation), None)
            return None
        for old in [number for number in held if number < sequence]:
            self.nbytes -= _cost(held.pop(old))
        chunk = held.pop(sequence, None)
        if chunk is not None:
            self.nbytes -= _cost(chunk)
        return chunk

    def clear(self) -> None:
        """Forget everything."""
        self._held.clear()
        self.nbytes = 0


def _cost(chunk: TrajectoryChunk) -> int:
    return chunk.nbytes + _OVERHEAD_BYTES


# --------------------------------------------------------------------------------------------------
# When chunks came, until they are acknowledged
# --------------------------------------------------------------------------------------------------


class ArrivalTimes:
    """When the newest durable chunk of each producer came. Pure."""

    def __init__(self) -> None:
        self._came: dict[tuple[str, int], deque[tuple[int, int]]] = {}  # number, time

    def note(self, producer: str, incarnation: int, sequence: int, now_ns: int) -> None:
        """A chunk came and was staged."""
        came = self._came.setdefault((producer, incarnation), deque())
        while came and came[-1][0] >= sequence:  # staged before, and forgotten after a failure
            came.pop()
        came.append((sequence, now_ns))

    def of(self, producer: str, incarnation: int, sequence: int) -> int:
        """When this chunk came; 0 where that is not known.

        Older ones are forgotten: numbers of acknowledgements do not go back.
        """
        came = self._came.get((producer, incarnation))
        while came and came[0][0] < sequence:
            came.popleft()
        return came[0][1] if came and came[0][0] == sequence else 0


# --------------------------------------------------------------------------------------------------
# Which rows hold images that were coded with loss (``codings.jsonl`` in the store)
# --------------------------------------------------------------------------------------------------


FILE = "codings.jsonl"


class CodingLog:
    """Writes a line, durably, before the first chunk that it is about. One thread.

    Args:
        store: Directory of the store.
    """

    def __init__(self, store: Path) -> None:
        self._path = store / FILE
        self._now: dict[tuple[str, str], str] = {}
        for entry in read_codings(store):
            self._now[entry["producer"], entry["column"]] = entry["coding"]

    def note(self, chunk: TrajectoryChunk) -> None:
        """Take down how a chunk's images came. Raises OSError when the disk does not take it."""
        lossy = {name: c for name, c in chunk.codings.items() if is_lossy(c)}
        producer = chunk.id.producer
        before = {name: c for (who, name), c in self._now.items() if who == producer and c}
        if lossy == before or not len(chunk):
            return
        lines = [
            {
                "producer": producer,
                "incarnation": chunk.id.incarnation,
                "sequence": chunk.id.sequence,
                "column": name,
                "coding": lossy.get(name, ""),
            }
            for name in sorted(lossy.keys() | before)
            if lossy.get(name, "") != before.get(name, "")
        ]
        with self._path.open("a", encoding="utf-8") as file:
            file.writelines(json.dumps(line) + "\n" for line in lines)
            file.flush()
            os.fsync(file.fileno())
        for line in lines:
            self._now[producer, str(line["column"])] = str(line["coding"])


def read_codings(store: Path) -> list[dict[str, str]]:
    """The lines of a store, oldest first; a last one that a crash cut off is left out."""
    path = store / FILE
    if not path.exists():
        return []
    entries = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            entry = json.loads(line)
            entries.append({**entry, "producer": entry["producer"], "coding": entry["coding"]})
        except (ValueError, KeyError, TypeError):
            continue
    return entries
