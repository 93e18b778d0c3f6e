"""The outbox on disk: numbered chunks in one SQLite file.

Whatever belongs together changes in one transaction; with ``durability`` full, a transaction is
on the disk when it returns. :class:`OutboxDatabase` reads and writes the file; below it are the
layout of the file, a reserve of disk space for deleting on a full disk, and what a new process
does with the outbox of an earlier one.
"""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from user_actor.outbox.chunks import EpisodeProgress, UnnumberedChunk, number_chunk
from user_core.codecs import Limits, decode_chunk, encode_chunk
from user_core.errors import CodecError, StoreCorrupt, StoreError
from user_core.types import ChunkId, EpisodeResult, Outcome, TrajectoryChunk, TrajectorySchema

LAYOUT_VERSION = 1
#: ``chunk`` has one small row per chunk, its ``sequence`` NULL while it is set aside; the bytes
#: are apart in ``body``, so that renumbering is cheap. ``shell`` is the chunk without its rows,
#: which can stand in for it when ``data`` turns out to be damaged. ``episode`` is the open one.
_TABLES = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value) WITHOUT ROWID;
CREATE TABLE chunk (
    number INTEGER PRIMARY KEY, sequence INTEGER UNIQUE, schema_hash TEXT NOT NULL,
    nbytes INTEGER NOT NULL, created_ns INTEGER NOT NULL,
    code TEXT NOT NULL DEFAULT '', reason TEXT NOT NULL DEFAULT '');
CREATE TABLE body (number INTEGER PRIMARY KEY, shell BLOB NOT NULL, data BLOB NOT NULL);
CREATE TABLE schema (hash TEXT PRIMARY KEY, columns TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE episode (
    one INTEGER PRIMARY KEY CHECK (one = 1), progress TEXT NOT NULL, schema_hash TEXT NOT NULL,
    robot TEXT NOT NULL, task TEXT NOT NULL);
"""
RESERVE_BYTES = 4 * 2**20
FILE = "outbox.sqlite"
RESERVE = "reserve"

_LIMITS = Limits(tensor_bytes=2**31, total_bytes=2**31)  # our own file; a row may be large
_WORTH_SHRINKING_PAGES = 8192
_PAGE_BYTES = 8192
#: This many are given back at once: 16 MiB.
_VACUUM_AT_ONCE_PAGES = 2048
#: This many are given back in one piece where the disk is full; a fraction of the reserve.
_VACUUM_PIECE_PAGES = 64


@dataclass(frozen=True)
class Entry:
    """What the send queue needs to know of a chunk."""

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
            self.connection = connect_file(path, durability)
            with self.transaction():
                create_tables(self.connection, producer, clock_ns())
            check_layout(self.connection, path, producer)
            self._reader = connect_file(path, durability)
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

    def transaction(self) -> Transaction:
        """All that is written within it becomes durable together, or not at all."""
        return Transaction(self.connection, self._writing)

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
        """Give space back to the disk once much of the file is free; the rest another time."""
        free = self._free_pages()
        if free > max(_WORTH_SHRINKING_PAGES, self.pending_bytes // _PAGE_BYTES):
            self._vacuum(min(free // 2, _VACUUM_AT_ONCE_PAGES))

    def give_back(self, nbytes: int) -> None:
        """On a full disk: give that much of what is free in the file back, as far as it is there.

        In pieces, for the log takes as much space as a piece until it is written into the file.
        """
        left = nbytes // _PAGE_BYTES
        while left > 0 and self._free_pages():
            piece = min(left, _VACUUM_PIECE_PAGES)
            self._vacuum(piece)
            self.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
            left -= piece

    def _free_pages(self) -> int:
        (free,) = self.connection.execute("PRAGMA freelist_count").fetchone()
        return int(free)

    def _vacuum(self, pages: int) -> None:
        # The pragma frees a page a step, and `execute` of Python 3.11 makes only one: a script makes all.
        self.connection.executescript(f"PRAGMA incremental_vacuum({pages})")

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


# --- Layout of the file ---


class Transaction:
    """``with Transaction(connection):`` all of it or nothing, in one thread at a time."""

    def __init__(self, connection: sqlite3.Connection, lock: threading.Lock) -> None:
        self._connection, self._lock = connection, lock

    def __enter__(self) -> None:
        self._lock.acquire()
        try:
            self._connection.execute("BEGIN IMMEDIATE")
        except BaseException:
            self._lock.release()
            raise

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:
                self._connection.execute("COMMIT")
        finally:
            if self._connection.in_transaction:  # a full disk may have ended it already
                self._connection.execute("ROLLBACK")
            self._lock.release()


def connect_file(path: Path, durability: str) -> sqlite3.Connection:
    """Open the file; ``durability`` is ``full`` or ``normal`` (SQLite's ``synchronous``)."""
    connection = sqlite3.connect(path, timeout=10, isolation_level=None, check_same_thread=False)
    for pragma in (
        "page_size = 8192",
        "auto_vacuum = INCREMENTAL",
        "journal_mode = WAL",
        f"synchronous = {durability.upper()}",
        "journal_size_limit = 16777216",
    ):
        connection.execute(f"PRAGMA {pragma}")
    return connection


def create_tables(connection: sqlite3.Connection, producer: str, now_ns: int) -> None:
    """Make the tables, within the caller's transaction, unless they are there."""
    if connection.execute("PRAGMA user_version").fetchone()[0] != 0:
        return
    for statement in _TABLES.split(";"):
        connection.execute(statement)
    meta = {
        "producer": producer, "incarnation": now_ns, "next_sequence": 1, "store": None,
        "process": 0, "steps": 0,
    }  # fmt: skip
    connection.executemany("INSERT INTO meta VALUES (?, ?)", meta.items())
    connection.execute(f"PRAGMA user_version = {LAYOUT_VERSION}")


def check_layout(connection: sqlite3.Connection, path: Path, producer: str) -> None:
    """Raise StoreError unless the file is of this layout and belongs to this producer."""
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version != LAYOUT_VERSION:
        raise StoreError(
            f"layout of outbox {path}",
            got=version,
            expected=LAYOUT_VERSION,
            hint="Let the version of USER that made it deliver it, or move its folder away",
        )
    (owner,) = connection.execute("SELECT value FROM meta WHERE key = 'producer'").fetchone()
    if owner != producer:
        raise StoreError(
            f"outbox {path}",
            got=f"producer {producer!r}",
            expected=f"{owner!r}, whose data it holds",
            hint="Give the actor its former name, or move the folder away",
        )


# --- Disk space kept in reserve, because deleting needs some too ---


class DiskReserve:
    """A file of zeros. On a full disk it is given up, so that what is acknowledged can be
    deleted (SQLite has to write in order to delete), and made again from what that frees."""

    def __init__(self, path: Path, nbytes: int = RESERVE_BYTES) -> None:
        self._path, self.nbytes = path, nbytes

    def hold(self) -> None:
        """Make the file unless it is there. Raises OSError when there is no room for it."""
        if self._path.exists() and self._path.stat().st_size == self.nbytes:
            return
        try:
            with open(self._path, "wb") as file:
                os.posix_fallocate(file.fileno(), 0, self.nbytes)
        except OSError:
            self.release()
            raise

    def release(self) -> None:
        """Give the space back to the disk."""
        with contextlib.suppress(FileNotFoundError):
            self._path.unlink()


# --- Recovery of what an earlier process left ---


def open_database(folder: Path, producer: str, durability: str) -> tuple[OutboxDatabase, str]:
    """Open the outbox in a folder, and register this process in it.

    One that is damaged is moved aside, and a new one begun. On a full disk the reserve is used:
    an outbox must be open for acknowledgements to make room.

    Returns it, and what a person should know, or an empty text.
    """
    try:
        try:
            return _open_file(folder, producer, durability), ""
        except sqlite3.OperationalError:
            DiskReserve(folder / RESERVE).release()
            return _open_file(folder, producer, durability), ""
    except StoreCorrupt as error:
        aside = folder / f"damaged-{time.time_ns()}"
        aside.mkdir()
        for path in folder.glob(FILE + "*"):
            path.rename(aside / path.name)
        note = f"{error}. It was moved to {aside}, and a new outbox begun"
    return _open_file(folder, producer, durability), note


def close_left_open(database: OutboxDatabase) -> EpisodeResult | None:
    """End the episode that an earlier process left open, with what is known of it.

    A chunk without rows carries the result: outcome UNFINISHED, and the sums over the rows that
    were committed. There is no final observation, so nothing follows the last row.
    """
    left = database.open_episode()
    if left is None:
        return None
    length = left.progress.length
    result = left.progress.result(
        Outcome.UNFINISHED, f"the actor's process ended within it; {length} steps were committed"
    )
    schema = database.schema(left.schema_hash)
    chunk: TrajectoryChunk = number_chunk(
        UnnumberedChunk(left.progress, (), result),
        database.next_id(),
        schema,
        left.robot,
        left.task,
    )
    database.commit([chunk])
    return result


def _open_file(folder: Path, producer: str, durability: str) -> OutboxDatabase:
    database = OutboxDatabase(folder / FILE, producer, durability)
    try:
        database.start_process()
    except BaseException:
        database.close()
        raise
    return database
