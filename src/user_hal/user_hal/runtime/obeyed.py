"""Whom a robot has obeyed, and when: a small log that shows afterwards that it was one at a time.

It is a file of JSON lines beside the robot's state. Each lease that commanded the robot has a line when its first
command was obeyed, then one a second while more are, and the last one counts. The file is made smaller before it is
larger than 256 KiB; the newest 500 leases stay. A process that is killed loses what it obeyed in its last second.
"""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from pathlib import Path

from user_core.runtime.clock import Clock
from user_core.runtime.files import write_atomically
from user_core.types import Lease

NAME = "obeyed.jsonl"
_MOST_BYTES = 256 * 1024
_KEPT = 500
_PERIOD_NS = 10**9
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Obeyed:
    """Commands that a robot obeyed under one lease.

    Attributes:
        token: Fencing number of the lease.
        holder: Who held it.
        grant: Number of the scheduler's grant; 0: without one.
        first_ns: When the first command was obeyed, since the epoch.
        last_ns: When the last one was.
        commands: How many there were; resets count, too.
    """

    token: int
    holder: str
    grant: int
    first_ns: int
    last_ns: int
    commands: int


class ObeyedLog:
    """Remembers who was obeyed; :meth:`write` from time to time, outside the control loop.

    Args:
        folder: Folder of the robot's state; None: in memory only.
        clock: Tells the time.
    """

    def __init__(self, folder: Path | None = None, clock: Clock | None = None) -> None:
        self._file = None if folder is None else folder / NAME
        self._clock = clock or Clock()
        self._lock = threading.Lock()
        self._leases: dict[int, tuple[str, int]] = {}
        self._records: dict[int, Obeyed] = {}
        self._open: Obeyed | None = None
        self._written: dict[int, Obeyed] = {}

    def granted(self, lease: Lease, grant: int) -> None:
        """A lease was granted; its commands may come."""
        with self._lock:
            self._leases[lease.token] = (lease.holder, grant)
            for token in list(self._leases)[:-_KEPT]:
                del self._leases[token]

    def obeyed(self, token: int) -> None:
        """A command of this lease is obeyed. Quick, since the control loop says so. Any thread."""
        now_ns = self._clock.wall_ns()
        with self._lock:
            record = self._open
            if record is None or record.token != token:
                record = self._records.get(token)
                if record is None:
                    holder, grant = self._leases.get(token, ("", 0))
                    record = Obeyed(token, holder, grant, now_ns, now_ns, 0)
            record = replace(record, last_ns=now_ns, commands=record.commands + 1)
            self._open = self._records[token] = record
            for old in list(self._records)[:-_KEPT] if len(self._records) > _KEPT else ():
                del self._records[old]
                self._written.pop(old, None)

    def records(self) -> list[Obeyed]:
        """What this process knows, in the order of the leases."""
        with self._lock:
            return sorted(self._records.values(), key=lambda one: one.token)

    def write(self, everything: bool = False) -> None:
        """Write what is new: leases that began, and once a second how long they have gone on."""
        if self._file is None:
            return
        with self._lock:
            new = [
                one
                for token, one in self._records.items()
                if (before := self._written.get(token)) is None
                or (one != before and (everything or one is not self._open
                                       or one.last_ns - before.last_ns >= _PERIOD_NS))
            ]  # fmt: skip
            if not new:
                return
            self._written.update({one.token: one for one in new})
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            if self._file.exists() and self._file.stat().st_size > _MOST_BYTES:
                kept = read_obeyed(self._file.parent)[-_KEPT:]
                write_atomically(self._file, _lines(kept), durable=False)
            with self._file.open("a", encoding="utf-8") as file:
                file.write(_lines(new))
        except OSError as error:  # a log is no reason to stop a robot
            _log.warning("log of whom the robot obeyed, %s: %s", self._file, error)


def read_obeyed(folder: Path) -> list[Obeyed]:
    """Whom a robot has obeyed, in the order of the leases; a line that is cut short is passed over."""
    found: dict[int, Obeyed] = {}
    with suppress(FileNotFoundError):
        for line in (folder / NAME).read_text(encoding="utf-8", errors="replace").splitlines():
            with suppress(ValueError, TypeError):
                one = Obeyed(**json.loads(line))
                found[one.token] = one
    return sorted(found.values(), key=lambda one: one.token)


def overlaps(records: Iterable[Obeyed]) -> list[tuple[Obeyed, Obeyed]]:
    """Pairs of different leases of which both were obeyed at the same time; empty when all is well."""
    by_time = sorted(records, key=lambda one: (one.first_ns, one.last_ns))
    found = []
    latest: Obeyed | None = None
    for one in by_time:
        if latest is not None and one.first_ns < latest.last_ns:
            found.append((latest, one))
        if latest is None or one.last_ns > latest.last_ns:
            latest = one
    return found


def out_of_order(records: Iterable[Obeyed]) -> list[tuple[Obeyed, Obeyed]]:
    """Pairs of which the second was obeyed after the first, under an older grant; empty when all is well."""
    by_time = sorted(records, key=lambda one: one.first_ns)
    return [
        (before, after) for before, after in pairwise(by_time) if 0 < after.grant < before.grant
    ]


def _lines(records: Iterable[Obeyed]) -> str:
    return "".join(json.dumps(asdict(one)) + "\n" for one in records)
