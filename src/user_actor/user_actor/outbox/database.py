"""The outbox on disk: chunks with their numbers, in one SQLite file.

Whatever belongs together changes in one transaction; with ``durability`` full, a transaction
is on the disk when it returns.
"""

from __future__ import annotations

import json
import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from user_actor.outbox import layout
from user_actor.outbox.progress import EpisodeProgress
from user_core.codecs import Limits, decode_chunk, encode_chunk
from user_core.errors import CodecError, StoreCorrupt, StoreError
from user_core.types import ChunkId, TrajectoryChunk, TrajectorySchema

_LIMITS = Limits(tensor_bytes=2**31, total_bytes=2**31)  # our own file; a row may be large
_WORTH_SHRINKING_PAGES = 8192
_PAGE_BYTES = 8192


@dataclass(frozen=True)
class Entry:
    """What the sender needs to know of a chunk."""

    sequence: int
    nbytes: int
    schema_hash: str


@dataclass(frozen=True)
class OpenEpisode:
    """An episode that has rows in the outbox and no result."""

    progress: EpisodeProgress
    schema_hash: str
    robot: str
    task: str


class OutboxDatabase:
    """Reads and writes the file. One thread writes; any thread may read.

    Args:
        path: The file; made when it is not there.
        producer: Name of the actor that it belongs to.
        durability: ``full`` or ``normal``, see :class:`~user_actor.outbox.config.OutboxConfig`.
        clock_ns: Time since the epoch, nanoseconds.

    Attributes:
        incarnation: Identity of this outbox, part of every chunk's.
        next_sequence: The number that the next chunk gets.
        store: Identity of the store that it delivers to; None before the first answer.
        process: Identity of the running process, part of every episode's key.
        steps: Steps ever committed.
        pending: Chunks that are not acknowledged; ``pending_bytes`` their size.
        aside: Chunks that were set aside; ``aside_bytes`` their size.

    Raises:
        StoreCorrupt: The file is damaged, or no outbox.
        StoreError: It belongs to another producer, or to another version of this package.
        sqlite3.OperationalError: The disk does not allow it now.
    """

    incarnation: int
    next_sequence: int
    store: str | None
    process: int
    steps: int
    pending: int
    pending_bytes: int
    aside: int
    aside_bytes: int

    def __init__(
        self,
        path: Path,
        producer: str,
        durability: str = "full",
        clock_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        self.path, self.producer, self.clock_ns = path, producer, clock_ns
        self._reading = threading.Lock()
        self._writing = threading.Lock()
        self._schemas: set[str] = set()
        try:
            self.connection = layout.connect(path, durability)
            with self.transaction():
                layout.create(self.connection, producer, clock_ns())
            layout.check(self.connection, path, producer)
            self._reader = layout.connect(path, durability)
            self.reload()
        except sqlite3.OperationalError:
            raise
        except (sqlite3.DatabaseError, TypeError) as error:
            raise StoreCorrupt(f"outbox {path}", got=str(error), expected="a sound file") from error

    def close(self) -> None:
        """Close the file."""
        with self._reading:
            self._reader.close()
        with self._writing:
            self.connection.close()

    # -- reading, from any thread

    def upcoming(self, after: int, limit: int) -> list[Entry]:
        """The next chunks behind sequence number ``after``."""
        rows = self._read(
            "SELECT sequence, nbytes, schema_hash FROM chunk WHERE sequence > ? "
            "ORDER BY sequence LIMIT ?",
            (after, limit),
        )
        return [Entry(*row) for row in rows]

    def read(self, sequence: int) -> TrajectoryChunk:
        """Read a chunk. Raises StoreCorrupt for damaged bytes, StoreError if it is not there."""
        rows = self._read(  # number and incarnation from one moment: they may be changing
            "SELECT data, (SELECT value FROM meta WHERE key = 'incarnation') "
            "FROM chunk JOIN body USING (number) WHERE sequence = ?",
            (sequence,),
        )
        if not rows:
            raise StoreError(f"chunk {sequence}", got="nothing", expected="one that is pending")
        data, incarnation = rows[0]
        try:
            chunk = decode_chunk(data, _LIMITS)
        except CodecError as error:
            raise StoreCorrupt(f"chunk {sequence} in {self.path}", got=str(error)) from error
        return replace(chunk, id=ChunkId(self.producer, int(incarnation), sequence))

    def oldest_ns(self) -> int:
        """When the oldest pending chunk was committed, nanoseconds; 0 without one."""
        rows = self._read(
            "SELECT created_ns FROM chunk WHERE sequence NOT NULL ORDER BY sequence LIMIT 1"
        )
        return int(rows[0][0]) if rows else 0

    def set_aside(self) -> list[tuple[TrajectoryChunk, str, str]]:
        """The chunks that were set aside, with code and reason; of damaged ones the shells."""
        rows = self._read(
            "SELECT CASE code WHEN ? THEN shell ELSE data END, code, reason "
            "FROM chunk JOIN body USING (number) WHERE sequence IS NULL ORDER BY number",
            (StoreCorrupt.code,),
        )
        return [(decode_chunk(data, _LIMITS), code, reason) for data, code, reason in rows]

    def next_id(self, ahead: int = 0) -> ChunkId:
        """The identity of the next chunk, or of one that many places behind it."""
        return ChunkId(self.producer, self.incarnation, self.next_sequence + ahead)

    # -- writing, from one thread

    def transaction(self) -> layout.Transaction:
        """All that is written within it becomes durable together, or not at all."""
        return layout.Transaction(self.connection, self._writing)

    def start_process(self) -> None:
        """Register the start of a process: give it an identity larger than all before."""
        process = max(self.clock_ns(), self.process + 1)
        with self.transaction():
            self.put("process", process)
        self.process = process

    def open_episode(self) -> OpenEpisode | None:
        """The episode that an earlier process left open."""
        row = self.connection.execute(
            "SELECT progress, schema_hash, robot, task FROM episode"
        ).fetchone()
        if row is None:
            return None
        return OpenEpisode(EpisodeProgress.from_dict(json.loads(row[0])), *row[1:])

    def schema(self, schema_hash: str) -> TrajectorySchema:
        """A schema that chunks of this outbox have or had. Raises StoreCorrupt without it."""
        row = self.connection.execute(
            "SELECT columns FROM schema WHERE hash = ?", (schema_hash,)
        ).fetchone()
        if row is None:
            raise StoreCorrupt(f"schema {schema_hash} in {self.path}", got="nothing")
        return TrajectorySchema.from_dict(json.loads(row[0]))

    def commit(
        self,
        chunks: Sequence[TrajectoryChunk] = (),
        progress: EpisodeProgress | None = None,
        acknowledged: int = 0,
        store: str | None = None,
        schemas: Sequence[TrajectorySchema] = (),
    ) -> list[Entry]:
        """Make new chunks durable, and forget what the store has; all or nothing.

        Args:
            chunks: New chunks, numbered from :meth:`next_id` on.
            progress: The episode of the last chunk, up to and including it.
            acknowledged: All chunks up to this number are durable in the store.
            store: Identity of the store, when it is heard of for the first time.
            schemas: Those of the new chunks; kept, so that a later process can close an episode.
        """
        entries: list[Entry] = []
        gone, gone_bytes, steps = 0, 0, self.steps + sum(_steps(chunk) for chunk in chunks)
        new = {s.hash: s for s in schemas if s.hash not in self._schemas}
        with self.transaction():
            self.connection.executemany(
                "INSERT OR IGNORE INTO schema VALUES (?, ?)",
                [(key, json.dumps(schema.to_dict())) for key, schema in new.items()],
            )
            for chunk in chunks:
                entries.append(self._insert(chunk))
            if chunks:
                self.put("next_sequence", chunks[-1].id.sequence + 1)
                self.put("steps", steps)
                self._note_episode(chunks[-1], progress)
            if acknowledged:
                gone, gone_bytes = self._delete(acknowledged)
            if store is not None:
                self.put("store", store)
        self._schemas |= new.keys()
        if entries:
            self.next_sequence, self.steps = entries[-1].sequence + 1, steps
        self.store = self.store if store is None else store
        self.pending += len(entries) - gone
        self.pending_bytes += sum(entry.nbytes for entry in entries) - gone_bytes
        return entries

    def shrink(self) -> None:
        """Give space back to the disk once much of the file is free."""
        (free,) = self.connection.execute("PRAGMA freelist_count").fetchone()
        if free > max(_WORTH_SHRINKING_PAGES, self.pending_bytes // _PAGE_BYTES):
            self.connection.execute(f"PRAGMA incremental_vacuum({free // 2})").fetchall()

    def give_back(self, nbytes: int) -> None:
        """On a full disk: give that much of what is free in the file back, as far as it is there."""
        self.connection.execute(f"PRAGMA incremental_vacuum({nbytes // _PAGE_BYTES})").fetchall()
        self.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()

    def put(self, key: str, value: int | str | None) -> None:
        """Write one value of the identity, within a transaction."""
        self.connection.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (key, value))

    def reload(self) -> None:
        """Read the attributes anew: at the start, and after chunks were renumbered."""
        meta = dict(self.connection.execute("SELECT key, value FROM meta").fetchall())
        self.incarnation, self.next_sequence = int(meta["incarnation"]), int(meta["next_sequence"])
        self.process, self.steps = int(meta["process"]), int(meta["steps"])
        self.store = meta["store"]
        count = "SELECT count(*), coalesce(sum(nbytes), 0) FROM chunk WHERE sequence"
        self.pending, self.pending_bytes = self.connection.execute(f"{count} NOT NULL").fetchone()
        self.aside, self.aside_bytes = self.connection.execute(f"{count} IS NULL").fetchone()

    # -- within

    def _read(self, query: str, arguments: tuple[object, ...] = ()) -> list[tuple[Any, ...]]:
        with self._reading:
            return self._reader.execute(query, arguments).fetchall()

    def _insert(self, chunk: TrajectoryChunk) -> Entry:
        empty = {name: column[:0] for name, column in chunk.columns.items()}
        body = encode_chunk(chunk)
        number = self.connection.execute(
            "INSERT INTO chunk (sequence, schema_hash, nbytes, created_ns) VALUES (?, ?, ?, ?)",
            (chunk.id.sequence, chunk.schema_hash, len(body), self.clock_ns()),
        ).lastrowid
        self.connection.execute(
            "INSERT INTO body VALUES (?, ?, ?)",
            (number, encode_chunk(replace(chunk, columns=empty)), body),
        )
        return Entry(chunk.id.sequence, len(body), chunk.schema_hash)

    def _note_episode(self, last: TrajectoryChunk, progress: EpisodeProgress | None) -> None:
        if last.result is not None or progress is None:
            self.connection.execute("DELETE FROM episode")
            return
        self.connection.execute(
            "INSERT OR REPLACE INTO episode VALUES (1, ?, ?, ?, ?)",
            (json.dumps(progress.to_dict()), last.schema_hash, last.robot, last.task),
        )

    def _delete(self, acknowledged: int) -> tuple[int, int]:
        which = "WHERE sequence <= ?"
        count, nbytes = self.connection.execute(
            f"SELECT count(*), coalesce(sum(nbytes), 0) FROM chunk {which}", (acknowledged,)
        ).fetchone()
        self.connection.execute(
            f"DELETE FROM body WHERE number IN (SELECT number FROM chunk {which})", (acknowledged,)
        )
        self.connection.execute(f"DELETE FROM chunk {which}", (acknowledged,))
        return count, nbytes


def _steps(chunk: TrajectoryChunk) -> int:
    return len(chunk) - int(chunk.columns["final"].sum())
