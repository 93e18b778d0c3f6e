"""Which hosts are there: what follows from tokens, heartbeats and silence.

A token that goes is a hint: it makes what the agent has just said doubtful at once. Heartbeats decide: a
host is there again as soon as one comes, and *unreachable* when none has come for a while, whether it is dead or behind
a cut, which nobody can tell from here. What it holds stays its own until its lease has run out.

What cannot be true is refused, counted by who is said to have said it, and named; nobody else is affected.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from user_core.config import Config, setting
from user_core.errors import CodecError
from user_core.reasons import (
    CLOCK_OFF,
    HOST_GONE,
    HOST_UNREACHABLE,
    NO_REASON,
    TWO_AGENTS,
    Reason,
)
from user_core.runtime.clock import Clock
from user_fleet.presence.messages import Failure, Heartbeat
from user_fleet.resources.model import HostReport, Resource
from user_fleet.scheduling.scheduler import FleetView

_MOST_HOSTS = 10_000
_MOST_REFUSALS = 1000


class PresenceConfig(Config):
    """When a host counts as away."""

    heartbeat_s: float = setting(0.5, doc="Time between two heartbeats.", unit="s", gt=0, le=60)
    unreachable_s: float = setting(
        1.6, doc="Silence after which a host is unreachable.", unit="s", gt=0
    )
    max_clock_offset_s: float = setting(
        5.0, doc="Difference of the clocks from which on a host is given nothing.", unit="s", gt=0
    )


@dataclass
class HostState:
    """What is known of one host.

    Attributes:
        host: Its name.
        life: Identity of its agent; empty while nothing was heard.
        heard_ns: When it was heard last, by our monotonic clock.
        sequence: Number of its last heartbeat.
        wanted_report: Number of its newest report.
        report: The report that was fetched last.
        clock_offset_s: Its clock minus ours.
        token_gone: Its token has gone, and nothing was heard since.
        rival: Life of another agent that uses the same name.
        rival_ns: When that was heard last.
        epoch: Token of the scheduler that it obeys.
        assignment: Number of the assignment that it carries out.
    """

    host: str
    life: str = ""
    heard_ns: int = 0
    sequence: int = 0
    wanted_report: int = 0
    report: HostReport | None = None
    clock_offset_s: float = 0.0
    token_gone: bool = False
    rival: str = ""
    rival_ns: int = 0
    epoch: int = 0
    assignment: int = 0
    given_back: tuple[int, ...] = ()
    done: tuple[int, ...] = ()
    failed: tuple[Failure, ...] = ()
    told: int = field(default=0, repr=False)


class Hosts:
    """The hosts of a fleet. Its methods may be called from several threads.

    Args:
        config: When one counts as away.
        lease_s: Silence after which a host has lost its grants.
        clock: Tells the time.
    """

    def __init__(
        self,
        config: PresenceConfig | None = None,
        lease_s: float = 30.0,
        clock: Clock | None = None,
    ) -> None:
        self.config, self._lease_s = config or PresenceConfig(), lease_s
        self._clock = clock or Clock()
        self._lock = threading.Lock()
        self._hosts: dict[str, HostState] = {}
        #: What was refused: by whom it is said to be, and why; how often.
        self.refused: Counter[tuple[str, str]] = Counter()

    def expect(self, hosts: Iterable[str], reports: Iterable[HostReport] = ()) -> None:
        """Know of hosts from before: their leases run from now on, until they are heard."""
        with self._lock:
            by_host = {report.host: report for report in reports}
            for host in {*hosts, *by_host}:
                state = HostState(host, heard_ns=self._clock.monotonic_ns(), token_gone=True)
                state.report = by_host.get(host)
                self._hosts.setdefault(host, state)

    def heartbeat(self, host: str, data: bytes) -> None:
        """A heartbeat came under the key of a host."""
        try:
            said = Heartbeat.from_json(data)
        except CodecError as error:
            self._refuse(host, f"no heartbeat: {error.what}")
            return
        if said.host != host:
            self._refuse(host, f"a heartbeat that names {said.host!r}")
            return
        now_ns = self._clock.monotonic_ns()
        with self._lock:
            state = self._hosts.get(host)
            if state is None:
                if len(self._hosts) >= _MOST_HOSTS:
                    self.refused["", "more hosts than can be"] += 1
                    return
                state = self._hosts[host] = HostState(host)
            if said.life != state.life:
                if state.life and not self._is_silent(state, now_ns) and not state.token_gone:
                    state.rival, state.rival_ns = said.life, now_ns
                    self._count(host, f"another agent of this name, {said.life[:8]}")
                    return
                state.life, state.sequence, state.told = said.life, 0, 0
                state.epoch = state.assignment = 0
                state.done = ()
            if said.sequence <= state.sequence:
                self._count(host, "an old heartbeat again")
                return
            state.heard_ns, state.token_gone, state.sequence = now_ns, False, said.sequence
            state.clock_offset_s = (said.wall_ns - self._clock.wall_ns()) * 1e-9
            state.wanted_report = said.report
            state.epoch, state.assignment = said.epoch, said.assignment
            state.given_back, state.done, state.failed = said.given_back, said.done, said.failed

    def token_gone(self, host: str, life: str) -> None:
        """The token of an agent is gone: a hint."""
        with self._lock:
            state = self._hosts.get(host)
            if state is not None and state.life == life:
                state.token_gone = True

    def reported(self, host: str, data: bytes) -> None:
        """The report of a host came, for which it was asked."""
        try:
            report = HostReport.from_json(data)
        except CodecError as error:
            self._refuse(host, f"no report: {error.what}")
            return
        with self._lock:
            state = self._hosts.get(host)
            if state is None or report.host != host:
                self._count(host, f"a report that names {report.host!r}")
            elif report.life != state.life:
                self._count(host, f"a report of another agent, {report.life[:8]}")
            else:
                state.report = report

    def without_report(self) -> list[str]:
        """Hosts that are there and have a newer report than is known."""
        now_ns = self._clock.monotonic_ns()
        with self._lock:
            return [
                state.host
                for state in self._hosts.values()
                if not self._is_silent(state, now_ns)
                and state.wanted_report
                and (
                    state.report is None
                    or state.report.life != state.life
                    or state.report.sequence < state.wanted_report
                )
            ]

    def why_away(self, state: HostState) -> Reason:
        """Why a host cannot be given anything; false when it can."""
        now_ns = self._clock.monotonic_ns()
        silent_s = (now_ns - state.heard_ns) * 1e-9
        if state.token_gone and state.life:
            return Reason(HOST_GONE, f"the agent of {state.host} has ended or lost its link")
        if not state.life or self._is_silent(state, now_ns):
            return Reason(
                HOST_UNREACHABLE, f"nothing was heard of {state.host} for {silent_s:.0f} s"
            )
        return NO_REASON

    def why_wrong(self, state: HostState) -> Reason:
        """What is wrong with a host that is there; false when nothing is."""
        offset_s = state.clock_offset_s
        if abs(offset_s) > self.config.max_clock_offset_s:
            way = "ahead" if offset_s > 0 else "behind"
            return Reason(CLOCK_OFF, f"the clock of {state.host} is {abs(offset_s):.0f} s {way}")
        rival_s = (self._clock.monotonic_ns() - state.rival_ns) * 1e-9
        if state.rival and rival_s < 10 * self.config.unreachable_s:
            text = f"two agents call themselves {state.host}; the second, {state.rival[:8]}, is refused"
            return Reason(TWO_AGENTS, text)
        return NO_REASON

    def view(self) -> FleetView:
        """What the scheduler is to know."""
        resources: list[Resource] = []
        away: dict[str, Reason] = {}
        lost = set()
        now_ns = self._clock.monotonic_ns()
        for state in self.states():
            if state.report is not None:
                resources += state.report.resources
            wrong = self.why_wrong(state)
            why = self.why_away(state) or (wrong if wrong.code == CLOCK_OFF else NO_REASON)
            if why:
                away[state.host] = why
            if (now_ns - state.heard_ns) * 1e-9 > self._lease_s:
                lost.add(state.host)
        return FleetView(resources, away, frozenset(lost))

    def states(self) -> list[HostState]:
        """All hosts, by name."""
        with self._lock:
            return [self._hosts[name] for name in sorted(self._hosts)]

    def forget(self, host: str) -> bool:
        """Forget a host that is away for good; false when it is there, or not known."""
        with self._lock:
            state = self._hosts.get(host)
            if state is None or not self.why_away(state):
                return False
            del self._hosts[host]
            return True

    def _is_silent(self, state: HostState, now_ns: int) -> bool:
        return (now_ns - state.heard_ns) * 1e-9 > self.config.unreachable_s

    def _refuse(self, host: str, what: str) -> None:
        with self._lock:
            self._count(host, what)

    def _count(self, host: str, what: str) -> None:
        key = (host[:128], what[:200])
        if key in self.refused or len(self.refused) < _MOST_REFUSALS:
            self.refused[key] += 1
        else:
            self.refused["", "more"] += 1
