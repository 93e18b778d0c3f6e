"""A robot's host and the learner's, through bridges and the router over mTLS: nothing lost."""

from __future__ import annotations

import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import yaml

from user_comm.net.network import Members, Network
from user_core.types import Outcome
from user_learner.replay.reader import StoreReader
from user_testing.link_emulator import Host, Link, LinkQuality, unavailable
from user_testing.worlds.acting import committed_steps
from user_testing.worlds.node_process import Node

pytestmark = pytest.mark.timeout(180)

HAL, ACTOR = "user_hal.nodes.hal", "user_actor.nodes.actor"
REPLAY, BRIDGE = "user_learner.nodes.replay", "user_comm.nodes.bridge"
LEARNER = "/learner"


class World:
    """Two hosts: by their ROS domains alone, or also by network namespaces and a bad link."""

    def __init__(self, folder: Path, domain: int, stack: ExitStack, quality: Any = None) -> None:
        self.folder, self._stack = folder, stack
        self.store, self.outbox = folder / "store", folder / "outbox"
        self._hosts: dict[str, Host] = {}
        self.link: Link | None = None
        address = "127.0.0.1"
        if quality is not None:
            for name in ("cloud", "edge"):
                self._hosts[name] = stack.enter_context(Host(name))
            self.link = stack.enter_context(
                Link(self._hosts["cloud"], self._hosts["edge"], quality)
            )
            address = self.link.address_of(self._hosts["cloud"])
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.endpoint = f"tls/{address}:{probe.getsockname()[1]}"
        self._domains = {"cloud": domain, "edge": domain + 1}
        self.network = Network.create(
            folder / "net", Members(endpoints=(self.endpoint,), hosts=(address,))
        )
        self._credentials = {
            "cloud": self.network.add("learner", "learner"),
            "edge": self.network.add("robot", "robot0"),
        }
        self.router = self._node(
            "cloud", "router",
            [sys.executable, "-m", "user_comm.nodes.router", "--network", str(self.network.folder)],
        )  # fmt: skip
        self.above = self.ros(
            "cloud", "above", BRIDGE, LEARNER, {"role": "learner", **self._zenoh("cloud")}
        )
        self.replay = self.ros("cloud", "replay", REPLAY, LEARNER, {"path": str(self.store)})
        self.hal = self.ros("edge", "hal", HAL, "/robot0", {"driver": "fake"})
        self.actor = self.drive("actor")
        self.below = self.ros(
            "edge", "below", BRIDGE, "/robot0",
            {"role": "robot", "robot": "robot0", **self._zenoh("edge")},
        )  # fmt: skip

    def drive(self, name: str, **changes: Any) -> Node:
        params = {
            "policy": {"plugin": "linear_gaussian"},
            "outbox": {"directory": str(self.outbox)},
            "loop": {"exploration": {"before_first_version": "initial"}, "retry_s": 0.2},
            "name": "robot0",
            **self._zenoh("edge"),
            **changes,
        }
        remaps = [f"{topic}:={LEARNER}/{topic}" for topic in ("trajectory_ack", "policy")]
        return self.ros("edge", name, ACTOR, "/robot0", params, remaps)

    def ros(
        self, host: str, name: str, module: str, namespace: str, params: dict[str, Any],
        remaps: list[str] | None = None,
    ) -> Node:  # fmt: skip
        file = self.folder / f"{name}.yaml"
        document = {"/**": {"ros__parameters": {"autostart": True, **params}}}
        file.write_text(yaml.safe_dump(document), encoding="utf-8")
        program = f"from {module} import main; import sys; sys.exit(main())"
        words = [sys.executable, "-c", program, "--ros-args", "-r", f"__ns:={namespace}"]
        for remap in remaps or []:
            words += ["-r", remap]
        return self._node(host, name, [*words, "--params-file", str(file)])

    def _node(self, host: str, name: str, words: list[str]) -> Node:
        if host in self._hosts:
            words = self._hosts[host].command(*words)
        environment = {"ROS_DOMAIN_ID": str(self._domains[host])}
        node = Node(self.folder, name, words, environment)
        self._stack.callback(node.close)
        return node

    def _zenoh(self, host: str) -> dict[str, Any]:
        folder = str(self._credentials[host].folder)
        return {
            "zenoh": {"connect": [self.endpoint], "credentials": folder, "shared_memory": False}
        }

    @property
    def stored(self) -> int:
        """Steps in the store."""
        if not (self.store / "index.sqlite").exists() and not list(self.store.glob("*.sqlite")):
            return 0
        reader = StoreReader(self.store)
        try:
            return sum(reader.meta.steps.values())
        finally:
            reader.close()

    @property
    def committed(self) -> int:
        return committed_steps(self.outbox)[0]

    def until(self, condition: Callable[[], Any], what: str, timeout_s: float = 60.0) -> None:
        end_s = time.monotonic() + timeout_s
        while not condition():
            logs = "\n".join(file.read_text()[-600:] for file in self.folder.glob("*.log"))
            assert time.monotonic() < end_s, f"still not: {what}\n{logs}"
            time.sleep(0.05)

    def grows(self) -> None:
        steps = self.stored
        self.until(lambda: self.stored > steps + 40, "the store grows")

    def settle(self) -> None:
        """Stop acting in good order, and deliver the rest."""
        self.actor.interrupt()
        idle = self.drive("idle", hal="nobody")
        idle.start()
        self.until(lambda: committed_steps(self.outbox)[1] == 0, "all is delivered")
        idle.interrupt()


@pytest.fixture
def make(tmp_path: Path, ros_domain: int) -> Iterator[Callable[..., World]]:
    with ExitStack() as stack:
        yield lambda quality=None: World(tmp_path, ros_domain, stack, quality)


def start_all(world: World) -> None:
    for node in (world.above, world.below, world.replay, world.hal, world.actor, world.router):
        node.start()  # the router last: everybody waits for it
    world.until(lambda: world.stored > 40, "steps arrive")


def check(world: World) -> None:
    """What was committed is in the store, once, in whole episodes."""
    world.settle()
    steps, chunks = committed_steps(world.outbox)
    assert chunks == 0
    reader = StoreReader(world.store)
    rows = finals = 0
    for episode in reader.episodes():
        assert episode.gaps == 0
        assert episode.result is not None
        rows += episode.rows
        finals += episode.result.outcome is not Outcome.UNFINISHED
    reader.close()
    assert rows - finals == steps
    assert steps > 100


def test_steps_committed_are_steps_stored_whatever_dies_between(make: Callable[..., World]) -> None:
    world = make()
    start_all(world)
    world.router.kill()
    time.sleep(0.5)
    world.router.start()
    world.grows()
    for bridge in (world.below, world.above):
        bridge.kill()
        bridge.start()
        world.grows()
    check(world)


@pytest.mark.slow
def test_steps_committed_are_steps_stored_over_a_bad_link_that_is_cut(
    make: Callable[..., World],
) -> None:
    if reason := unavailable():
        pytest.skip(reason)
    world = make(LinkQuality(rate_mbit_s=20, delay_ms=40, loss=0.002))
    start_all(world)
    assert world.link is not None
    for cut_s in (1.0, 4.0):  # shorter and longer than Zenoh's lease
        world.link.cut()
        committed = world.committed
        time.sleep(cut_s)
        assert world.committed > committed  # collection does not pause
        world.link.restore()
        world.grows()
    check(world)
    there, back = world.link.traffic()
    assert there.bytes > 1000 and back.bytes > 1000  # it did go over the link
