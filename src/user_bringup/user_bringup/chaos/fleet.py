"""Chaos over a fleet: agents of three robots at two sites, two schedulers, and what an experiment runs.

`user up` runs the fleet itself, a router, two schedulers and an agent a host, as systemd would on
as many machines; the agents run the experiment. All hosts are on this machine, each with a ROS
domain of its own. What a site has reaches the others through two links, one for the fleet's
network and one for data, which are cut together.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from user_bringup.chaos.evidence import Evidence, producers_behind, works_since
from user_bringup.chaos.faults import Link
from user_bringup.chaos.links import FarLink, LinkProcess
from user_bringup.chaos.trial import Trial, word_of
from user_bringup.chaos.verdict import Check
from user_bringup.monitor.history import read_history
from user_bringup.running.prepare import free_port
from user_core.config import to_mapping
from user_fleet.deployment import Deployment, ProcessSpec, load_record
from user_fleet.scheduling.experiment import Experiment
from user_fleet.scheduling.store import FleetStore
from user_hal.runtime.obeyed import Obeyed, out_of_order, overlaps, read_obeyed

#: Robots by the host that has them, and hosts by site. The learner's host is at neither.
SITES: Mapping[str, Mapping[str, str]] = {
    "west": {"west0": "arm0", "west1": "arm1"},
    "east": {"east0": "arm2"},
}
LEARNER_HOST = "hall"
SCHEDULERS = ("scheduler", "scheduler_standby")
_STATE = "fleet.sqlite"
_STOP_S = 30.0


def link_name(site: str) -> str:
    """Of a site's links, in plans and tables."""
    return f"link_{site}"


@dataclass(frozen=True)
class Fleet:
    """A fleet as files, ready for `user up`.

    Attributes:
        file: Its deployment.
        folder: Where its hosts keep what they keep.
        links: What can be cut, by :func:`link_name`.
        domains: ROS domain by host.
    """

    file: Path
    folder: Path
    links: Mapping[str, Sequence[FarLink]]
    domains: Mapping[str, int]

    @property
    def state(self) -> Path:
        """The schedulers' file."""
        return self.folder / _STATE

    def runs(self, host: str) -> Path:
        """Folder of the runs that an agent starts."""
        return self.folder / host / "runs"


@contextmanager
def made_fleet(folder: Path, domains: Sequence[int]) -> Iterator[Fleet]:
    """A fleet with its links open.

    Args:
        folder: Where it may write.
        domains: Five ROS domains: of the schedulers, the robots' hosts, the learner's host.
    """
    fleet_port, data_port = free_port(), free_port()
    robots = {host: arm for hosts in SITES.values() for host, arm in hosts.items()}
    domain, *others = domains
    of_hosts = dict(zip([*robots, LEARNER_HOST], others, strict=True))
    processes: list[dict[str, Any]] = [_router(fleet_port)]
    with ExitStack() as stack:
        links: dict[str, list[FarLink]] = {}
        for site, hosts in SITES.items():
            ends = LinkProcess([("127.0.0.1", fleet_port), ("127.0.0.1", data_port)])
            to_fleet, to_data = stack.enter_context(ends).links
            links[link_name(site)] = [to_fleet, to_data]
            for host, arm in hosts.items():
                about = {
                    "site": site, "tags": ["simulated"], "robots": {arm: {"file": "panda_sim"}},
                    "values": {"data_router": _at(to_data.port)},
                }  # fmt: skip
                processes.append(_agent(folder, host, of_hosts[host], to_fleet.port, about))
        about = {
            "site": LEARNER_HOST, "tags": ["learner"], "values": {"data_router": _at(data_port)},
        }  # fmt: skip
        processes.append(_agent(folder, LEARNER_HOST, of_hosts[LEARNER_HOST], fleet_port, about))
        processes += [_scheduler(folder, name, domain, fleet_port) for name in SCHEDULERS]
        file = folder / "fleet.yaml"
        file.parent.mkdir(parents=True, exist_ok=True)
        document = {"name": "fleet", "standby": False, "processes": processes}
        file.write_text(yaml.safe_dump(document, sort_keys=False), encoding="utf-8")
        yield Fleet(file, folder, links, of_hosts)


def _router(port: int) -> dict[str, Any]:
    return {
        "name": "fleet_router", "package": "user_comm", "executable": "router", "ros": False,
        "lifecycle": False, "arguments": [f"--listen={_at(port)}"],
    }  # fmt: skip


def _agent(
    folder: Path, host: str, domain: int, port: int, about: Mapping[str, Any]
) -> dict[str, Any]:
    (folder / host).mkdir(parents=True, exist_ok=True)
    file = folder / host / "host.yaml"
    text = yaml.safe_dump({"host": host, "drivers": [], "folder": str(folder / host), **about})
    file.write_text(text, encoding="utf-8")
    return {
        "name": f"agent_{host}", "package": "user_fleet", "executable": "resource_agent",
        "namespace": f"/{host}", "host": host, "stop_timeout_s": _STOP_S + 15.0,
        "environment": {"ROS_DOMAIN_ID": str(domain)},
        "parameters": {
            "autostart": True, "host_file": str(file), "name": host, "start_experiments": True,
            "look_at_graph": False, "stop_s": _STOP_S, "state_dir": str(folder / host / "agent"),
            "zenoh": {"connect": [_at(port)], "shared_memory": False},
        },
    }  # fmt: skip


def _scheduler(folder: Path, name: str, domain: int, port: int) -> dict[str, Any]:
    return {
        "name": name, "package": "user_fleet", "executable": "scheduler", "namespace": "/fleet",
        "environment": {"ROS_DOMAIN_ID": str(domain)},
        "parameters": {
            "autostart": True, "state": str(folder / _STATE),
            "zenoh": {"mode": "client", "listen": [], "connect": [_at(port)], "shared_memory": False},
        },
    }  # fmt: skip


def _at(port: int) -> str:
    return f"tcp/127.0.0.1:{port}"


class FleetTrial(Trial):
    """An experiment on a fleet, and what is done to both.

    Args:
        fleet: Made by :func:`made_fleet`.
        experiment: What it runs.
        folder: Folder of the run.
        evidence: What graph recorders see of it, in all domains.
        tell: Called with a line whenever something happens.
        resource_period_s: How often to record what the processes use; 0: never.
    """

    START_S = 400.0
    ABSENT_S = 120.0  # without its agent, what it runs is ended in good order after a while

    def __init__(
        self,
        fleet: Fleet,
        experiment: Experiment,
        folder: Path,
        evidence: Evidence,
        tell: Callable[[str], None],
        resource_period_s: float = 0.0,
    ) -> None:
        words = [str(fleet.file), "--runs", str(folder.parent), "--run", folder.name]
        super().__init__(words, folder, evidence, tell, resource_period_s)
        self.fleet, self.experiment = fleet, experiment
        self.runs: dict[str, Path] = {}
        self._own: dict[str, tuple[ProcessSpec, Sequence[ProcessSpec]]] = {}
        self._store: FleetStore | None = None
        self._all_here_s = self._next_here_s = 0.0
        self._first_active_s: dict[tuple[str, float], float] = {}
        self.state_at_end = ""

    def start(self) -> None:
        """Start the fleet, submit the experiment, and wait until everything works."""
        begun_s = self._begin()
        hosts = set(self.fleet.domains)
        while self._hosts_here() < hosts:
            self._must_go_on(begun_s, f"all of {sorted(hosts)} are here")
        self.tell(f"all hosts are here after {time.monotonic() - begun_s:.1f} s")
        self._ask({"do": "submit", "experiment": to_mapping(self.experiment)}, begun_s)
        while len(self.runs) < sum(len(h) for h in SITES.values()) + 1:
            self._must_go_on(begun_s, f"the experiment runs; so far {sorted(self.runs)}")
            self._find_runs()
        self._take_in()
        self._wait_for_all(begun_s, begun_s)

    def end(self, timeout_s: float = 90.0) -> list[str]:
        """Cancel the experiment, wait until nothing of it runs, and end the fleet."""
        if self._process is not None and self._process.poll() is None:
            store = self._fleet_store()
            entry = store.find(self.experiment.name) if store is not None else None
            if store is not None and entry is not None:
                self.state_at_end = f"{entry.state} {entry.reason}".strip()
                store.ask({"do": "cancel", "name": self.experiment.name})
                give_up_s = time.monotonic() + timeout_s
                while time.monotonic() < give_up_s and self._run_processes():
                    time.sleep(0.5)
        left = super().end(timeout_s)
        if self._store is not None:
            self._store.close()
        return left

    # --- the parts ---------------------------------------------------------------------------

    def _fleet_store(self) -> FleetStore | None:
        if self._store is None and self.fleet.state.exists():
            self._store = FleetStore(self.fleet.state)
        return self._store

    def _hosts_here(self) -> set[str]:
        store = self._fleet_store()
        known = store.hosts() if store is not None else []
        return {host.name for host in known if host.state == "here"}

    def _ask(self, request: dict[str, Any], begun_s: float) -> None:
        store = self._fleet_store()
        assert store is not None
        number = store.ask(request)
        while store.answer_of(number) is None:
            self._must_go_on(begun_s, f"an answer to {request['do']}")

    def _find_runs(self) -> None:
        for host in self.fleet.domains:
            for file in self.fleet.runs(host).glob("*/deployment.yaml"):
                self.runs[host] = file.parent

    def _take_in(self) -> None:
        """What the agents run becomes part of what may be hit, under the name of its host."""
        assert self.deployment is not None
        time.sleep(1.0)  # the file is written whole; the last run has just begun
        everything = list(self.deployment.processes)
        for host, folder in self.runs.items():
            specs = load_record(folder / "deployment.yaml").processes
            for spec in specs:
                name = f"{host}_{spec.name}"
                self._files[word_of(spec, specs, folder)] = name
                self._own[name] = (spec, specs)
                everything.append(spec.replace(name=name, host=host, depends_on=()))
        self.deployment = Deployment(name="fleet", processes=tuple(everything))

    def _run_processes(self) -> list[str]:
        return [name for name in self._find() if name in self._own]

    # --- who works ------------------------------------------------------------------------------

    def _links_of(self, victim: str) -> Sequence[Link | FarLink]:
        return self.fleet.links.get(victim, [])

    def _spec(self, victim: str) -> ProcessSpec:
        if victim in self.fleet.links:
            return ProcessSpec(name=victim, package="user_bringup", executable="link")
        return super()._spec(victim)

    def _works_since(self, spec: ProcessSpec, since_s: float) -> float | None:
        name = spec.name
        if name in self._own:
            own, others = self._own[name]
            behind = producers_behind(own.replace(host=""), [o.replace(host="") for o in others])
            return works_since(own, self.evidence, since_s, behind)
        if name in self.fleet.links:
            site = name.removeprefix("link_")
            return works_since(spec, self.evidence, since_s, set(SITES[site].values()))
        if name == "fleet_router":
            return self._all_here_since(since_s)
        if spec.executable == "resource_agent" and self._own:
            return self._agent_works_since(spec, since_s)
        return works_since(spec, self.evidence, since_s)

    def _worker(self, agent: str) -> str:
        """By what it is seen that the run of an agent goes on: the arm's hal, or the learner."""
        host = agent.removeprefix("agent_")
        wanted = "learner_node" if host == LEARNER_HOST else "hal_node"
        names = (n for n, (own, _) in self._own.items() if own.executable == wanted)
        return next((n for n in names if agent != host and n.startswith(f"{host}_")), "")

    def _agent_works_since(self, agent: ProcessSpec, since_s: float) -> float | None:
        """An agent works when it is active and what it runs does: the same process as before, or another."""
        active_s = works_since(agent, self.evidence, since_s)
        worker = self._worker(agent.name)
        if active_s is None or not worker:
            return active_s
        # Since its first heartbeat, not its newest: a learner's status has the same period, and one that always comes
        # just after a heartbeat would never be late enough after the newest.
        first_s = self._first_active_s.setdefault((agent.name, since_s), active_s)
        return works_since(self._own[worker][0], self.evidence, first_s)

    def _all_here_since(self, since_s: float) -> float | None:
        """When all hosts were seen to be here, at least 3 s (the patience of presence) later; looked at twice a
        second."""
        now_s = time.monotonic()
        if now_s >= self._next_here_s:
            self._next_here_s = now_s + 0.5
            here = self._hosts_here() >= set(self.fleet.domains)
            self._all_here_s = now_s if here else 0.0
        return self._all_here_s if self._all_here_s >= since_s + 3.0 else None

    # --- afterwards -----------------------------------------------------------------------------

    def gather(self) -> Path:
        """A folder in which everything that was left behind looks like that of one run."""
        folder = self.folder / "together"
        (folder / "outbox").mkdir(parents=True, exist_ok=True)
        lines: list[dict[str, Any]] = []
        for run in self.runs.values():
            for outbox in (run / "outbox").glob("*/outbox.sqlite"):
                (folder / "outbox" / outbox.parent.name).symlink_to(outbox.parent)
            if (run / "history.jsonl").exists():
                lines += read_history(run / "history.jsonl")
        for name in ("replay", "learner"):
            if LEARNER_HOST in self.runs:
                (folder / name).symlink_to(self.runs[LEARNER_HOST] / name)
        text = "".join(json.dumps(line) + "\n" for line in sorted(lines, key=lambda one: one["t"]))
        (folder / "history.jsonl").write_text(text, encoding="utf-8")
        return folder


def obeyed_one(fleet: Fleet) -> Check:
    """Whether each robot obeyed at most one holder at any time, by the logs of their HALs."""
    wrong, said = [], []
    for host in fleet.domains:
        if host == LEARNER_HOST:
            continue
        logs = sorted(fleet.runs(host).rglob("obeyed.jsonl"))
        records: list[Obeyed] = [one for log in logs for one in read_obeyed(log.parent)]
        commands = sum(one.commands for one in records)
        grants = {one.grant for one in records}
        said.append(f"{host}: {commands} commands, {len(records)} leases, {len(grants)} grants")
        if not records:
            wrong.append(f"{host}: no log")
        wrong += [f"{host}: {a.holder} and {b.holder}" for a, b in overlaps(records)]
        wrong += [f"{host}: grant {b.grant} after {a.grant}" for a, b in out_of_order(records)]
    return Check("every robot obeyed one holder at a time", not wrong, "; ".join([*said, *wrong]))
