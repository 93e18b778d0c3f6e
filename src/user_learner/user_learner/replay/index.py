"""The index: one SQLite file that says what of the column files is committed.

A row exists for readers exactly when the index says so. The writer commits rows, episodes
and the producers' sequence numbers in one transaction, after the rows are durable; that is
what makes delivery exactly-once. Write-ahead logging lets readers in other processes go on
during a commit, each on the committed state it began with.
"""

from __future__ import annotations

import errno
import json
import os
import sqlite3
import time
import uuid
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from user_core.errors import SpecError, StoreCorrupt, StoreError, StoreFull
from user_core.runtime.files import replace_durably
from user_core.types import TrajectorySchema

INDEX_NAME = "index.sqlite"
FORMAT_VERSION = 1
#: Of a store with compressed columns: a release that does not know them must not take them for lost.
PACKED_VERSION = 2
_QUICK_CHECK_BYTES = 64 * 2**20
_PAGE_BYTES = 4096

_TABLES = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value) WITHOUT ROWID;
CREATE TABLE producers (
    producer TEXT, incarnation INTEGER, sequence INTEGER, skipped INTEGER, updated_ns INTEGER,
    PRIMARY KEY (producer, incarnation)) WITHOUT ROWID;
CREATE TABLE segments (
    id INTEGER PRIMARY KEY, source INTEGER, rows INTEGER, log_bytes INTEGER, checksums TEXT,
    sealed INTEGER, created_ns INTEGER, commit_id INTEGER);
CREATE INDEX segments_commit ON segments (commit_id);
CREATE TABLE episodes (
    id INTEGER PRIMARY KEY, producer TEXT, incarnation INTEGER, number INTEGER,
    source INTEGER, robot TEXT, task TEXT, rows INTEGER, gaps INTEGER, ended INTEGER,
    result TEXT, commit_id INTEGER, UNIQUE (producer, incarnation, number));
CREATE TABLE extents (
    id INTEGER PRIMARY KEY, episode INTEGER, first_row INTEGER, segment INTEGER,
    start INTEGER, rows INTEGER, commit_id INTEGER);
CREATE INDEX extents_commit ON extents (commit_id);
CREATE INDEX extents_episode ON extents (episode, first_row);
CREATE INDEX extents_segment ON extents (segment, start);
CREATE TABLE actors (
    segment INTEGER, start INTEGER, rows INTEGER, acted_by INTEGER, commit_id INTEGER,
    PRIMARY KEY (segment, start)) WITHOUT ROWID;
CREATE INDEX actors_commit ON actors (commit_id);
CREATE TABLE quarantine (
    segment INTEGER, block INTEGER, reason TEXT, found_ns INTEGER,
    PRIMARY KEY (segment, block)) WITHOUT ROWID;
CREATE TABLE retired (
    segment INTEGER PRIMARY KEY, source INTEGER, rows INTEGER, reason TEXT, retired_ns INTEGER);
"""


@dataclass(frozen=True)
class StoreMeta:
    """What does not change in the life of a store, and its commit counter.

    Attributes:
        store: Identity of the store.
        schema: Schema of its rows; None until the first chunk came.
        segment_rows: Rows of a segment.
        block_rows: Rows of a block, the unit of checksums.
        commit_id: Counts the commits.
        removals: Counts what took rows away (retention, quarantine): a reader starts afresh.
        created_ns: When the store was made, nanoseconds since the epoch.
        steps: Steps that ever came, by source; retention does not lower them.
        leaving: Episodes of which retention by rule has dropped a part, and the rest is to follow.
    """

    store: str
    schema: TrajectorySchema | None
    segment_rows: int
    block_rows: int
    commit_id: int
    removals: int
    created_ns: int
    steps: dict[int, int]
    leaving: tuple[int, ...] = ()


def store_at(place: Path) -> Path | None:
    """The store that a directory is, or the one of the run (``runs/<id>``) that it is; None where it is neither."""
    stores = (place, place / "replay")
    return next((store for store in stores if (store / INDEX_NAME).exists()), None)


def create_index(directory: Path) -> None:
    """Make an empty index; atomic: it is there whole or not at all."""
    path, new = directory / INDEX_NAME, directory / (INDEX_NAME + ".new")
    new.unlink(missing_ok=True)
    with closing(sqlite3.connect(new, isolation_level=None)) as connection:
        connection.execute(f"PRAGMA page_size = {_PAGE_BYTES}")
        connection.execute("PRAGMA synchronous = OFF")  # once, below, is enough
        connection.executescript(_TABLES)
        values = {
            "format_version": FORMAT_VERSION,
            "store": uuid.uuid4().hex,
            "schema": "",
            "segment_rows": 0,
            "block_rows": 0,
            "commit_id": 0,
            "removals": 0,
            "created_ns": time.time_ns(),
            "steps": "{}",
        }
        connection.executemany("INSERT INTO meta VALUES (?, ?)", values.items())
    replace_durably(new, path)


def connect(directory: Path, *, writable: bool, durable: bool = True) -> sqlite3.Connection:
    """Open the index of a store.

    Raises:
        StoreError: There is no store, or one of a newer format.
        StoreCorrupt: The file is damaged as far as a quick look tells.
    """
    path = directory / INDEX_NAME
    if not path.is_file():
        inner = sorted(file.parent for file in directory.glob(f"*/{INDEX_NAME}"))  # of a run
        hint = f"There is {', '.join(map(str, inner[:3]))}" if inner else ""
        what = f"no replay store in {directory}"
        raise StoreError(what, expected=f"a file {INDEX_NAME}", hint=hint)
    with corruption_named(path):
        connection = _open(path, writable)
        try:
            if writable:
                connection.execute("PRAGMA journal_mode = WAL")
                connection.execute(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}")
            _check(connection, path)
        except BaseException:
            connection.close()
            raise
    return connection


def _open(path: Path, writable: bool) -> sqlite3.Connection:
    def attempt(options: str) -> sqlite3.Connection:
        connection = sqlite3.connect(
            f"{path.absolute().as_uri()}?{options}",
            uri=True,
            isolation_level=None,
            check_same_thread=False,
            timeout=30.0,
        )
        try:
            connection.execute("SELECT value FROM meta WHERE key = 'store'").fetchone()
        except BaseException:
            connection.close()
            raise
        return connection

    if writable:
        return attempt("mode=rw")
    try:
        return attempt("mode=ro")
    except sqlite3.OperationalError:
        # On a read-only disk SQLite cannot make its shared memory. Without a write-ahead
        # log there is nothing in it either, and nobody can be writing.
        log = path.with_name(path.name + "-wal")
        if os.access(path.parent, os.W_OK) or (log.exists() and log.stat().st_size):
            raise
        return attempt("immutable=1")


def _check(connection: sqlite3.Connection, path: Path) -> None:
    version = connection.execute("SELECT value FROM meta WHERE key='format_version'").fetchone()
    if version is None or version[0] not in (FORMAT_VERSION, PACKED_VERSION):
        raise StoreError(
            f"format version of {path}",
            got=None if version is None else version[0],
            expected=f"{FORMAT_VERSION} or {PACKED_VERSION}",
            hint="Read it with the release that wrote it, export, and import here",
        )
    if path.stat().st_size <= _QUICK_CHECK_BYTES:
        found = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
        if found != "ok":
            raise sqlite3.DatabaseError(found)


@contextmanager
def corruption_named(path: Path) -> Iterator[None]:
    """Turn SQLite's report of a damaged file into StoreCorrupt; other errors pass."""
    try:
        yield
    except sqlite3.DatabaseError as error:
        if isinstance(error, (sqlite3.IntegrityError, sqlite3.ProgrammingError)):
            raise
        text = str(error)
        if isinstance(error, sqlite3.OperationalError) and not any(
            words in text for words in ("malformed", "no such table", "no such column")
        ):
            if "disk is full" in text:
                raise StoreFull(f"cannot write {path}", got=text, hint=FULL_HINT) from error
            raise StoreError(f"cannot use {path}", got=text) from error
        raise StoreCorrupt(
            f"index {path} is damaged",
            got=text,
            expected="an intact SQLite file",
            hint="The writer sets it aside and rebuilds it from the segments when it opens the "
            "store; `user replay verify --repair` does so by hand",
        ) from error


def load_meta(connection: sqlite3.Connection) -> StoreMeta:
    """Read the meta table."""
    values: dict[str, Any] = dict(connection.execute("SELECT key, value FROM meta"))
    try:
        text = values["schema"]
        return StoreMeta(
            store=str(values["store"]),
            schema=TrajectorySchema.from_dict(json.loads(text)) if text else None,
            segment_rows=int(values["segment_rows"]),
            block_rows=int(values["block_rows"]),
            commit_id=int(values["commit_id"]),
            removals=int(values["removals"]),
            created_ns=int(values["created_ns"]),
            steps={int(k): int(v) for k, v in json.loads(values["steps"]).items()},
            leaving=tuple(json.loads(values.get("leaving", "[]"))),
        )
    except (AttributeError, KeyError, TypeError, ValueError, SpecError) as error:
        raise StoreCorrupt(
            "meta table of the index", got=repr(error), expected="the keys of StoreMeta"
        ) from error


def set_schema(
    connection: sqlite3.Connection, schema: TrajectorySchema, segment_rows: int, block_rows: int
) -> None:
    """Commit the schema of a new store, and with it how its rows are divided."""
    with transaction(connection):
        set_meta(
            connection,
            schema=json.dumps(schema.to_dict()),
            segment_rows=segment_rows,
            block_rows=block_rows,
        )


def set_meta(connection: sqlite3.Connection, **values: Any) -> None:
    """Write values of the meta table, within the caller's transaction."""
    connection.executemany("INSERT OR REPLACE INTO meta VALUES (?, ?)", values.items())


def write_meta(connection: sqlite3.Connection, **values: Any) -> None:
    """Commit values of the meta table, where they are others."""
    there = dict(connection.execute("SELECT key, value FROM meta"))
    changed = {name: value for name, value in values.items() if there.get(name) != value}
    if changed:
        with transaction(connection):
            set_meta(connection, **changed)


@contextmanager
def transaction(connection: sqlite3.Connection, mode: str = "IMMEDIATE") -> Iterator[None]:
    """One transaction: all of it, or after an exception nothing of it."""
    connection.execute(f"BEGIN {mode}")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


# --------------------------------------------------------------------------------------------------
# Damaged rows are set aside with the reason, and everything else goes on
# --------------------------------------------------------------------------------------------------


WHOLE_SEGMENT = -1


@dataclass(frozen=True)
class Damage:
    """Rows that must not be used.

    Attributes:
        segment: Number of the segment.
        block: Number of the block in it, or WHOLE_SEGMENT.
        reason: What is wrong, for people.
    """

    segment: int
    block: int
    reason: str


def set_aside(connection: sqlite3.Connection, damages: Iterable[Damage]) -> None:
    """Commit damages to the index. Nothing is appended to their segments any more."""
    now = time.time_ns()
    with transaction(connection):
        meta = load_meta(connection)
        for damage in damages:
            connection.execute(
                "INSERT OR IGNORE INTO quarantine VALUES (?, ?, ?, ?)",
                (damage.segment, damage.block, damage.reason, now),
            )
            seal(connection, damage.segment, meta.commit_id + 1)
        set_meta(connection, commit_id=meta.commit_id + 1, removals=meta.removals + 1)


def seal(connection: sqlite3.Connection, segment: int, commit_id: int) -> None:
    """Append nothing to a segment any more; within the caller's transaction."""
    connection.execute(
        "UPDATE segments SET sealed = 1, commit_id = ? WHERE id = ?", (commit_id, segment)
    )


def damages(connection: sqlite3.Connection) -> list[Damage]:
    """What is set aside."""
    return [
        Damage(*row) for row in connection.execute("SELECT segment, block, reason FROM quarantine")
    ]


# --------------------------------------------------------------------------------------------------
# The disk: how much room there is, and what its errors mean
# --------------------------------------------------------------------------------------------------


FULL_HINT = "Make room; it goes on by itself, and what was not acknowledged comes again"
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def is_full(error: OSError) -> bool:
    """Whether a disk, a quota or the size of a file is at its end; HDF5 says it in its text only."""
    return error.errno in _FULL or any(f"errno = {number}," in str(error) for number in _FULL)


def require_space(store: Path, nbytes: int) -> None:
    """Raise StoreFull unless this many bytes are free on the disk of a store."""
    disk = os.statvfs(store)
    free = disk.f_bavail * disk.f_frsize
    if free < nbytes:
        raise StoreFull(
            f"disk of replay store {store}",
            got=f"{free} bytes free",
            expected=f"{nbytes} (min_free_bytes and the chunk)",
            hint=FULL_HINT,
        )


def disk_error(store: Path, error: OSError) -> StoreError:
    """StoreFull for a disk, quota or file size that is full, StoreError for anything else."""
    what = f"cannot write to replay store {store}"
    if is_full(error):
        return StoreFull(what, got=error.strerror, hint=FULL_HINT)
    return StoreError(what, got=error.strerror, hint="See the system log about this disk")
