"""The scheduler's side of the network: hears hosts, fetches their reports, tells them what they are to do."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Sequence
from typing import Any

from user_core.config import to_mapping
from user_core.errors import CodecError, SuiteError, TransportError
from user_core.runtime.clock import Clock
from user_fleet.presence.hosts import Hosts
from user_fleet.presence.messages import (
    MAX_MESSAGE_BYTES,
    Assignment,
    Granted,
    LogPart,
    alive_key,
    assignment_key,
    heartbeat_key,
    log_key,
    report_key,
)
from user_fleet.presence.peers import Place, peers_of
from user_fleet.resources.model import MAX_REPORT_BYTES
from user_fleet.scheduling.experiment import Run
from user_fleet.scheduling.scheduler import Scheduler
from user_fleet.scheduling.store import Entry, Grant

_log = logging.getLogger(__name__)
_FETCH_S = 2.0
_REPEAT_S = 2.0
_ALIVE_S = 1.0


def runs_of(entry: Entry, grants: Sequence[Grant]) -> dict[int, Run]:
    """What is started for which grants of an experiment: for GPUs of one process, with the first."""
    found: dict[int, Run] = {}
    seen: set[str] = set()
    for grant in sorted(grants, key=lambda g: g.fencing):
        role = entry.experiment.roles[grant.role]
        option = role.first_of[entry.options.get(grant.role, 0)]
        if role.run is not None and not (option.on_one_host and grant.role in seen):
            found[grant.fencing] = role.run
        seen.add(grant.role)
    return found


#: What a host was told: its agent's life, and the grants.
_News = tuple[str, tuple[Granted, ...]]


class Hub:
    """Connects a scheduler with the hosts of a network.

    Args:
        session: An open Zenoh session; it stays open.
        scheduler: Decides; it has taken its store over.
        hosts: Knows who is there.
        epoch: Token of the scheduler.
        name: Name below which it writes.
        clock: Tells the time.
    """

    def __init__(
        self, session: Any, scheduler: Scheduler, hosts: Hosts, epoch: int,
        *, name: str = "scheduler", clock: Clock | None = None,
    ) -> None:  # fmt: skip
        self.scheduler, self.hosts, self.epoch, self.name = scheduler, hosts, epoch, name
        self._session, self._clock = session, clock or Clock()
        self._closing = threading.Event()
        self._published: dict[str, tuple[int, _News | None, float]] = {}
        self._sequence = 0
        self._declared: list[Any] = []
        self._fetcher = threading.Thread(target=self._fetch, name="reports", daemon=True)
        self._alive_s = 0.0

    def start(self) -> None:
        """Hear hosts from now on."""
        session = self._session
        self._declared = [
            session.declare_subscriber(heartbeat_key("*"), self._heard),
            session.liveliness().declare_subscriber(alive_key("*", "*"), self._token, history=True),
        ]
        self._fetcher.start()

    def close(self) -> None:
        """Hear nobody any more. Idempotent."""
        self._closing.set()
        for declared in reversed(self._declared):
            with contextlib.suppress(Exception):  # of a session that is closed already
                declared.undeclare()
        self._declared = []
        if self._fetcher.is_alive():
            self._fetcher.join(timeout=5.0)

    def step(self) -> None:
        """Take in what hosts have said, decide, and tell them. A few times a second.

        Raises:
            LeaseError: Another scheduler has taken over.
        """
        now_s = self._clock.monotonic_ns() * 1e-9
        if now_s - self._alive_s >= _ALIVE_S:
            self.scheduler.store.say_alive()
            self._alive_s = now_s
        for state in self.hosts.states():
            if state.epoch != self.epoch or state.sequence == state.told:
                continue  # it obeys another, or has said nothing new
            state.told = state.sequence
            if not (state.given_back or state.failed):
                continue
            mine = {g.fencing for g in self._granted(state.host)}
            back = [number for number in state.given_back if number in mine]
            if back:
                self.scheduler.given_back(back)
            for failure in state.failed:
                if failure.fencing in mine:
                    self.scheduler.failed(failure.fencing, failure.text)
        self._end_what_is_done()
        self.scheduler.step(self.hosts.view())
        self._tell(now_s)

    def _end_what_is_done(self) -> None:
        """An experiment is done when all that was started for it has ended well."""
        done = {n for state in self.hosts.states() if state.epoch == self.epoch for n in state.done}
        if not done:
            return
        store = self.scheduler.store
        for entry in store.entries("running"):
            mine = [g for g in store.grants() if g.experiment == entry.experiment.name]
            last = entry.experiment.done_with
            started = {g.fencing for g in mine if not last or g.role in last}
            started &= runs_of(entry, mine).keys()
            if started and started <= done:
                self.scheduler.finished(entry.experiment.name)

    def _granted(self, host: str) -> list[Grant]:
        start = f"{host}/"
        return [g for g in self.scheduler.store.grants() if g.resource.startswith(start)]

    def _tell(self, now_s: float) -> None:
        lives = {state.host: state.life for state in self.hosts.states() if state.life}
        by_host: dict[str, list[Granted]] = {host: [] for host in lives}
        grants_now = self.scheduler.store.grants()
        runs: dict[int, Run] = {}
        peers: dict[int, dict[str, str]] = {}
        reports = {s.host: s.report for s in self.hosts.states() if s.report is not None}
        places = {host: Place(report.address, report.site) for host, report in reports.items()}
        for entry in self.scheduler.store.entries("running", "ending"):
            name = entry.experiment.name
            mine = [g for g in grants_now if g.experiment == name]
            started = runs_of(entry, mine)
            runs.update(started)
            for number, run in started.items():
                peers[number] = peers_of(run, mine, started, places)
        for grant in grants_now:
            host = grant.resource.partition("/")[0]
            if host in by_host:
                by_host[host].append(
                    Granted(
                        fencing=grant.fencing, resource=grant.resource,
                        experiment=grant.experiment, role=grant.role, yields=grant.yields,
                        run=runs.get(grant.fencing), peers=peers.get(grant.fencing, {}),
                    )
                )  # fmt: skip
        for host, grants in by_host.items():
            news = (lives[host], tuple(grants))
            sequence, said, at_s = self._published.get(host, (0, None, -1e9))
            if news != said:
                self._sequence += 1
                sequence = self._sequence
            elif now_s - at_s < _REPEAT_S:  # again and again, since nobody tells what is lost
                continue
            self._published[host] = (sequence, news, now_s)
            told = Assignment(
                host=host, life=news[0], epoch=self.epoch, sequence=sequence, grants=news[1]
            )
            try:
                self._session.put(assignment_key(self.name, host), told.to_json())
            except Exception as error:  # of the session; it is said again
                _log.warning("telling %s: %s", host, error)

    def log_part(self, host: str, fencing: int, offset: int) -> dict[str, Any]:
        """A part of what a host has printed for a grant; from any thread. An offset below 0 counts from the end.

        Raises:
            TransportError: The host does not answer.
            CodecError: It has none, or answers nonsense.
        """
        asked = f"{log_key(host)}?fencing={fencing};offset={offset}"
        for reply in self._session.get(asked, timeout=_FETCH_S):
            if reply.ok is None:
                text = reply.err.payload.to_bytes().decode(errors="replace") if reply.err else ""
                raise CodecError(f"log of grant {fencing} of {host}", got=text[:300])
            if str(reply.ok.key_expr) == log_key(host):
                return to_mapping(LogPart.from_json(reply.ok.payload.to_bytes()))
        raise TransportError(
            f"log of grant {fencing}", got=f"no answer of {host} within {_FETCH_S:g} s",
            hint="Its agent has ended, or the host is out of reach; the file is in its folder fleet/uses",
        )  # fmt: skip

    def _heard(self, sample: Any) -> None:
        host = str(sample.key_expr).partition("/")[0]
        payload = sample.payload
        if len(payload) > MAX_MESSAGE_BYTES:  # it is not even copied
            self.hosts.refused[host, "a heartbeat that is too large"] += 1
            return
        self.hosts.heartbeat(host, payload.to_bytes())

    def _token(self, sample: Any) -> None:
        host, _, life = (str(sample.key_expr)).partition("/fleet/alive/")
        if str(sample.kind).lower().endswith("delete"):
            self.hosts.token_gone(host, life)

    def _fetch(self) -> None:
        while not self._closing.wait(0.2):
            for host in self.hosts.without_report():
                if self._closing.is_set():
                    return
                try:
                    self._fetch_one(host)
                except SuiteError as error:
                    _log.warning("report of %s: %s", host, error)
                except Exception as error:  # of the session
                    _log.warning("report of %s: %s", host, error)
                    time.sleep(0.1)

    def _fetch_one(self, host: str) -> None:
        for reply in self._session.get(report_key(host), timeout=_FETCH_S):
            if reply.ok is None or str(reply.ok.key_expr) != report_key(host):
                continue
            payload = reply.ok.payload
            if len(payload) > MAX_REPORT_BYTES:
                self.hosts.refused[host, "a report that is too large"] += 1
            else:
                self.hosts.reported(host, payload.to_bytes())
