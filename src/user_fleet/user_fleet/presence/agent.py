"""The agent of a host: says what the host has and that it is there, and does what its scheduler tells it."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol

from user_core.errors import CodecError
from user_core.runtime.clock import Clock
from user_core.runtime.files import write_atomically
from user_fleet.presence.messages import (
    LOG_PART_BYTES,
    Assignment,
    Failure,
    Granted,
    Heartbeat,
    LogPart,
    alive_key,
    assignment_key,
    heartbeat_key,
    log_key,
    report_key,
)
from user_fleet.resources.model import HostReport

_log = logging.getLogger(__name__)


class Runner(Protocol):
    """Does on this host what grants are for."""

    def apply(self, grants: Sequence[Granted]) -> None:
        """These are in force now, and no others. Returns at once."""

    def given_back(self) -> Iterable[int]:
        """Of those in force, the numbers of those whose use has ended."""

    def done(self) -> Iterable[int]:
        """Of those in force, the numbers of those whose use is over, by itself and well."""

    def failed(self) -> Iterable[tuple[int, str]]:
        """Of those in force, the numbers of those whose use has failed, and how."""

    def log(self, fencing: int) -> Path | None:
        """The file with what was printed for a grant, also one of before; None: there is none."""


class Bookings:
    """A runner that starts nothing: grants are bookings, for people who start things by themselves.

    What is asked back is given back at once: nothing of ours runs on it.
    """

    def __init__(self) -> None:
        self.grants: tuple[Granted, ...] = ()

    def apply(self, grants: Sequence[Granted]) -> None:
        """Remember them."""
        self.grants = tuple(grants)

    def given_back(self) -> Iterable[int]:
        """All that are asked back."""
        return [grant.fencing for grant in self.grants if grant.yields]

    def done(self) -> Iterable[int]:
        """None: people say so, with `user fleet finish`."""
        return ()

    def failed(self) -> Iterable[tuple[int, str]]:
        """None."""
        return ()

    def log(self, fencing: int) -> Path | None:
        """None."""
        return None


class Obedience:
    """Which scheduler an agent obeys: the one with the largest token that it ever heard, also after a restart.

    Args:
        file: Where the token is remembered; None: nowhere.
    """

    def __init__(self, file: Path | None = None) -> None:
        self._file = file
        self.epoch = self.sequence = 0
        if file is not None:
            with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
                self.epoch = int(json.loads(file.read_text(encoding="utf-8"))["epoch"])

    def why_not(self, told: Assignment, host: str, life: str) -> str:
        """Why an assignment is not obeyed; empty when it is, and then an older one is not any more."""
        if told.host != host:
            return f"an assignment for {told.host!r}"
        if told.life != life:
            return "an assignment for another agent of this name"
        if told.epoch < self.epoch:
            return f"a scheduler with token {told.epoch}, after one with {self.epoch}"
        if told.epoch == self.epoch and told.sequence < self.sequence:
            return "an old assignment again"
        if told.epoch > self.epoch and self._file is not None:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(self._file, json.dumps({"epoch": told.epoch}))
        self.epoch, self.sequence = told.epoch, told.sequence
        return ""


class Agent:
    """Presence of one host on a network.

    Args:
        session: An open Zenoh session; it stays open.
        report: Looks at the host; called in a thread of its own, since it may take seconds.
        host: Name of the host.
        life: Identity of this life, as reports have it.
        scheduler: Name below which the scheduler writes.
        runner: Does what grants are for.
        state_file: Where the newest scheduler's token is remembered.
        heartbeat_s: Time between two heartbeats.
        look_s: Time between two looks at the host.
        clock: Tells the time.
    """

    def __init__(
        self,
        session: Any,
        report: Callable[[], HostReport],
        *,
        host: str,
        life: str,
        scheduler: str = "scheduler",
        runner: Runner | None = None,
        state_file: Path | None = None,
        heartbeat_s: float = 0.5,
        look_s: float = 2.0,
        clock: Clock | None = None,
    ) -> None:
        self.host, self.life, self.runner = host, life, runner or Bookings()
        self.refused: Counter[str] = Counter()
        self.newest: HostReport | None = None
        self._session, self._look, self._clock = session, report, clock or Clock()
        self._scheduler = scheduler
        self._heartbeat_s, self._look_s = heartbeat_s, look_s
        self._obeys = Obedience(state_file)
        self._assignment = 0
        self._sequence = self._report_number = 0
        self._data = b""
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self._declared: list[Any] = []
        self._threads: list[threading.Thread] = []

    def start(self) -> None:
        """Be there from now on."""
        session = self._session
        self._declared = [
            session.declare_queryable(report_key(self.host), self._answer),
            session.declare_queryable(log_key(self.host), self._answer_log),
            session.declare_subscriber(
                assignment_key(self._scheduler, self.host), self._on_assignment
            ),
            session.liveliness().declare_token(alive_key(self.host, self.life)),
        ]
        for name, loop in (("heartbeat", self._beat), ("inventory", self._look_again)):
            thread = threading.Thread(target=loop, name=f"{name} of {self.host}", daemon=True)
            thread.start()
            self._threads.append(thread)

    def close(self) -> None:
        """Be gone. Idempotent."""
        self._closing.set()
        for declared in reversed(self._declared):
            with contextlib.suppress(Exception):  # of a session that is closed already
                declared.undeclare()
        self._declared = []
        for thread in self._threads:
            thread.join(timeout=5.0)
        self._threads = []

    @property
    def obeys(self) -> tuple[int, int]:
        """Token of the scheduler that is obeyed, and the number of its assignment."""
        with self._lock:
            return self._obeys.epoch, self._assignment

    def _beat(self) -> None:
        publisher = self._session.declare_publisher(heartbeat_key(self.host))
        due_s = time.monotonic()
        while not self._closing.is_set():
            try:
                publisher.put(self._heartbeat().to_json())
            except Exception as error:  # whatever the session does, the next one may arrive
                _log.warning("heartbeat of %s: %s", self.host, error)
            due_s = max(due_s + self._heartbeat_s, time.monotonic())
            self._closing.wait(due_s - time.monotonic())
        with contextlib.suppress(Exception):
            publisher.undeclare()

    def _heartbeat(self) -> Heartbeat:
        given_back = tuple(self.runner.given_back())[:256]
        done = tuple(self.runner.done())[:256]
        failed = tuple(Failure(fencing=n, text=t[:500]) for n, t in self.runner.failed())[:256]
        with self._lock:
            self._sequence += 1
            return Heartbeat(
                host=self.host, life=self.life, sequence=self._sequence,
                wall_ns=self._clock.wall_ns(), report=self._report_number,
                epoch=self._obeys.epoch, assignment=self._assignment,
                given_back=given_back, done=done, failed=failed,
            )  # fmt: skip

    def _look_again(self) -> None:
        said: object = None
        while not self._closing.is_set():
            try:
                report = self._look()
                # What changes all the time is no news: free memory, load.
                news = tuple((r.id, r.health, r.reason, r.tags, r.spec) for r in report.resources)
                if (news, report.problems, report.address) != said:
                    data = report.to_json()
                    with self._lock:
                        self.newest, self._data = report, data
                        self._report_number = report.sequence
                    said = (news, report.problems, report.address)
            except Exception:  # a host that cannot be looked at is still there
                _log.exception("inventory of %s", self.host)
            self._closing.wait(self._look_s)

    def _answer(self, query: Any) -> None:
        with self._lock:
            data = self._data
        with query:
            if data:
                query.reply(report_key(self.host), data)

    def _answer_log(self, query: Any) -> None:
        with query:
            try:
                asked = dict(query.parameters)
                fencing, offset = int(asked["fencing"]), int(asked.get("offset", 0))
                part = self._log_part(fencing, offset)
            except Exception as error:  # who asks is told, whatever it is
                query.reply_err(f"{type(error).__name__}: {error}".encode())
                return
            if part is None:
                query.reply_err(f"{self.host} has started nothing for grant {fencing}".encode())
            else:
                query.reply(log_key(self.host), part.to_json())

    def _log_part(self, fencing: int, offset: int) -> LogPart | None:
        file = self.runner.log(fencing)
        if file is None:
            return None
        with file.open("rb") as stream:
            size = stream.seek(0, os.SEEK_END)
            begin = max(0, size + offset) if offset < 0 else min(offset, size)
            stream.seek(begin)
            data = stream.read(LOG_PART_BYTES)
        cut = data
        if begin + len(data) < size and b"\n" in data:  # whole lines, as long as there is more
            cut = data[: data.rindex(b"\n") + 1]
        return LogPart(
            fencing=fencing, offset=begin, size=size, end=begin + len(cut),
            text=cut.decode(errors="replace"),
        )  # fmt: skip

    def _on_assignment(self, sample: Any) -> None:
        try:
            told = Assignment.from_json(sample.payload.to_bytes())
        except CodecError as error:
            self.refused[f"no assignment: {error.what}"[:200]] += 1
            return
        with self._lock:
            why = self._obeys.why_not(told, self.host, self.life)
            if why:
                self.refused[why] += 1
                return
            self._assignment = told.sequence
        try:
            self.runner.apply(told.grants)
        except Exception:  # of what it starts; heartbeats must go on
            _log.exception("grants of %s", self.host)
