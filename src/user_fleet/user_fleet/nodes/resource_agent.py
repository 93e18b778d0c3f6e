"""resource_agent: says what a host has and that it is there (:mod:`user_fleet.presence`); one a host."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import zenoh

from user_comm.diagnostics import Item, Level
from user_comm.lifecycle import LifecycleNode
from user_comm.net.sessions import open_session
from user_comm.run import run
from user_comm.topic_io import RosTopicIo
from user_core.config import file_meant, from_mapping, load_yaml, shared_folders
from user_fleet.node_configs import HostConfig, ResourceAgentConfig, fleet_folder
from user_fleet.presence.agent import Agent, Bookings, Runner
from user_fleet.presence.launcher import Launcher, user_up
from user_fleet.presence.messages import Granted
from user_fleet.resources.contracts import read_contracts
from user_fleet.resources.inventory import Graph, Inventory
from user_fleet.resources.machine import address_toward
from user_fleet.resources.model import HostReport


class ResourceAgent(LifecycleNode):
    """Is there on the network of the fleet while it is active."""

    Config = ResourceAgentConfig

    def configure(self, stack: ExitStack) -> None:
        """Learn how the host describes itself."""
        config: ResourceAgentConfig = self.config
        host = from_mapping(HostConfig, load_yaml(config.host_file) if config.host_file else {})
        if config.name:
            host = host.replace(host=config.name)
        files = {
            file.stem: file
            for folder in shared_folders("robots").values()
            for file in folder.glob("*.yaml")
        }
        contracts, _ = read_contracts(files)
        endpoint = next(iter(config.zenoh.connect), "")
        self._inventory = Inventory(
            host, partial(file_meant, "robots"), contracts, endpoint=endpoint
        )
        self._io = RosTopicIo(self) if config.look_at_graph else None
        if self._io is not None:
            stack.callback(self._io.close)
        self._asked_s = -float("inf")
        self._agent: Agent | None = None
        self._closing = threading.Event()
        self.diagnostics.watch("fleet", self._item)

    def activate(self, stack: ExitStack) -> None:
        """Begin to be there, once the network can be reached."""
        self._closing.clear()
        thread = threading.Thread(target=self._be_there, name="fleet", daemon=True)
        stack.callback(self._leave, thread)
        thread.start()

    def _be_there(self) -> None:
        config: ResourceAgentConfig = self.config
        try:
            session: zenoh.Session = open_session(config.zenoh, self._closing)
        except Exception as error:
            if not self._closing.is_set():
                self.fail(error)
            return
        with session, ExitStack() as stack:
            host = self._inventory.config.name
            folder = fleet_folder(config.state_dir)
            runner: Runner = Bookings()
            if config.start_experiments:
                runner = Launcher(self._command, folder / "uses", config.stop_s)
                stack.callback(runner.close)
            self._agent = Agent(
                session, self._look, host=host, life=self._inventory.life,
                scheduler=config.scheduler, heartbeat_s=config.heartbeat_s, look_s=config.look_s,
                runner=runner,
                state_file=folder / f"agent_{host}.json",
            )  # fmt: skip
            try:
                self._agent.start()
                self._closing.wait()
            finally:
                self._agent.close()

    def _command(
        self, grant: Granted, others: Sequence[Granted]
    ) -> tuple[Sequence[str], Mapping[str, str]]:
        """What is started for a grant."""
        host = self._inventory.config
        runs = Path(host.folder).expanduser() / "runs"
        address = host.address or address_toward(self._inventory.endpoint)
        about = {**host.values, "site": host.site, "address": address}
        robot = host.robots.get(grant.resource.rpartition("/")[2])
        if robot is not None:
            about |= {**robot.values, "robot_file": robot.file}
        jobs = fleet_folder(self.config.state_dir) / "uses"
        return user_up(grant, others, runs, about, jobs)

    def _leave(self, thread: threading.Thread) -> None:
        self._closing.set()
        thread.join(timeout=10.0)

    def _look(self) -> HostReport:
        graph: Graph | None = None
        if self._io is not None:
            graph = (self._io.topics(), self._io.service_types())
        ask = time.monotonic() - self._asked_s > self.config.ask_drivers_s
        if ask:
            self._asked_s = time.monotonic()
        return self._inventory.report(graph, ask)

    def _item(self) -> Item:
        agent = self._agent
        if agent is None:
            return Item("fleet", Level.WARN, "the network of the fleet was not reached yet")
        epoch, assignment = agent.obeys
        count = len(agent.newest.resources) if agent.newest is not None else 0
        values = {
            "scheduler": str(epoch),
            "assignment": str(assignment),
            "refused": str(sum(agent.refused.values())),
        }
        return Item("fleet", Level.OK, f"{count} resources", values)


def main() -> None:
    """Run the node."""
    run(ResourceAgent, "resource_agent")


if __name__ == "__main__":
    main()
