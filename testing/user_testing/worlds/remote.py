"""A robot's host and another one, in two ROS graphs with a link between them."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from user_comm.net.network import Members, Network
from user_core.types import Outcome
from user_learner.replay import StoreReader
from user_testing.link_emulator import Host, Link, LinkQuality
from user_testing.link_proxy import LinkProxy
from user_testing.ports import claim_domain, free_port
from user_testing.processes import NodeProcess, Process, waited_for_core_s
from user_testing.waiting import TIMEOUT_S, wait_until
from user_testing.worlds.acting import committed_steps

LEARNER = "/learner"
WATCHDOG_S = 0.4


class TwoHosts:
    """Robot and actor on the ``edge``; router and store in the ``cloud``; mutual TLS between.

    Args:
        folder: For everything that is written.
        stack: Closes what is opened.
        quality: Of the link between the hosts; None: they are joined directly.
        apart: The hosts are network namespaces, with an emulated link; else two ROS domains, with a
            proxy for the TCP connections in between.
        hal: Parameters of the robot.
        actor: Parameters of the actor.
        above: Parameters of the learner's bridge.
    """

    def __init__(
        self,
        folder: Path,
        stack: ExitStack,
        quality: LinkQuality | None,
        apart: bool,
        hal: dict[str, Any],
        actor: dict[str, Any],
        above: dict[str, Any] | None = None,
    ) -> None:
        self.folder, self._stack = folder, stack
        self.domains = {host: stack.enter_context(claim_domain()) for host in ("cloud", "edge")}
        self.store, self.outbox = folder / "store", folder / "outbox"
        self._hosts: dict[str, Host] = {}
        self._address = "127.0.0.1"
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
            **actor,
            "outbox": {"directory": str(self.outbox), **actor.get("outbox", {})},
            **self.zenoh("edge"),
        }
        words = [sys.executable, "-m", "user_comm.nodes.router"]
        words += ["--network", str(self._network.folder)]
        self.router = self._keep(
            Process([*self._prefix("cloud"), *words], folder / "router.log", self._env("cloud"))
        )
        self.above = self.ros(
            "cloud", "above", "user_comm.nodes.bridge", LEARNER,
            {"role": "learner", **(above or {}), **self.zenoh("cloud")},
        )  # fmt: skip
        self.replay = self.ros(
            "cloud", "replay", "user_learner.nodes.replay", LEARNER, {"path": str(self.store)}
        )
        self.below = self.ros(
            "edge", "below", "user_comm.nodes.bridge", "/robot0",
            {"role": "robot", "robot": "robot0", **self.zenoh("edge")},
        )  # fmt: skip
        self.hal = self.ros("edge", "hal", "user_hal.nodes.hal", "/robot0", hal)
        self.actor = self.drive("actor")

    def _connect(self, quality: LinkQuality | None, apart: bool) -> LinkProxy | Link | None:
        near = free_port()
        self._endpoints = dict.fromkeys(("cloud", "edge"), f"tls/127.0.0.1:{near}")
        if quality is None:
            return None
        if not apart:
            far = free_port()
            self._endpoints["edge"] = f"tls/127.0.0.1:{far}"
            return self._stack.enter_context(LinkProxy(far, near, quality))
        for name in ("cloud", "edge"):
            self._hosts[name] = self._stack.enter_context(Host(name))
        link = self._stack.enter_context(Link(self._hosts["cloud"], self._hosts["edge"], quality))
        self._address = link.address_of(self._hosts["cloud"])
        self._endpoints = dict.fromkeys(("cloud", "edge"), f"tls/{self._address}:{near}")
        return link

    def drive(self, name: str, **changes: Any) -> NodeProcess:
        """An actor of the robot."""
        remaps = {topic: f"{LEARNER}/{topic}" for topic in ("trajectory_ack", "policy")}
        return self.ros(
            "edge", name, "user_actor.nodes.actor", "/robot0", {**self._actor, **changes}, remaps
        )

    def ros(
        self, host: str, name: str, module: str, namespace: str, params: dict[str, Any],
        remaps: dict[str, str] | None = None,
    ) -> NodeProcess:  # fmt: skip
        """A node on one of the hosts, not started yet."""
        return self._keep(
            NodeProcess(
                module, params, self.folder, name, namespace=namespace, remaps=remaps,
                env=self._env(host), prefix=self._prefix(host),
            )
        )  # fmt: skip

    def zenoh(self, host: str) -> dict[str, Any]:
        """How a node on one of the hosts reaches the router."""
        return {
            "zenoh": {
                "connect": [self._endpoints[host]],
                "credentials": str(self._credentials[host].folder),
                "shared_memory": False,
            }
        }

    def until(self, condition: Callable[[], Any], what: str, timeout_s: float = TIMEOUT_S) -> None:
        """Wait for something; the error shows all logs."""
        wait_until(condition, what, timeout_s, seen=self._logs, period_s=0.02)

    def settle(self) -> tuple[int, int]:
        """Stop acting in good order and deliver the rest; steps committed, chunks left."""
        assert self.actor.interrupt() == 0, self.actor.log[-3000:]
        idle = self.drive("idle", hal="nobody")
        idle.start()
        self.until(lambda: committed_steps(self.outbox)[1] == 0, "all is delivered")
        assert idle.interrupt() == 0, idle.log[-3000:]
        return committed_steps(self.outbox)

    def _keep(self, process: Any) -> Any:
        self._stack.callback(process.close)
        return process

    def _prefix(self, host: str) -> list[str]:
        return self._hosts[host].command() if host in self._hosts else []

    def _env(self, host: str) -> dict[str, str]:
        return {"ROS_DOMAIN_ID": str(self.domains[host])}

    def _logs(self) -> str:
        return "\n".join(f"{f.name}: {f.read_text()[-900:]}" for f in self.folder.glob("*.log"))


class RemoteWorld(TwoHosts):
    """The robot's policy acts in the cloud.

    Args:
        policy: The policy, elsewhere.
        remote: How the actor asks it.
        loop: The actor's.
        actor_policy: The actor's own, for comparison, where it does not ask.
    """

    def __init__(
        self,
        folder: Path,
        stack: ExitStack,
        quality: LinkQuality,
        hal: dict[str, Any],
        policy: dict[str, Any],
        remote: dict[str, Any] | None = None,
        loop: dict[str, Any] | None = None,
        actor_policy: dict[str, Any] | None = None,
        apart: bool = False,
    ) -> None:
        actor = {
            "outbox": {"chunk_bytes": 32768},
            "remote": {"enabled": True, **(remote or {})},
            "loop": {
                "retry_s": 0.2,
                "exploration": {"before_first_version": "initial"},
                **(loop or {}),
            },
            **({"policy": actor_policy} if actor_policy else {}),
        }
        above = {"inference_for": ["robot0"]}
        super().__init__(folder, stack, quality, apart, hal, actor, above)
        self.inference = self.ros(
            "cloud", "inference", "user_actor.nodes.inference", "/robot0",
            {"policy": policy, **self.zenoh("cloud")}, {"policy": f"{LEARNER}/policy"},
        )  # fmt: skip

    def start(self) -> None:
        """Start everything, the router last: everybody waits for it."""
        for node in (
            self.above, self.below, self.replay, self.hal, self.inference, self.actor, self.router,
        ):  # fmt: skip
            node.start()

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
) -> tuple[float, float, float, float]:
    """Have answers stop while the robot is on its way, until its watchdog has stopped it.

    Where it reaches its goal with the rows that are left, and is stopped for the next episode, it
    is done again. When it was done, when the last command came, when the stop (monotonic, seconds); and for how long
    the robot's process has waited for a core meanwhile.
    """
    for _ in range(8):
        world.until(lambda: time.monotonic() - driver.last("command") < 0.1, "it moves")
        waited_s = waited_for_core_s(world.hal.pid)
        stop()
        done_s = time.monotonic()
        world.until(lambda: driver.last("stop") > driver.last("command") > 0, "it is stopped")
        commanded_s, stopped_s = driver.last("command"), driver.first_stop()
        if stopped_s - commanded_s > WATCHDOG_S / 2:
            return done_s, commanded_s, stopped_s, waited_for_core_s(world.hal.pid) - waited_s
        resume()
        successes = world.episodes(Outcome.SUCCESS)
        world.until(lambda n=successes: world.episodes(Outcome.SUCCESS) > n, "it goes on")
    raise AssertionError("it reached its goal each time")
