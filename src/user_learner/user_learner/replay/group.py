"""A commit group: the rows of the index that one commit writes, as plain values.

It is taken from the ledger at one moment; what is staged afterwards belongs to the next
group, so that chunks can be staged while the files of this one are being made durable.
"""

from __future__ import annotations

import json
import sqlite3
import time
from collections import Counter
from dataclasses import dataclass
from typing import Any

from user_learner.replay.index import load_meta, set_meta, transaction

Rows = list[tuple[Any, ...]]


@dataclass(frozen=True)
class Group:
    """What one commit writes.

    Attributes:
        generation: Which life of the ledger it is from; one that started over is no more.
        producers: Producer, incarnation, sequence, how many numbers were left out.
        segments: Rows of the table ``segments``, without the commit.
        episodes: Likewise.
        extents: Likewise.
        actors: Likewise.
        steps: New steps by source.
    """

    generation: int
    producers: Rows
    segments: Rows
    episodes: Rows
    extents: Rows
    actors: Rows
    steps: Counter[int]

    def write(self, connection: sqlite3.Connection) -> None:
        """Commit it; raises sqlite3.Error, and has then committed nothing."""
        now = time.time_ns()
        with transaction(connection):
            meta = load_meta(connection)
            commit_id = meta.commit_id + 1
            connection.executemany(
                "INSERT INTO producers VALUES (?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET"
                " sequence = excluded.sequence, skipped = skipped + excluded.skipped,"
                " updated_ns = excluded.updated_ns",
                [(*row, now) for row in self.producers],
            )
            for table, rows in (
                ("segments", self.segments),
                ("episodes", self.episodes),
                ("extents", self.extents),
                ("actors", self.actors),
            ):
                if not rows:  # a chunk without rows, for instance, ends an episode and no more
                    continue
                marks = ", ".join("?" * (len(rows[0]) + 1))
                connection.executemany(
                    f"INSERT OR REPLACE INTO {table} VALUES ({marks})",
                    [(*row, commit_id) for row in rows],
                )
            steps = {str(k): v for k, v in (Counter(meta.steps) + self.steps).items()}
            set_meta(connection, commit_id=commit_id, steps=json.dumps(steps))
