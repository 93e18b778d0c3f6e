"""What the scheduler knows, in one SQLite file: experiments, grants, and what must not be given.

Every change is one transaction, so that the file is whole after any crash, and makes sense: SQLite itself refuses a
second exclusive grant of a resource. Fencing numbers only grow, also over crashes and over schedulers: whoever holds a
grant with a smaller number than another of the same resource has lost it. They begin with the wall clock, in seconds,
so that hosts and robots, which remember the newest that they have seen, believe a new file, too.

Of several schedulers only the newest may write. Each takes the store over when it begins to work, with a token that is
larger than all before; a transaction of one with an older token is refused. So a scheduler that was suspended or cut
off and comes back changes nothing.
"""

from __future__ import annotations

import json
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from user_core.config import from_mapping, to_mapping
from user_core.errors import LeaseError, StoreCorrupt, StoreError
from user_core.reasons import NO_REASON, Reason
from user_core.runtime.clock import Clock
from user_fleet.scheduling.experiment import Experiment
from user_fleet.scheduling.reservation import Reservation

#: ``queued``: it waits for resources. ``running``: it has them. ``ending``: it gives them back when
#: its episodes have ended, and then goes on to be queued (preempted) or cancelled.
State = Literal["queued", "running", "ending", "done", "cancelled"]
_APPLICATION = 0x55534652  # "USFR"
_VERSION = 1
_BUSY_S = 5.0
_KEPT_ANSWERS = 100
_SCHEMA = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
INSERT INTO meta VALUES ('epoch', 0), ('fencing', 0), ('alive_ns', 0);
CREATE TABLE experiments (
    number INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, spec TEXT NOT NULL, state TEXT NOT NULL,
    submitted_ns INTEGER NOT NULL, code TEXT NOT NULL DEFAULT '', text TEXT NOT NULL DEFAULT '',
    goes_to TEXT NOT NULL DEFAULT '', options TEXT NOT NULL DEFAULT '{}', home TEXT NOT NULL DEFAULT '');
CREATE TABLE grants (
    fencing INTEGER PRIMARY KEY, resource TEXT NOT NULL, experiment TEXT NOT NULL, role TEXT NOT NULL,
    share INTEGER NOT NULL, begun_ns INTEGER NOT NULL, yields INTEGER NOT NULL DEFAULT 0, ended_ns INTEGER,
    code TEXT NOT NULL DEFAULT '', text TEXT NOT NULL DEFAULT '');
CREATE UNIQUE INDEX one_holder ON grants (resource) WHERE ended_ns IS NULL AND share = 0;
CREATE INDEX in_force ON grants (experiment) WHERE ended_ns IS NULL;
CREATE TABLE held_back (
    resource TEXT NOT NULL, kind TEXT NOT NULL, since_ns INTEGER NOT NULL, text TEXT NOT NULL,
    PRIMARY KEY (resource, kind)) WITHOUT ROWID;
CREATE TABLE failures (
    resource TEXT NOT NULL, at_ns INTEGER NOT NULL, source TEXT NOT NULL, text TEXT NOT NULL);
CREATE INDEX failures_of ON failures (resource, at_ns);
CREATE TABLE reservations (name TEXT PRIMARY KEY, spec TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE hosts (
    name TEXT PRIMARY KEY, state TEXT NOT NULL, text TEXT NOT NULL, seen_ns INTEGER NOT NULL,
    report BLOB) WITHOUT ROWID;
CREATE TABLE requests (
    id INTEGER PRIMARY KEY AUTOINCREMENT, asked_ns INTEGER NOT NULL, request TEXT NOT NULL, answer TEXT);
CREATE TABLE warm (experiment TEXT, host TEXT, PRIMARY KEY (experiment, host)) WITHOUT ROWID;
"""


@dataclass(frozen=True)
class Grant:
    """The right of an experiment to use a resource, until it ends.

    Attributes:
        fencing: Number of this grant, larger than those of all before.
        resource: Id of the resource.
        experiment: Name of the experiment.
        role: Role that it was granted for.
        share: Others may be granted it as well.
        begun_ns: When it was granted, since the epoch.
        yields: It is to be given back when the episode has ended.
        ended_ns: When it ended; None while it holds.
        ending: Why it ended.
    """

    fencing: int
    resource: str
    experiment: str
    role: str
    share: bool
    begun_ns: int
    yields: bool = False
    ended_ns: int | None = None
    ending: Reason = NO_REASON


@dataclass(frozen=True)
class Entry:
    """An experiment as the store has it.

    Attributes:
        number: Order in which they were submitted.
        experiment: What was asked for.
        state: Where it is.
        reason: Why it waits, or how it ended.
        goes_to: What comes after ``ending``.
        options: Of one that runs, for each role the number of its requirement.
        home: Of one that runs, its site.
    """

    number: int
    experiment: Experiment
    state: State
    reason: Reason
    goes_to: str
    options: dict[str, int]
    home: str


@dataclass(frozen=True)
class KnownHost:
    """What the store knows of a host.

    Attributes:
        name: Its name.
        state: ``here``, or the code of what is wrong.
        text: What is wrong, for people.
        seen_ns: When that began, since the epoch.
        report: Its last report as JSON, if there was one.
    """

    name: str
    state: str
    text: str
    seen_ns: int
    report: bytes | None


class FleetStore:
    """The file.

    Any thread may use it: transactions wait for each other, also those of one store. What another thread reads from
    the same store during one may already show what that changes.

    Args:
        path: Where it is; made if it is not there.
        clock: Tells the time.

    Raises:
        StoreError: It cannot be opened, or a newer version wrote it.
        StoreCorrupt: It is no such file.
    """

    def __init__(self, path: Path, clock: Clock | None = None) -> None:
        self.path, self._clock = path, clock or Clock()
        self._epoch: int | None = None
        self._lock = threading.RLock()  # a connection has one transaction at a time
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._db = sqlite3.connect(
                path, timeout=_BUSY_S, isolation_level=None, check_same_thread=False
            )
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=FULL")  # a grant that was told is never forgotten
            self._create()
        except sqlite3.DatabaseError as error:
            kind = StoreError if isinstance(error, sqlite3.OperationalError) else StoreCorrupt
            raise kind(f"state of the fleet in {path}", got=str(error)) from error

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    def take_over(self) -> int:
        """Become the one scheduler that may write; returns the token by which it is known."""
        with self._begin():
            self._epoch = self._next("epoch")
            self._set("alive_ns", self._clock.wall_ns())
        return self._epoch

    def say_alive(self) -> None:
        """Let a scheduler that stands by know that this one works."""
        with self.transaction():
            self._set("alive_ns", self._clock.wall_ns())

    def silent_s(self) -> float:
        """Since when no scheduler has said that it works; seconds."""
        return max(0.0, (self._clock.wall_ns() - self._meta("alive_ns")) * 1e-9)

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All changes within become durable together, or none does.

        Raises:
            LeaseError: Another scheduler has taken the store over; nothing was changed.
        """
        with self._begin():
            epoch = self._meta("epoch")
            if epoch != self._epoch:
                raise LeaseError(
                    "state of the fleet", got=f"token {self._epoch}",
                    expected=f"{epoch}, of the scheduler that has taken over",
                    hint="End this scheduler, or let it stand by",
                )  # fmt: skip
            yield

    # --- experiments ---

    def add(self, experiment: Experiment) -> None:
        """Queue an experiment. Raises StoreError where one of this name is not over yet."""
        old = self.find(experiment.name)
        if old is not None and old.state not in ("done", "cancelled"):
            raise StoreError(
                f"experiment {experiment.name!r}", got=f"one that is {old.state}",
                expected="a new name", hint="Cancel the other one, or give this one another name",
            )  # fmt: skip
        self._db.execute("DELETE FROM experiments WHERE name = ?", (experiment.name,))
        self._db.execute(
            "INSERT INTO experiments (name, spec, state, submitted_ns) VALUES (?, ?, 'queued', ?)",
            (experiment.name, json.dumps(to_mapping(experiment)), self._clock.wall_ns()),
        )

    def find(self, name: str) -> Entry | None:
        """An experiment by its name."""
        found = self._entries("WHERE name = ?", (name,))
        return found[0] if found else None

    def entries(self, *states: State) -> list[Entry]:
        """Experiments in these states, in the order in which they were submitted; without any: all."""
        marks = ", ".join("?" * len(states))
        return self._entries(f"WHERE state IN ({marks})" if states else "", states)

    def set_state(
        self, name: str, state: State, reason: Reason = NO_REASON, goes_to: str = ""
    ) -> None:
        """Note where an experiment is."""
        self._db.execute(
            "UPDATE experiments SET state = ?, code = ?, text = ?, goes_to = ? WHERE name = ?",
            (state, reason.code, reason.text, goes_to, name),
        )

    def set_plan(self, name: str, options: dict[str, int], home: str) -> None:
        """Note which requirement each role of an experiment was given, and where its home is."""
        self._db.execute(
            "UPDATE experiments SET options = ?, home = ? WHERE name = ?",
            (json.dumps(options), home, name),
        )

    # --- grants ---

    def grant(self, resource: str, experiment: str, role: str, share: bool) -> Grant:
        """Grant a resource.

        Raises:
            LeaseError: Somebody else holds it.
        """
        if share:
            exclusive = self._db.execute(
                "SELECT experiment FROM grants WHERE resource = ? AND ended_ns IS NULL AND share = 0",
                (resource,),
            ).fetchone()
        else:
            exclusive = self._db.execute(
                "SELECT experiment FROM grants WHERE resource = ? AND ended_ns IS NULL", (resource,)
            ).fetchone()
        if exclusive is not None:
            raise LeaseError(f"{resource} is held by {exclusive[0]!r}")
        fencing, now_ns = self._next("fencing"), self._clock.wall_ns()
        self._db.execute(
            "INSERT INTO grants (fencing, resource, experiment, role, share, begun_ns) "
            "VALUES (?, ?, ?, ?, ?, ?)",
            (fencing, resource, experiment, role, share, now_ns),
        )
        self._db.execute(
            "INSERT OR IGNORE INTO warm VALUES (?, ?)", (experiment, resource.partition("/")[0])
        )
        return Grant(fencing, resource, experiment, role, share, now_ns)

    def end_grants(self, reason: Reason, **which: str | int) -> list[Grant]:
        """End the grants in force that have these columns (resource, experiment, role, fencing)."""
        ended = [g for g in self.grants() if all(getattr(g, k) == v for k, v in which.items())]
        for grant in ended:
            self._db.execute(
                "UPDATE grants SET ended_ns = max(?, begun_ns), code = ?, text = ? WHERE fencing = ?",
                (self._clock.wall_ns(), reason.code, reason.text, grant.fencing),
            )
        return ended

    def ask_back(self, **which: str | int) -> list[Grant]:
        """Ask that the grants in force with these columns be given back at the end of the episode."""
        found = [g for g in self.grants() if all(getattr(g, k) == v for k, v in which.items())]
        for grant in found:
            self._db.execute("UPDATE grants SET yields = 1 WHERE fencing = ?", (grant.fencing,))
        return found

    def grants(self, ended: bool = False) -> list[Grant]:
        """Grants in force, the oldest first; with ``ended`` all there ever were."""
        rows = self._db.execute(
            "SELECT fencing, resource, experiment, role, share, begun_ns, yields, ended_ns, code, text "
            f"FROM grants {'' if ended else 'WHERE ended_ns IS NULL'} ORDER BY fencing"
        )
        return [
            Grant(
                fencing, resource, experiment, role, bool(share), begun_ns, bool(yields), ended_ns,
                Reason(code, text),
            )
            for fencing, resource, experiment, role, share, begun_ns, yields, ended_ns, code, text in rows
        ]  # fmt: skip

    def newest_fencing(self) -> int:
        """The largest fencing number that was ever given."""
        return self._meta("fencing")

    def warm_hosts(self, experiment: str) -> frozenset[str]:
        """Hosts that have run an experiment of this name."""
        rows = self._db.execute("SELECT host FROM warm WHERE experiment = ?", (experiment,))
        return frozenset(row[0] for row in rows)

    # --- what is not given ---

    def hold_back(self, resource: str, kind: str, text: str) -> None:
        """Give a resource to nobody from now on. ``kind``: ``drained`` or ``quarantined``."""
        self._db.execute(
            "INSERT OR REPLACE INTO held_back VALUES (?, ?, ?, ?)",
            (resource, kind, self._clock.wall_ns(), text),
        )

    def let_go(self, resource: str, kind: str | None = None) -> bool:
        """Give it again; its failures are forgotten. False when it was not held back."""
        self._db.execute("DELETE FROM failures WHERE resource = ?", (resource,))
        done = self._db.execute(
            "DELETE FROM held_back WHERE resource = ? AND kind = coalesce(?, kind)",
            (resource, kind),
        )
        return done.rowcount > 0

    def held_back(self) -> dict[str, Reason]:
        """Resources that are given to nobody, with the reason."""
        rows = self._db.execute("SELECT resource, kind, text FROM held_back ORDER BY kind DESC")
        return {resource: Reason(kind, f"{kind}: {text}") for resource, kind, text in rows}

    def note_failure(self, what: str, source: str, text: str, window_s: float) -> int:
        """Note that something failed; returns by how many sources it is said within the window.

        Args:
            what: A resource, or something else that has a name.
            source: Who says so; empty: this time counts by itself.
            text: How it failed.
            window_s: What was before is forgotten.
        """
        now_ns = self._clock.wall_ns()
        since_ns = now_ns - int(window_s * 1e9)
        self._db.execute("DELETE FROM failures WHERE resource = ? AND at_ns < ?", (what, since_ns))
        self._db.execute(
            "INSERT INTO failures VALUES (?, ?, ?, ?)",
            (what, now_ns, source or f"at {now_ns} {self.newest_fencing()}", text),
        )
        return self.failures().get(what, 0)

    def failures(self) -> dict[str, int]:
        """By how many sources a failure is known, of everything that has failed."""
        rows = self._db.execute(
            "SELECT resource, count(DISTINCT source) FROM failures GROUP BY resource"
        )
        return dict(rows.fetchall())

    def forget_failures(self, what: str) -> None:
        """Begin to count anew."""
        self._db.execute("DELETE FROM failures WHERE resource = ?", (what,))

    def reserve(self, reservation: Reservation) -> None:
        """Note a reservation; one of the same name is replaced."""
        self._db.execute(
            "INSERT OR REPLACE INTO reservations VALUES (?, ?)",
            (reservation.name, json.dumps(to_mapping(reservation))),
        )

    def unreserve(self, name: str) -> bool:
        """Forget one; false when there is none of this name."""
        done = self._db.execute("DELETE FROM reservations WHERE name = ?", (name,))
        return done.rowcount > 0

    def reservations(self) -> list[Reservation]:
        """All of them."""
        rows = self._db.execute("SELECT spec FROM reservations ORDER BY name")
        return [from_mapping(Reservation, json.loads(row[0])) for row in rows]

    # --- hosts ---

    def note_host(self, name: str, state: str, text: str, report: bytes | None) -> None:
        """Remember what is known of a host, for people and for the next scheduler."""
        self._db.execute(
            "INSERT OR REPLACE INTO hosts VALUES (?, ?, ?, ?, ?)",
            (name, state, text, self._clock.wall_ns(), report),
        )

    def hosts(self) -> list[KnownHost]:
        """What is known of the hosts."""
        rows = self._db.execute(
            "SELECT name, state, text, seen_ns, report FROM hosts ORDER BY name"
        )
        return [KnownHost(*row) for row in rows]

    def forget_host(self, name: str) -> None:
        """Forget a host."""
        self._db.execute("DELETE FROM hosts WHERE name = ?", (name,))

    # --- what people ask for, on the scheduler's host ---

    def ask(self, request: dict[str, Any]) -> int:
        """Leave a request for whichever scheduler works; returns its number. From any process."""
        with self._begin():
            done = self._db.execute(
                "INSERT INTO requests (asked_ns, request) VALUES (?, ?)",
                (self._clock.wall_ns(), json.dumps(request)),
            )
        return int(done.lastrowid or 0)

    def requests(self) -> list[tuple[int, dict[str, Any]]]:
        """Requests that nobody has answered yet, the oldest first."""
        rows = self._db.execute("SELECT id, request FROM requests WHERE answer IS NULL ORDER BY id")
        return [(number, json.loads(request)) for number, request in rows]

    def answer(self, number: int, answer: dict[str, Any]) -> None:
        """Answer a request; old answers are forgotten."""
        self._db.execute(
            "UPDATE requests SET answer = ? WHERE id = ?", (json.dumps(answer), number)
        )
        self._db.execute(
            "DELETE FROM requests WHERE answer IS NOT NULL AND id < ?", (number - _KEPT_ANSWERS,)
        )

    def answer_of(self, number: int) -> dict[str, Any] | None:
        """The answer to a request; None while there is none."""
        row = self._db.execute("SELECT answer FROM requests WHERE id = ?", (number,)).fetchone()
        return None if row is None or row[0] is None else dict(json.loads(row[0]))

    # --- inside ---

    def fingerprint(self) -> object:
        """Changes whenever an experiment, a grant, or what is held back does."""
        return tuple(
            tuple(self._db.execute(question))
            for question in (
                "SELECT number, state FROM experiments WHERE state NOT IN ('done', 'cancelled')",
                "SELECT max(number), count(*) FROM experiments",
                "SELECT fencing, yields FROM grants WHERE ended_ns IS NULL",
                "SELECT resource, kind FROM held_back",
            )
        )

    def _entries(self, where: str, values: tuple[Any, ...]) -> list[Entry]:
        rows = self._db.execute(
            "SELECT number, spec, state, code, text, goes_to, options, home FROM experiments "
            f"{where} ORDER BY number",
            values,
        )
        return [
            Entry(
                number, from_mapping(Experiment, json.loads(spec)), state, Reason(code, text),
                goes_to, json.loads(options), home,
            )
            for number, spec, state, code, text, goes_to, options, home in rows
        ]  # fmt: skip

    def _create(self) -> None:
        with self._begin():
            application = self._pragma("application_id")
            version = self._pragma("user_version")
            tables = self._db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
            if application == _APPLICATION and version <= _VERSION:
                return
            if application == _APPLICATION:
                raise StoreError(
                    f"state of the fleet in {self.path}", got=f"format {version}",
                    expected=f"at most {_VERSION}", hint="A newer version of USER wrote it",
                )  # fmt: skip
            if tables:
                raise StoreCorrupt(
                    f"state of the fleet in {self.path}", got="a database of something else"
                )
            for statement in _SCHEMA.split(";"):
                self._db.execute(statement)
            self._db.execute(f"PRAGMA application_id = {_APPLICATION}")
            self._db.execute(f"PRAGMA user_version = {_VERSION}")

    @contextmanager
    def _begin(self) -> Iterator[None]:
        with self._lock:
            try:
                self._db.execute("BEGIN IMMEDIATE")
            except sqlite3.OperationalError as error:  # others keep it locked, or the disk fails
                raise self._failed(error) from error
            try:
                yield
            except BaseException as error:
                if self._db.in_transaction:  # a full disk may have ended it already
                    self._db.execute("ROLLBACK")
                if isinstance(error, sqlite3.OperationalError):
                    raise self._failed(error) from error
                raise
            self._commit()

    def _commit(self) -> None:
        try:
            self._db.execute("COMMIT")
        except sqlite3.Error as error:  # a full disk, for instance: then nothing was changed
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise self._failed(error) from error

    def _failed(self, error: sqlite3.Error) -> StoreError:
        return StoreError(f"state of the fleet in {self.path}", got=str(error))

    def _pragma(self, name: str) -> int:
        return int(self._db.execute(f"PRAGMA {name}").fetchone()[0])

    def _meta(self, key: str) -> int:
        row = self._db.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
        return int(row[0])

    def _next(self, key: str) -> int:
        """The next number: larger than all before, also where this file was lost or an old copy of it was put back,
        since it begins with the seconds of the wall clock."""
        value = max(self._meta(key) + 1, self._clock.wall_ns() // 10**9)
        self._set(key, value)
        return value

    def _set(self, key: str, value: int) -> None:
        self._db.execute("UPDATE meta SET value = ? WHERE key = ?", (value, key))
