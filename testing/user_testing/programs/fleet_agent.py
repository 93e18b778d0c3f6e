"""Program: the agents of one or more hosts, each with a robot and cores that are made up.

    fleet_agent ENDPOINT HOST... [--credentials DIR] [--as HOST] [--clock-offset SECONDS] [--state DIR] [--alone SECONDS]

With ``--start`` it runs what grants are for, ``set.command`` of a role's ``run``, by a shell, with the variable
FENCING; it goes on for ``--alone`` seconds without an agent.

Prints a line for each change of what it is told and for each new reason why it refuses something, and at the end how
often. ``--as`` speaks under the key of another host than it names: a forger.
"""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil

from user_comm.net.sessions import ZenohConfig, open_session
from user_core.command_line import Parser
from user_core.runtime.clock import Clock
from user_fleet.presence import agent as agents
from user_fleet.presence.agent import Agent, Bookings, Runner
from user_fleet.presence.launcher import Launcher
from user_fleet.presence.messages import Granted, heartbeat_key
from user_fleet.resources.model import HostReport, Resource


class OffClock(Clock):
    """A clock of which the wall is off."""

    def __init__(self, offset_s: float) -> None:
        self._offset_ns = int(offset_s * 1e9)

    def wall_ns(self) -> int:
        return super().wall_ns() + self._offset_ns


class Told:
    """Prints what it is told, where that is new, and passes it on."""

    def __init__(self, host: str, runner: Runner) -> None:
        self._host, self._runner = host, runner
        self._grants: tuple[Granted, ...] = ()
        self.given_back, self.done, self.failed = runner.given_back, runner.done, runner.failed
        self.log = runner.log

    def apply(self, grants: Sequence[Granted]) -> None:
        if tuple(grants) != self._grants:
            words = [f"{grant.fencing}:{grant.resource}:{grant.experiment}" for grant in grants]
            print("told", self._host, *words, flush=True)
        self._grants = tuple(grants)
        self._runner.apply(grants)


def shell(one: Granted, others: Sequence[Granted]) -> tuple[list[str], dict[str, str]]:
    assert one.run is not None
    return ["sh", "-c", one.run.set["command"]], {
        "FENCING": str(one.fencing),
        "HOST": one.resource.partition("/")[0],
    }


def report_of(host: str, life: str) -> HostReport:
    resources = (
        Resource(id=f"{host}/robot/arm", kind="robot", site="hall", joints=7, tags=("cell-a",)),
        Resource(id=f"{host}/cpu/cpu", kind="cpu", site="hall", amounts={"cores": 8}),
        Resource(id=f"{host}/host/{host}", kind="host", site="hall"),
    )
    return HostReport(host=host, site="hall", life=life, sequence=1, resources=resources)


def main() -> None:
    parser = Parser()
    parser.add_argument("endpoint")
    parser.add_argument("hosts", nargs="+")
    parser.add_argument("--credentials", default="")
    parser.add_argument("--as", dest="speaks_as", default="")
    parser.add_argument("--clock-offset", type=float, default=0.0)
    parser.add_argument("--state", type=Path)
    parser.add_argument("--start", action="store_true")
    parser.add_argument("--alone", type=float, default=30.0)
    arguments = parser.parse_args()
    ending = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ending.set())
    if arguments.speaks_as:
        agents.heartbeat_key = lambda host: heartbeat_key(arguments.speaks_as)  # type: ignore[assignment]
    config = ZenohConfig(
        connect=(arguments.endpoint,), credentials=arguments.credentials, shared_memory=False
    )
    with open_session(config, ending) as session:
        made: list[Agent] = []
        launchers: list[Launcher] = []
        for host in arguments.hosts:
            life = f"{host}-life-{psutil.Process().pid}"
            state = arguments.state / f"{host}.json" if arguments.state else None
            runner: Any = Bookings()
            if arguments.start:
                uses = arguments.state / f"uses_{host}"
                runner = Launcher(shell, uses, stop_s=5.0, alone_s=arguments.alone)
                launchers.append(runner)
            agent = Agent(
                session, lambda host=host, life=life: report_of(host, life), host=host, life=life,
                runner=Told(host, runner), clock=OffClock(arguments.clock_offset), state_file=state,
            )  # fmt: skip
            agent.start()
            made.append(agent)
        print("there", flush=True)
        heard: set[tuple[str, str]] = set()
        while not ending.wait(0.05):
            new = {(agent.host, why) for agent in made for why in list(agent.refused)} - heard
            heard |= new
            for host, why in sorted(new):
                print("refuses", host, why, flush=True)
        for agent in made:
            agent.close()
            for why, count in agent.refused.items():
                print("refused", agent.host, count, why, flush=True)
        for launcher in launchers:
            launcher.close()


if __name__ == "__main__":
    sys.exit(main())
