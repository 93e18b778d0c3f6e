"""Retention: forgetting old rows by an explicit policy, whole segments at a time."""

from __future__ import annotations

import shutil
import sqlite3
import time
from dataclasses import dataclass
from pathlib import Path

from user_core.types import EpisodeSource
from user_learner.replay.config import RetentionConfig
from user_learner.replay.index import load_meta, set_meta, transaction
from user_learner.replay.segment import segment_directory

_FORGETTABLE = (int(EpisodeSource.ONLINE), int(EpisodeSource.EVALUATION))


@dataclass(frozen=True)
class Retired:
    """A segment that was dropped.

    Attributes:
        segment: Its number.
        source: Source of its episodes.
        rows: Rows that went with it.
        reason: The limit that was exceeded.
    """

    segment: int
    source: EpisodeSource
    rows: int
    reason: str


def retire(
    store: Path, connection: sqlite3.Connection, row_nbytes: int, policy: RetentionConfig
) -> list[Retired]:
    """Drop the oldest online and evaluation segments until the policy's limits are met.

    Demonstrations and segments that are being filled always stay, also where the limits
    cannot be met then. First the index forgets, then the files go: a crash in between leaves
    files that the next opening removes. An episode whose first rows went keeps the others.
    """
    limits = [
        (policy.max_rows, f"more than {policy.max_rows} rows"),
        (policy.max_bytes // row_nbytes if policy.max_bytes else 0,
         f"more than {policy.max_bytes} bytes"),
    ]  # fmt: skip
    total = int(connection.execute("SELECT coalesce(sum(rows), 0) FROM segments").fetchone()[0])
    retired: list[Retired] = []
    candidates = connection.execute(
        "SELECT id, source, rows FROM segments WHERE sealed AND source IN (?, ?) ORDER BY id",
        _FORGETTABLE,
    ).fetchall()
    for segment, source, rows in candidates:
        exceeded = [reason for limit, reason in limits if limit and total > limit]
        if not exceeded:
            break
        retired.append(Retired(segment, EpisodeSource(source), rows, exceeded[0]))
        total -= rows
    if retired:
        _forget(connection, retired)
        for gone in retired:
            shutil.rmtree(segment_directory(store, gone.segment), ignore_errors=True)
    return retired


def _forget(connection: sqlite3.Connection, retired: list[Retired]) -> None:
    now = time.time_ns()
    with transaction(connection):
        meta = load_meta(connection)
        for gone in retired:
            for table in ("extents", "actors", "quarantine"):
                connection.execute(f"DELETE FROM {table} WHERE segment = ?", (gone.segment,))
            connection.execute("DELETE FROM segments WHERE id = ?", (gone.segment,))
            connection.execute(
                "INSERT INTO retired VALUES (?, ?, ?, ?, ?)",
                (gone.segment, int(gone.source), gone.rows, gone.reason, now),
            )
        set_meta(connection, commit_id=meta.commit_id + 1, removals=meta.removals + 1)
