"""The nodes resource_agent and scheduler, as processes: a host is there with what its file describes."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from user_fleet.resources.model import HostReport
from user_fleet.scheduling.store import FleetStore, KnownHost
from user_testing.ports import free_endpoint
from user_testing.processes import Process
from user_testing.waiting import wait_until


class Nodes:
    """A scheduler and an agent."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.endpoint = folder, free_endpoint()
        self.file = folder / "fleet.sqlite"
        (folder / "host.yaml").write_text(
            "site: hall\ndrivers: []\nrobots: {arm: {file: panda_sim, tags: [cell-a]}}\n"
        )
        self.scheduler = self.start(
            "scheduler", f"state:={self.file}", f"zenoh.listen:=['{self.endpoint}']"
        )
        self.agent = self.start(
            "resource_agent", "name:=lab", f"host_file:={folder / 'host.yaml'}",
            f"zenoh.connect:=['{self.endpoint}']", f"state_dir:={folder}",
        )  # fmt: skip

    def start(self, node: str, *parameters: str) -> Process:
        words = [word for one in ("autostart:=true", *parameters) for word in ("-p", one)]
        command = [sys.executable, "-m", f"user_fleet.nodes.{node}", "--ros-args", *words]
        return Process(command, self.folder / f"{node}.log").start()

    def host(self, store: FleetStore) -> KnownHost | None:
        return next((known for known in store.hosts() if known.name == "lab"), None)


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[Nodes]:
    made = Nodes(tmp_path)
    yield made
    made.agent.close()
    made.scheduler.close()


def test_a_host_is_there_with_what_it_has_and_gone_when_its_agent_ends(nodes: Nodes) -> None:
    wait_until(nodes.file.exists, seen=lambda: nodes.scheduler.log)
    store = FleetStore(nodes.file)

    def report() -> HostReport | None:
        known = nodes.host(store)
        return HostReport.from_json(known.report) if known is not None and known.report else None

    found = wait_until(report, "the report of lab", seen=lambda: nodes.agent.log)
    (arm,) = (item for item in found.resources if item.kind == "robot" and item.name == "arm")
    assert (arm.joints, arm.site, arm.health) == (7, "hall", "ready")
    assert arm.tags == ("cell-a", "simulated")

    assert nodes.agent.interrupt() == 0
    wait_until(lambda: [k.state for k in store.hosts()] == ["host_gone"], seen=store.hosts)
    assert nodes.scheduler.interrupt() == 0
    store.close()
