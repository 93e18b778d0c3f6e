"""What a new process finds in the outbox of an earlier one, and puts in order."""

from __future__ import annotations

import sqlite3
import time
from pathlib import Path

from user_actor.outbox.database import OutboxDatabase
from user_actor.outbox.drafts import Draft, to_chunk
from user_actor.outbox.reserve import Reserve
from user_core.errors import StoreCorrupt
from user_core.types import EpisodeResult, Outcome, TrajectoryChunk

FILE = "outbox.sqlite"
RESERVE = "reserve"


def open_database(folder: Path, producer: str, durability: str) -> tuple[OutboxDatabase, str]:
    """Open the outbox in a folder, and register this process in it.

    One that is damaged is moved aside, and a new one begun. On a full disk the reserve is used:
    an outbox must be open for acknowledgements to make room.

    Returns it, and what a person should know, or an empty text.
    """
    try:
        try:
            return _open(folder, producer, durability), ""
        except sqlite3.OperationalError:
            Reserve(folder / RESERVE).release()
            return _open(folder, producer, durability), ""
    except StoreCorrupt as error:
        aside = folder / f"damaged-{time.time_ns()}"
        aside.mkdir()
        for path in folder.glob(FILE + "*"):
            path.rename(aside / path.name)
        note = f"{error}. It was moved to {aside}, and a new outbox begun"
    return _open(folder, producer, durability), note


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
    chunk: TrajectoryChunk = to_chunk(
        Draft(left.progress, (), result), database.next_id(), schema, left.robot, left.task
    )
    database.commit([chunk])
    return result


def _open(folder: Path, producer: str, durability: str) -> OutboxDatabase:
    database = OutboxDatabase(folder / FILE, producer, durability)
    try:
        database.start_process()
    except BaseException:
        database.close()
        raise
    return database
