"""A fleet whose agents start real deployments: a scheduler, and hosts that are folders of this machine."""

from __future__ import annotations

import os
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import yaml

from user_core.config import to_mapping
from user_fleet.scheduling.experiment import Experiment
from user_hal.runtime.obeyed import Obeyed, read_obeyed
from user_learner.replay.reader import StoreReader
from user_testing.ports import claim_domain
from user_testing.processes import NodeProcess, Process
from user_testing.waiting import wait_until
from user_testing.worlds.fleets.scheduler_and_hosts import FleetWorld

#: Moves at random for ever: one simulated arm and its store, or without one, for that of another host.
COLLECTING: dict[str, Any] = {
    "name": "collecting",
    "description": "One simulated arm that moves at random, and its store.",
    "arguments": {
        "name": {"default": "robot0", "doc": "Name of the robot."},
        "steps": {"default": 40, "doc": "Steps of an episode; 0: no limit."},
    },
    "standby": False,
    "roles": ["replay"],
    "robots": {"${name}": "simulated_arm"},
    "processes": {
        "hal": {"parameters": {"robot": {"params": {"horizon_s": 1e6}}}},  # of its task
        "actor": {
            "parameters": {
                "loop": {
                    "max_episode_steps": "${steps}",
                    "max_episode_s": 0.0,
                    "exploration": {"random_steps": 100_000_000},
                }
            }
        },
    },
}
MOVING = {**COLLECTING, "name": "moving", "roles": []}
LEARNING: dict[str, Any] = {
    "name": "learning",
    "description": "A store and a learner, without a robot of their own.",
    "standby": False,
    "roles": ["learner"],
    "robots": {},
    "values": {"learns_for": "arm1"},
}


class DeployingFleet(FleetWorld):
    """See the module.

    Args:
        folder: For everything that is written.
        stack: Closes what is opened.
        lease_s: Silence after which a host has lost its grants.
    """

    def __init__(self, folder: Path, stack: ExitStack, lease_s: float = 30.0) -> None:
        self.lease_s = lease_s
        share = folder / "overlay" / "share"
        deployments = share / "fleet_of_tests" / "config" / "deployments"
        deployments.mkdir(parents=True)
        for one in (COLLECTING, MOVING, LEARNING):
            (deployments / f"{one['name']}.yaml").write_text(yaml.safe_dump(one))
        index = share / "ament_index" / "resource_index" / "packages"
        index.mkdir(parents=True)
        (index / "fleet_of_tests").touch()
        self._prefixes = f"{folder / 'overlay'}:{os.environ['AMENT_PREFIX_PATH']}"
        self.domain = stack.enter_context(claim_domain())
        self.agents: dict[str, NodeProcess] = {}
        super().__init__(folder)
        stack.callback(self.close)

    def start_scheduler(self, name: str, *words: str) -> Process:
        return super().start_scheduler(name, "--lease", str(self.lease_s), *words)

    def host(self, name: str, *robots: str, **values: str) -> NodeProcess:
        """An agent of a host with these robots, simulated, and values that experiments may ask for."""
        home = self.folder / name
        home.mkdir()
        described = {
            "site": "hall", "drivers": [], "folder": str(home),
            "robots": {robot: {"file": "panda_sim"} for robot in robots}, "values": values,
        }  # fmt: skip
        (home / "host.yaml").write_text(yaml.safe_dump(described))
        params = {
            "name": name, "host_file": str(home / "host.yaml"), "start_experiments": True,
            "look_at_graph": False, "stop_s": 20.0, "state_dir": str(home / "state"),
            "zenoh": {"connect": [self.endpoint]},
        }  # fmt: skip
        env = {
            "HOME": str(home), "ROS_HOME": str(home / "ros"), "ROS_DOMAIN_ID": str(self.domain),
            "AMENT_PREFIX_PATH": self._prefixes, "OMP_NUM_THREADS": "1",
        }  # fmt: skip
        agent = NodeProcess(
            "user_fleet.nodes.resource_agent", params, home, namespace=f"/{name}", env=env
        )
        agent.start()
        self.processes.append(agent)
        self.agents[name] = agent
        return agent

    def ask_for(self, name: str, priority: int = 0, **roles: Any) -> None:
        """Submit an experiment."""
        experiment = to_mapping(Experiment(name=name, priority=priority, roles=roles))
        answer = self.ask(do="submit", experiment=experiment)
        assert answer["ok"], answer

    def run_folder(self, host: str, run: str) -> Path:
        return self.folder / host / "runs" / run

    def output(self, host: str) -> str:
        """What was printed by all that a host started."""
        files = sorted((self.folder / host / "state" / "uses").glob("*.log"))
        return "\n".join(f"== {file.name}\n{file.read_text()[-1500:]}" for file in files)

    def seen(self) -> str:
        text = "\n".join(self.output(host) for host in self.agents)
        states = [(e.experiment.name, e.state, e.reason) for e in self.store.entries()]
        return f"{states}\n{self.store.grants()}\n{text}"

    def until(self, condition: Any, what: str, timeout_s: float = 240.0) -> Any:
        return wait_until(condition, what, timeout_s, seen=self.seen, period_s=0.1)

    def obeyed(self) -> list[Obeyed]:
        """Whom the HALs of all runs of all hosts have obeyed."""
        folders = {file.parent for file in self.folder.glob("*/runs/*/*/obeyed.jsonl")}
        return [one for folder in folders for one in read_obeyed(folder)]


def stored(folder: Path) -> int:
    """Steps in the store of a run; 0 while there is none."""
    store = folder / "replay"
    if not (store / "index.sqlite").exists() and not list(store.glob("*.sqlite")):
        return 0
    reader = StoreReader(store)
    try:
        return sum(reader.meta.steps.values())
    finally:
        reader.close()
