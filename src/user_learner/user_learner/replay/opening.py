"""What the writer does on opening a store: make it, or find out what a crash or a bad disk did."""

from __future__ import annotations

import os
import shutil
import sqlite3
import time
import zlib
from contextlib import closing
from pathlib import Path

from user_core.errors import StoreCorrupt
from user_learner.replay.chunklog import LOG_NAME
from user_learner.replay.index import (
    INDEX_NAME,
    connect,
    create_index,
    load_meta,
    transaction,
)
from user_learner.replay.layout import RowLayout
from user_learner.replay.ledger import Ledger
from user_learner.replay.quarantine import WHOLE_SEGMENT, Damage, damages, seal, set_aside
from user_learner.replay.rebuild import rebuild_index
from user_learner.replay.segment import SEGMENTS, check_sizes, read_rows, segment_directory


def prepare(store: Path) -> list[str]:
    """Make the store ready to be written; return what was found wrong and mended.

    A damaged index is set aside, with its name telling so, and rebuilt from the logs of the
    segments. Missing, truncated or torn segments are quarantined. What a crash left between
    two steps of a commit is removed.
    """
    (store / SEGMENTS).mkdir(exist_ok=True)
    warnings = _ensure_index(store)
    with closing(connect(store, writable=True)) as connection:
        meta = load_meta(connection)
        found = [] if meta.schema is None else _examine(store, connection, RowLayout(meta.schema))
        if found:
            set_aside(connection, found)
            warnings += [f"segment {d.segment} set aside: {d.reason}" for d in found]
        warnings += _seal_without_log(store, connection)
        _remove_leftovers(store, connection)
    return warnings


def _ensure_index(store: Path) -> list[str]:
    path = store / INDEX_NAME
    reason = "it was missing"
    if path.exists():
        try:
            with closing(connect(store, writable=True)) as connection:
                load_meta(connection)
            return []
        except StoreCorrupt as error:
            reason = str(error)
    elif not any((store / SEGMENTS).iterdir()):
        create_index(store)
        return []
    kept = set_index_aside(store)
    warnings = rebuild_index(store)
    return [
        f"index rebuilt from the logs of the segments, because {reason}"
        + (f"; the damaged one is kept as {kept}" if kept else ""),
        *warnings,
    ]


def set_index_aside(store: Path) -> str:
    """Rename the index and what SQLite keeps beside it; return the new name, or nothing."""
    kept = f"{INDEX_NAME}.damaged-{time.time_ns()}"
    for suffix in ("-shm", "-wal", ""):
        path = store / (INDEX_NAME + suffix)
        if path.exists():
            os.replace(path, store / (kept + suffix))
    return kept if (store / kept).exists() else ""


def _examine(store: Path, connection: sqlite3.Connection, layout: RowLayout) -> list[Damage]:
    """Sizes of all files, and checksums of the blocks that were being filled."""
    known = {(d.segment, d.block) for d in damages(connection)}
    found = []
    for segment, rows in connection.execute("SELECT id, rows FROM segments").fetchall():
        reason = check_sizes(segment_directory(store, segment), layout, rows, 0)
        if reason and (segment, WHOLE_SEGMENT) not in known:
            found.append(Damage(segment, WHOLE_SEGMENT, reason))
    block_rows = load_meta(connection).block_rows
    for state, _ in Ledger(connection).open_segments():
        if any(damage.segment == state.id for damage in found) or not state.rows:
            continue
        block = (state.rows - 1) // block_rows
        path, start = segment_directory(store, state.id), block * block_rows
        for file, expected in zip(layout.files, state.checksums, strict=True):
            raw = read_rows(path, file, start, state.rows - start)
            if zlib.crc32(raw.reshape(-1).data) != expected:
                reason = f"checksum of {file.filename}, rows {start} to {state.rows - 1}"
                found.append(Damage(state.id, block, reason))
                break
    return found


def _seal_without_log(store: Path, connection: sqlite3.Connection) -> list[str]:
    """A segment whose log is cut short is still read, but nothing is appended to it."""
    warnings = []
    for state, _ in Ledger(connection).open_segments():
        log = segment_directory(store, state.id) / LOG_NAME
        if not log.exists() or log.stat().st_size < state.log_bytes:
            with transaction(connection):
                seal(connection, state.id, load_meta(connection).commit_id)
            warnings.append(f"segment {state.id} closed: its log is missing or cut short")
    return warnings


def _remove_leftovers(store: Path, connection: sqlite3.Connection) -> None:
    """Directories that the index does not know: never committed, or retired."""
    known = {f"{row[0]:08d}" for row in connection.execute("SELECT id FROM segments")}
    for path in (store / SEGMENTS).iterdir():
        if path.name not in known:
            shutil.rmtree(path, ignore_errors=True)
