"""A scheduler at work: store, hosts, network and requests in one, without ROS."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from user_core.errors import CodecError, LeaseError, StoreError
from user_core.reasons import NO_REASON, STANDS_BY, Reason
from user_core.runtime.clock import Clock
from user_core.runtime.locks import FileLock
from user_fleet.presence.hosts import Hosts, PresenceConfig
from user_fleet.presence.hub import Hub
from user_fleet.presence.requests import RequestHandler
from user_fleet.resources.model import HostReport
from user_fleet.scheduling.scheduler import Scheduler, SchedulerConfig
from user_fleet.scheduling.store import FleetStore

_log = logging.getLogger(__name__)


class WorkingScheduler:
    """Stands by until nobody else works on the file, then works; stands by again when it is fenced.

    Args:
        path: The file.
        open_session: Opens the session to the network, once it is needed.
        name: Name below which it writes.
        decide: When it loses patience.
        presence: When a host counts as away.
        take_over_s: Silence after which it takes over from a scheduler whose process lives; from a
            dead one it does at once.
    """

    def __init__(
        self,
        path: Path,
        open_session: Callable[[], Any],
        *,
        name: str = "scheduler",
        decide: SchedulerConfig | None = None,
        presence: PresenceConfig | None = None,
        take_over_s: float = 5.0,
    ) -> None:
        self.store = FleetStore(path)
        self._open_session, self._name = open_session, name
        self._decide, self._presence = decide or SchedulerConfig(), presence or PresenceConfig()
        self._take_over_s, self._clock = take_over_s, Clock()
        self.hosts: Hosts | None = None
        self._hub: Hub | None = None
        self._requests: RequestHandler | None = None
        self._session: Any = None
        self._lock: FileLock | None = None
        self._noted: dict[str, tuple[str, int]] = {}

    @property
    def works(self) -> bool:
        """Whether it decides; else it stands by."""
        return self._hub is not None

    def step(self) -> Reason:
        """Do what is to do now, a few times a second; returns why it stands by, false when it works."""
        if self._hub is None or self._requests is None or self.hosts is None:
            if not self._may_begin():
                silent_s = self.store.silent_s()
                return Reason(STANDS_BY, f"another scheduler has worked {silent_s:.1f} s ago")
            self._begin()
            return NO_REASON
        try:
            self._requests.answer()
            self._hub.step()
            self._note_hosts(self.hosts)
        except LeaseError as error:
            _log.warning("%s", error)
            self._end()
            return Reason(error.code, str(error))
        return NO_REASON

    def close(self) -> None:
        """End. The grants stay in force; another scheduler may take over at once."""
        self._end()
        self.store.close()

    def _may_begin(self) -> bool:
        """Whether the scheduler that has worked is dead, or has been silent for long."""
        if self._lock is None:
            try:
                self._lock = FileLock(Path(f"{self.store.path}.lock"), "state of the fleet")
            except StoreError:  # a process that lives has it; it may hang
                return self.store.silent_s() >= self._take_over_s
        return True

    def _begin(self) -> None:
        epoch = self.store.take_over()
        scheduler = Scheduler(self.store, self._decide, self._clock)
        hosts = Hosts(self._presence, self._decide.lease_s, self._clock)
        reports = []
        for known in self.store.hosts():
            if known.report is not None:
                try:
                    reports.append(HostReport.from_json(known.report))
                except CodecError as error:  # of an older version: it is asked for anew
                    _log.warning("report of %s: %s", known.name, error)
        names = {grant.resource.partition("/")[0] for grant in self.store.grants()}
        hosts.expect({*names, *(known.name for known in self.store.hosts())}, reports)
        self._session = self._open_session()
        self._hub = Hub(self._session, scheduler, hosts, epoch, name=self._name, clock=self._clock)
        self._requests = RequestHandler(scheduler, hosts, self._hub.log_part)
        self.hosts, self._noted = hosts, {}
        self._hub.start()
        _log.info("works, with token %d", epoch)

    def _end(self) -> None:
        if self._requests is not None:
            self._requests.close()
        if self._hub is not None:
            self._hub.close()
        if self._session is not None:
            self._session.close()
        self._hub = self._requests = self._session = self.hosts = None
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def _note_hosts(self, hosts: Hosts) -> None:
        changed = []
        for state in hosts.states():
            why = hosts.why_away(state) or hosts.why_wrong(state)
            number = state.report.sequence if state.report is not None else 0
            if self._noted.get(state.host) != (why.code, number):
                changed.append((state, why, number))
        if not changed:
            return
        with self.store.transaction():
            for state, why, number in changed:
                data = state.report.to_json() if state.report is not None else None
                self.store.note_host(state.host, why.code or "here", why.text, data)
                self._noted[state.host] = (why.code, number)
