"""The layout of the outbox file, and how it is opened."""

from __future__ import annotations

import sqlite3
import threading
from pathlib import Path

from user_core.errors import StoreError

VERSION = 1

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


def connect(path: Path, durability: str) -> sqlite3.Connection:
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


def create(connection: sqlite3.Connection, producer: str, now_ns: int) -> None:
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
    connection.execute(f"PRAGMA user_version = {VERSION}")


def check(connection: sqlite3.Connection, path: Path, producer: str) -> None:
    """Raise StoreError unless the file is of this layout and belongs to this producer."""
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version != VERSION:
        raise StoreError(
            f"layout of outbox {path}",
            got=version,
            expected=VERSION,
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
