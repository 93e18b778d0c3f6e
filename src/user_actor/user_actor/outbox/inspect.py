"""Looking into an outbox without touching it, also while its actor writes."""

from __future__ import annotations

import json
import logging
import sqlite3
import time
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from user_actor.outbox.storage import FILE, LAYOUT_VERSION
from user_core.errors import StoreCorrupt, StoreError, SuiteError
from user_core.runtime.files import write_atomically
from user_core.specs import RobotSpec

#: Beside the file of an outbox: the specs of the robots that its chunks come from.
MEANING_FILE = "robot_spec.json"
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class SetAside:
    """Chunks that were kept aside for the same reason."""

    chunks: int
    code: str
    reason: str


@dataclass(frozen=True)
class OutboxReport:
    """What an outbox holds.

    Attributes:
        folder: Where it lies.
        producer: The actor whose experience it holds.
        store: Identity of the store that it delivers to; empty before the first answer.
        steps: Steps ever committed to it.
        pending: Chunks that no store has acknowledged.
        pending_bytes: Their size.
        oldest_age_s: Age of the oldest of them, seconds; 0 without one.
        aside: What was kept aside, and why.
    """

    folder: Path
    producer: str
    store: str
    steps: int
    pending: int
    pending_bytes: int
    oldest_age_s: float
    aside: tuple[SetAside, ...]


def find_outboxes(directory: Path) -> list[Path]:
    """Folders of outboxes in a directory: that itself, or below it.

    Raises:
        StoreError: There is none.
    """
    if (directory / FILE).is_file():
        return [directory]
    found = sorted(file.parent for file in directory.glob(f"*/{FILE}"))
    if not found:
        raise StoreError(
            f"outboxes in {directory}", got="none", expected=f"{FILE}, or folders with one",
            hint="Name the parameter outbox.directory of the actor; in a run it is runs/<id>/outbox",
        )  # fmt: skip
    return found


def inspect(folder: Path) -> OutboxReport:
    """Read what an outbox holds.

    Raises:
        StoreCorrupt: Its file is damaged, or no outbox.
        StoreError: It was made by another version of this package.
    """
    path = folder / FILE
    try:
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=10)) as reader:
            (version,) = reader.execute("PRAGMA user_version").fetchone()
            if version != LAYOUT_VERSION:
                raise StoreError(f"layout of outbox {path}", got=version, expected=LAYOUT_VERSION)
            meta = dict(reader.execute("SELECT key, value FROM meta").fetchall())
            pending, nbytes, oldest_ns = reader.execute(
                "SELECT count(*), coalesce(sum(nbytes), 0), min(created_ns) FROM chunk "
                "WHERE sequence NOT NULL"
            ).fetchone()
            aside = reader.execute(
                "SELECT count(*), code, reason FROM chunk WHERE sequence IS NULL "
                "GROUP BY code, reason"
            ).fetchall()
    except (sqlite3.DatabaseError, TypeError) as error:
        raise StoreCorrupt(f"outbox {path}", got=str(error), expected="a sound file") from error
    return OutboxReport(
        folder=folder,
        producer=str(meta["producer"]),
        store=meta["store"] or "",
        steps=int(meta["steps"]),
        pending=pending,
        pending_bytes=nbytes,
        oldest_age_s=max(0.0, (time.time_ns() - oldest_ns) * 1e-9) if oldest_ns else 0.0,
        aside=tuple(SetAside(*row) for row in aside),
    )


def keep_meaning(folder: Path, spec: RobotSpec, *, alone: bool) -> None:
    """Keep what the numbers of an outbox mean, for whoever rescues it.

    Args:
        folder: Of the outbox.
        spec: Of the robot that records from now on.
        alone: Nothing of another robot is left in the outbox.
    """
    path = folder / MEANING_FILE
    known = [] if alone else list(read_meanings(folder))
    if spec in known:
        return
    data = {"version": 1, "specs": [one.to_dict() for one in (*known, spec)]}
    try:
        write_atomically(path, json.dumps(data), durable=False)
    except OSError as error:  # a full disk: what is recorded matters more
        _log.warning("%s: not kept: %s", path, error)


def read_meanings(folder: Path) -> tuple[RobotSpec, ...]:
    """The specs of the robots that an outbox holds chunks of; none where nobody knows."""
    path = folder / MEANING_FILE
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        return tuple(RobotSpec.from_dict(one) for one in data["specs"])
    except FileNotFoundError:
        return ()
    except (OSError, SuiteError, KeyError, TypeError, ValueError) as error:
        _log.warning("%s cannot be read: %s", path, error)
        return ()
