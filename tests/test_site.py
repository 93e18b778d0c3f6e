"""A site with a router and a relay of its own, over mutual TLS: one transfer for all its robots."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from user_comm import topics
from user_comm.converters import PolicyAnnouncement
from user_comm.net.network import Members, Network
from user_comm.net.sessions import ZenohConfig, open_session
from user_comm.policy_blobs.puller import PolicyPuller
from user_comm.policy_blobs.server import PolicyServer
from user_core.types import PolicyVersion
from user_fleet.processes import find_processes
from user_testing.ports import claim_domain, free_endpoint
from user_testing.processes import NodeProcess
from user_testing.waiting import wait_until
from user_testing.worlds.acting import GraphProbe

pytestmark = pytest.mark.timeout(180)

POLICY = replace(topics.POLICY, name="/learner/policy")


def client(endpoint: str, credentials: Path) -> ZenohConfig:
    return ZenohConfig(connect=(endpoint,), credentials=str(credentials), shared_memory=False)


def robot(endpoint: str, credentials: Path) -> PolicyPuller:
    """As a robot's actor has it: its certificate, the site's router, the site's relay."""
    config = client(endpoint, credentials)
    return PolicyPuller(
        lambda end: open_session(config, end), relay="hall/policy", relay_patience_s=2.0
    )


class World:
    """A learner with router and bridge, and a site as `user up site` runs it, in another domain."""

    def __init__(
        self, folder: Path, domain: int, start: Callable[..., Any], stack: ExitStack
    ) -> None:
        above, below = free_endpoint("tls"), free_endpoint("tls")
        network = Network.create(folder / "net", Members(endpoints=(above,)))
        learner = network.add("learner", "learner")
        robots = [network.add("robot", name) for name in ("r0", "r1")]
        site = network.add("site", "hall", hosts=["localhost", "127.0.0.1"], robots=["r0", "r1"])
        copied = folder / "copied"  # all that the site's host gets: nobody else's key
        shutil.copytree(site.folder, copied / "hall")
        shutil.copy(network.folder / "network.yaml", copied)

        start([sys.executable, "-m", "user_comm.nodes.router", "--network", str(network.folder)])
        zenoh = {"connect": [above], "credentials": str(learner.folder), "shared_memory": False}
        bridge = NodeProcess("user_comm.nodes.bridge", {"role": "learner", "zenoh": zenoh}, folder)
        stack.callback(bridge.close)
        bridge.start()
        self._config = folder / "runs" / "site" / "config"
        self._output = folder / "site.out"
        words = [
            "user", "up", "site", f"network:={copied}", f"credentials:={copied / 'hall'}",
            f"listen:={below}", f"router:={below}", f"upstream:={above}",
            "--runs", str(folder / "runs"), "--run", "site", "--no-table",
        ]  # fmt: skip
        output = stack.enter_context(self._output.open("w"))
        environment = {**os.environ, "ROS_DOMAIN_ID": str(stack.enter_context(claim_domain()))}
        self.site = start(words, env=environment, stdout=output, stderr=output)

        self.probe = GraphProbe()
        stack.callback(self.probe.close)
        self._tell = self.probe.speaker(POLICY)
        self._announced: list[PolicyAnnouncement] = []
        session = stack.enter_context(
            open_session(client(above, learner.folder), threading.Event(), retry_s=0.1)
        )
        self.server = stack.enter_context(
            PolicyServer(session, "user/policy", self._announced.append)
        )
        self.pullers = [stack.enter_context(robot(below, own.folder)) for own in robots]
        self._dice = np.random.default_rng(0)
        self._weights = self._dice.standard_normal(50_000, np.float32)
        self._number = 0

    def learn(self) -> tuple[int, int]:
        """A new version, which every robot gets; what the learner served for it, and its size."""
        self._number += 1
        self._weights += self._dice.standard_normal(len(self._weights), np.float32) * 1e-4
        arrays = {"w": self._weights.copy()}
        before = self.server.served_bytes
        self.server.publish(PolicyVersion(self._number, arrays, created_ns=time.time_ns()))
        announcement = self._announced[-1]
        self._tell(announcement)
        for puller in self.pullers:
            puller.announced(announcement)
        for puller in self.pullers:
            self.until(lambda p=puller: p.newest(self._number - 1), f"version {self._number}")
        return self.server.served_bytes - before, announcement.size

    def until(self, condition: Callable[[], Any], what: str) -> None:
        wait_until(condition, what, seen=self.logs)

    def logs(self) -> str:
        files = [self._output, *self._config.parent.glob("logs/*.log")]
        return "\n".join(f"== {file.name}\n{file.read_text()[-1500:]}" for file in files)

    def relay(self) -> int:
        """Process id of the relay; 0 without one."""
        return find_processes([word := str(self._config / "policy_relay.yaml")]).get(word, 0)

    def serves(self) -> bool:
        """Whether the relay is active."""
        log = self._config.parent / "logs" / "policy_relay.log"
        return log.exists() and "state: active" in log.read_text().rpartition("\n--- ")[2]

    @property
    def detours(self) -> int:
        return sum(puller.stats.detours for puller in self.pullers)


@pytest.fixture
def world(tmp_path: Path, ros_domain: int, start_process: Any) -> Iterator[World]:
    with ExitStack() as stack:
        yield World(tmp_path, ros_domain, start_process, stack)


def test_one_transfer_for_a_site_and_its_relay_may_hang_and_die(world: World) -> None:
    world.until(world.serves, "the relay serves")
    transfers = [world.learn() for _ in range(4)]
    served, size = (sum(column) for column in zip(*transfers))
    assert size <= served <= 1.1 * size  # two robots, one transfer
    assert world.detours == 0
    assert sum(puller.stats.bytes for puller in world.pullers) >= 1.9 * size

    relay = world.relay()
    os.kill(relay, signal.SIGSTOP)  # robots go on without it
    served, size = world.learn()
    assert world.detours == 2
    assert served >= 1.9 * size
    os.kill(relay, signal.SIGKILL)
    world.until(lambda: world.relay() not in (0, relay) and world.serves(), "a new relay serves")
    world.until(lambda: world.learn()[0] < 1.5 * world._announced[-1].size, "it is asked again")
    detours = world.detours
    for _ in range(3):
        served, size = world.learn()
        assert served <= 1.1 * size
    assert world.detours == detours

    world.site.send_signal(signal.SIGINT)
    assert world.site.wait(30) == 0, world.logs()
