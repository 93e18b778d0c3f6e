"""A robot's host and the host of its policy, in two ROS graphs with a link between them."""

from __future__ import annotations

import json
import os
import socket
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import yaml

sys.path.insert(0, str(Path(__file__).parent))

from acting_world import committed_steps
from link_emulator import Host, Link, LinkQuality
from link_proxy import LinkProxy
from node_process import Node

from user_comm.net.network import Members, Network
from user_core.types import Outcome
from user_learner.replay.reader import StoreReader

LEARNER = "/learner"
WATCHDOG_S = 0.4
_HERE = str(Path(__file__).parent)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class RemoteWorld:
    """Robot, actor and bridge here; router, bridge, replay and inference there; mutual TLS between.

    Args:
        folder: For everything that is written.
        domain: Of the cloud's ROS graph; the robot's is the next.
        stack: Closes what is opened.
        quality: Of the link between the hosts.
        apart: The hosts are network namespaces, with an emulated link; else two ROS domains, with a
            proxy for the TCP connections in between.
        hal: Parameters of the robot.
        policy: The policy, elsewhere.
        remote: How the actor asks it.
        loop: The actor's.
        actor_policy: The actor's own, for comparison, where it does not ask.
    """

    def __init__(
        self,
        folder: Path,
        domain: int,
        stack: ExitStack,
        quality: LinkQuality,
        hal: dict[str, Any],
        policy: dict[str, Any],
        remote: dict[str, Any] | None = None,
        loop: dict[str, Any] | None = None,
        actor_policy: dict[str, Any] | None = None,
        apart: bool = False,
    ) -> None:
        self.folder, self._stack = folder, stack
        self._domains = {"cloud": domain, "edge": domain + 1}
        self.store, self.outbox = folder / "store", folder / "outbox"
        self._hosts: dict[str, Host] = {}
        self.link = self._connect(quality, apart)
        self._network = Network.create(
            folder / "net", Members(endpoints=(self._endpoints["cloud"],), hosts=(self._address,))
        )
        self._credentials = {
            "cloud": self._network.add("learner", "learner"),
            "edge": self._network.add("robot", "robot0"),
        }
        self._actor = {
            "name": "robot0",
            "outbox": {"directory": str(self.outbox), "chunk_bytes": 32768},
            "remote": {"enabled": True, **(remote or {})},
            "loop": {
                "retry_s": 0.2,
                "exploration": {"before_first_version": "initial"},
                **(loop or {}),
            },
            **({"policy": actor_policy} if actor_policy else {}),
            **self._zenoh("edge"),
        }
        self.router = self._node(
            "cloud", "router",
            [sys.executable, "-m", "user_comm.nodes.router", "--network", str(self._network.folder)],
        )  # fmt: skip
        self.above = self.ros(
            "cloud", "above", "user_comm.nodes.bridge", LEARNER,
            {"role": "learner", "inference_for": ["robot0"], **self._zenoh("cloud")},
        )  # fmt: skip
        self.replay = self.ros(
            "cloud", "replay", "user_learner.nodes.replay", LEARNER, {"path": str(self.store)}
        )
        self.inference = self.ros(
            "cloud", "inference", "user_actor.nodes.inference", "/robot0",
            {"policy": policy, **self._zenoh("cloud")}, {"policy": f"{LEARNER}/policy"},
        )  # fmt: skip
        self.below = self.ros(
            "edge", "below", "user_comm.nodes.bridge", "/robot0",
            {"role": "robot", "robot": "robot0", **self._zenoh("edge")},
        )  # fmt: skip
        self.hal = self.ros("edge", "hal", "user_hal.nodes.hal", "/robot0", hal)
        self.actor = self.drive("actor")

    def _connect(self, quality: LinkQuality, apart: bool) -> LinkProxy | Link:
        near, far = free_port(), free_port()
        self._address = "127.0.0.1"
        if not apart:
            self._endpoints = {"cloud": f"tls/127.0.0.1:{near}", "edge": f"tls/127.0.0.1:{far}"}
            return self._stack.enter_context(LinkProxy(far, near, quality))
        for name in ("cloud", "edge"):
            self._hosts[name] = self._stack.enter_context(Host(name))
        link = Link(self._hosts["cloud"], self._hosts["edge"], quality)
        self._stack.callback(link.close)
        self._address = link.address_of(self._hosts["cloud"])
        self._endpoints = dict.fromkeys(("cloud", "edge"), f"tls/{self._address}:{near}")
        return link

    def drive(self, name: str, **changes: Any) -> Node:
        remaps = {topic: f"{LEARNER}/{topic}" for topic in ("trajectory_ack", "policy")}
        return self.ros(
            "edge", name, "user_actor.nodes.actor", "/robot0", {**self._actor, **changes}, remaps
        )

    def ros(
        self, host: str, name: str, module: str, namespace: str, params: dict[str, Any],
        remaps: dict[str, str] | None = None,
    ) -> Node:  # fmt: skip
        file = self.folder / f"{name}.yaml"
        document = {"/**": {"ros__parameters": {"autostart": True, **params}}}
        file.write_text(yaml.safe_dump(document), encoding="utf-8")
        program = f"from {module} import main; import sys; sys.exit(main())"
        words = [sys.executable, "-c", program, "--ros-args", "-r", f"__ns:={namespace}"]
        for old, new in (remaps or {}).items():
            words += ["-r", f"{old}:={new}"]
        return self._node(host, name, [*words, "--params-file", str(file)])

    def start(self) -> None:
        """Start everything, the router last: everybody waits for it."""
        for node in (
            self.above, self.below, self.replay, self.hal, self.inference, self.actor, self.router,
        ):  # fmt: skip
            node.start()

    def until(self, condition: Callable[[], Any], what: str, timeout_s: float = 60.0) -> None:
        end_s = time.monotonic() + timeout_s
        while not condition():
            logs = "\n".join(f"{f.name}: {f.read_text()[-900:]}" for f in self.folder.glob("*.log"))
            assert time.monotonic() < end_s, f"still not: {what}\n{logs}"
            time.sleep(0.02)

    def episodes(self, outcome: Outcome) -> int:
        """How many episodes in the store ended so."""
        if not list(self.store.glob("*.sqlite")):
            return 0
        reader = StoreReader(self.store)
        try:
            return sum(
                e.result is not None and e.result.outcome is outcome for e in reader.episodes()
            )
        finally:
            reader.close()

    def settle(self) -> tuple[int, int]:
        """Stop acting in good order and deliver the rest; steps committed, chunks left."""
        self.actor.interrupt()
        idle = self.drive("idle", hal="nobody")
        idle.start()
        self.until(lambda: committed_steps(self.outbox)[1] == 0, "all is delivered")
        idle.interrupt()
        return committed_steps(self.outbox)

    def _node(self, host: str, name: str, words: list[str]) -> Node:
        if host in self._hosts:
            words = self._hosts[host].command(*words)
        path = os.pathsep.join([_HERE, *filter(None, [os.environ.get("PYTHONPATH")])])
        environment = {"ROS_DOMAIN_ID": str(self._domains[host]), "PYTHONPATH": path}
        node = Node(self.folder, name, words, environment)
        self._stack.callback(node.close)
        return node

    def _zenoh(self, host: str) -> dict[str, Any]:
        return {
            "zenoh": {
                "connect": [self._endpoints[host]],
                "credentials": str(self._credentials[host].folder),
                "shared_memory": False,
            }
        }


class DriverLog:
    """What reached the driver, and when (monotonic, seconds)."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def entries(self) -> list[tuple[str, float]]:
        if not self._file.exists():
            return []
        lines = self._file.read_text(encoding="utf-8").splitlines()
        found = [json.loads(line) for line in lines if line.endswith("}")]
        return [(entry["what"], entry["monotonic_ns"] * 1e-9) for entry in found]

    def last(self, what: str) -> float:
        return max((at for kind, at in self.entries() if kind == what), default=0.0)

    def first_stop(self) -> float:
        """When it was stopped first after the last command."""
        commanded_s = self.last("command")
        return min(at for what, at in self.entries() if what == "stop" and at > commanded_s)


def stop_answers(
    world: RemoteWorld, driver: DriverLog, stop: Callable[[], Any], resume: Callable[[], Any]
) -> tuple[float, float, float]:
    """Have answers stop while the robot is on its way, until its watchdog has stopped it.

    Where it reaches its goal with the rows that are left, and is stopped for the next episode, it
    is done again. When it was done, when the last command came, when the stop (monotonic, seconds).
    """
    for _ in range(8):
        world.until(lambda: time.monotonic() - driver.last("command") < 0.1, "it moves")
        stop()
        done_s = time.monotonic()
        world.until(lambda: driver.last("stop") > driver.last("command") > 0, "it is stopped")
        commanded_s, stopped_s = driver.last("command"), driver.first_stop()
        if stopped_s - commanded_s > WATCHDOG_S / 2:
            return done_s, commanded_s, stopped_s
        resume()
        successes = world.episodes(Outcome.SUCCESS)
        world.until(lambda n=successes: world.episodes(Outcome.SUCCESS) > n, "it goes on")
    raise AssertionError("it reached its goal each time")
