"""A scheduler and its hosts as processes, over real Zenoh sessions."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from user_comm.net.network import Network
from user_core.config import to_mapping
from user_core.reasons import NO_REASON, Reason
from user_fleet.scheduling.experiment import Experiment
from user_fleet.scheduling.store import FleetStore
from user_testing.ports import free_port
from user_testing.processes import Process
from user_testing.waiting import wait_until


class FleetWorld:
    """A router, a scheduler, hosts, and somebody who reads the scheduler's file."""

    def __init__(self, folder: Path, network: Network | None = None) -> None:
        self.folder, self.network = folder, network
        self.port = free_port()
        self.endpoint = f"tcp/127.0.0.1:{self.port}"
        self.file = folder / "fleet.sqlite"
        words = ["--listen", self.endpoint]
        if network is not None:
            self.endpoint = network.members.endpoints[0]
            words = ["--network", str(network.folder)]
        self.processes: list[Process] = []
        self.router = self.start("router", ["-m", "user_comm.nodes.router", *words])
        wait_until(lambda: "listening" in self.router.log, seen=lambda: self.router.log)
        self.scheduler = self.start_scheduler("scheduler")
        self.works(self.scheduler)
        self.store = FleetStore(self.file)

    def start(self, name: str, words: list[str]) -> Process:
        process = Process([sys.executable, *words], self.folder / f"{name}.log").start()
        self.processes.append(process)
        return process

    def start_scheduler(self, name: str, *words: str) -> Process:
        who = self._credentials("learner", "scheduler")
        program = ["-m", "user_testing.programs.fleet_scheduler", str(self.file), self.endpoint]
        return self.start(name, [*program, *who, *words])

    def agent(self, host: str, *words: str, endpoint: str = "", name: str = "") -> Process:
        who = self._credentials("robot", name or host)
        program = ["-m", "user_testing.programs.fleet_agent", endpoint or self.endpoint, host]
        state = ["--state", str(self.folder / "state")]
        return self.start(name or f"agent_{host}", [*program, *who, *state, *words])

    def _credentials(self, role: Any, name: str) -> list[str]:
        if self.network is None:
            return []
        return ["--credentials", str(self.network.credentials(role, name).folder)]

    def works(self, scheduler: Process) -> None:
        wait_until(lambda: "works" in scheduler.log.split(), seen=lambda: scheduler.log)

    def state(self, host: str) -> str:
        return next((known.state for known in self.store.hosts() if known.name == host), "")

    def is_there(self, *hosts: str) -> None:
        def all_are() -> bool:
            here = {k.name for k in self.store.hosts() if k.state == "here" and k.report}
            return here >= set(hosts)

        wait_until(all_are, f"{hosts} are there", seen=self.store.hosts)

    def why(self, experiment: str) -> Reason:
        """Why an experiment waits, once it does."""

        def reason() -> Reason:
            entry = self.store.find(experiment)
            return entry.reason if entry is not None else NO_REASON

        found: Reason = wait_until(reason, f"why {experiment} waits")
        return found

    def becomes(self, host: str, state: str) -> None:
        wait_until(
            lambda: self.state(host) == state, f"{host} is {state}", seen=lambda: self.state(host)
        )

    def ask(self, **request: Any) -> dict[str, Any]:
        number = self.store.ask(request)
        answer: dict[str, Any] = wait_until(
            lambda: self.store.answer_of(number), f"an answer to {request}"
        )
        return answer

    def submit(self, name: str, count: int) -> None:
        roles = {"robots": {"kind": "robot", "count": count}}
        experiment = to_mapping(Experiment(name=name, roles=roles))
        assert self.ask(do="submit", experiment=experiment)["ok"]

    def grants(self, experiment: str) -> dict[str, int]:
        return {g.resource: g.fencing for g in self.store.grants() if g.experiment == experiment}

    def close(self) -> None:
        self.store.close()
        for process in self.processes:
            process.close()


def told(agent: Process, *numbers: int) -> bool:
    """Whether an agent was told of exactly these grants last."""
    lines = [line.split() for line in agent.log.splitlines() if line.startswith("told")]
    return bool(lines) and {int(w.partition(":")[0]) for w in lines[-1][2:]} == set(numbers)
