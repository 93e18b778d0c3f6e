"""Quarantine: damaged rows are set aside with the reason, and everything else goes on.

The bytes stay where they are, for a person to look at; readers pass them over. The unit is
the block that a checksum covers, or a whole segment whose files are missing or cut short.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterable
from dataclasses import dataclass

from user_learner.replay.index import load_meta, set_meta, transaction

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
