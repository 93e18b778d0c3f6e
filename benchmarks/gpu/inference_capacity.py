"""How many robots one inference host answers, with batches and one after the other.

- **Passes**: what a policy takes for n observations by one pass, and one after the other; float32 and bfloat16.
- **Robots**: a bridge and inference nodes in one ROS graph, as in a deployment; a process that is the Zenoh router
  sends the observations of all robots at their rate, each with a phase of its own, and takes the answers. Robots that
  are answered in batches (``most`` 16) and one after the other (``most`` 1) take turns in one run. As many robots have
  room as get 99 % of their answers within one period.
- **Admission**: twice as many robots as have room, with admission and without.
- **Preparing**: four robots while a version is made ready that keeps the device busy for 12 s: a lock, and sleep, in
  place of a GPU. Whether robots lose their places by that.

    python benchmarks/gpu/inference_capacity.py [--seconds 3] [--rates 10,20,50] [--only passes,robots,admission,preparing]
"""

from __future__ import annotations

import os
import random
import statistics
import struct
import tempfile
import threading
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from rclpy.serialization import serialize_message

from user_comm import topics
from user_comm.converters import (
    RobotDescription,
    observation_to_message,
    robot_description_to_message,
)
from user_comm.net.sessions import ZenohConfig, open_session
from user_comm.policy_blobs.server import PolicyServer
from user_core.codecs.images import encode_observation
from user_core.command_line import Parser
from user_core.interfaces import Query
from user_core.plugins import build
from user_core.policies import policy_config_hash
from user_core.specs import ArraySpec, RobotSpec
from user_core.types import Observation, PolicyVersion, Task
from user_testing.ports import claim_domain, free_endpoint
from user_testing.processes import NodeProcess
from user_testing.waiting import wait_until
from user_testing.worlds.acting import GraphProbe

SPEC = RobotSpec(
    "arm",
    {"joint_position": ArraySpec((14,), low=-3.0, high=3.0), "tool": ArraySpec((16,), low=-2.0, high=2.0)},
    ArraySpec((7,), low=-1.0, high=1.0),
    period_s=0.05,
)  # fmt: skip
POLICIES: dict[str, tuple[str, dict[str, Any]]] = {
    "tanh_gaussian": ("tanh_gaussian", {"seed": 0}),
    "flow": ("flow", {"backbone": "transformer", "rows": 16}),
}
#: A policy that is slow to prepare, for how long, and how many robots it has.
SLOW = (
    "user_testing.worlds.remote_parts:SlowToPrepare",
    {"prepare_s": 12.0, "piece_s": 0.25, "answer_s": 0.03},
)
FEW_ROBOTS = 4
PARTS = ("passes", "robots", "admission", "preparing")
MOST_ROBOTS = 32
COUNTS = (1, 2, 4, 8, 16, 32)
#: In CDR: after the encapsulation comes the stamp; an answer's start_ns follows an empty frame, two numbers of 8 bytes.
STAMP_AT, START_AT = 4, 4 + 32


def passes() -> None:
    print("\n| policy | n | one after the other | by one pass | / | by one pass, bfloat16 |")
    print("|---|---|---|---|---|---|")
    import torch

    for name, (plugin, params) in POLICIES.items():
        policy: Any = build("policies", plugin, params, SPEC)
        rng = np.random.default_rng(0)
        for count in COUNTS:
            seen = [SPEC.sample_observation(rng) for _ in range(count)]
            queries = [Query(one, task=Task("t")) for one in seen]

            def alone(seen: list[Any] = seen, policy: Any = policy) -> None:
                for one in seen:
                    policy.act(one)

            def together(queries: list[Query] = queries, policy: Any = policy) -> None:
                policy.act_batch(queries)

            def coarse(queries: list[Query] = queries, policy: Any = policy) -> None:
                with torch.autocast("cpu", torch.bfloat16):
                    policy.act_batch(queries)

            ways = [alone, together, coarse]
            times: list[list[float]] = [[], [], []]
            for number in range(24):  # they take turns: others on the machine disturb all alike
                for way, found in zip(ways, times, strict=True):
                    began = time.perf_counter()
                    way()
                    if number > 3:
                        found.append((time.perf_counter() - began) * 1e3)
            one, all_, half = (statistics.median(found) for found in times)
            print(
                f"| {name} | {count} | {one:.2f} ms | {all_:.2f} ms | {one / all_:.1f} | {half:.2f} ms |",
                flush=True,
            )


class Robots:
    """The other end: observations of many robots at their rate, and their answers."""

    def __init__(self, session: Any) -> None:
        self._session, self._lock = session, threading.Lock()
        self._sent_s: dict[tuple[str, int], float] = {}
        self.took_s: dict[str, list[float]] = {}
        self.refused: dict[str, str] = {}
        arrays = encode_observation(
            SPEC.sample_observation(np.random.default_rng(0)), "", deterministic=False
        )
        message = observation_to_message(Observation(arrays, stamp_ns=1, sequence=1, episode=1))
        self._template = bytearray(serialize_message(message))
        said = RobotDescription(SPEC, "task", "base", stamp_ns=1)
        self._spec = serialize_message(robot_description_to_message(said))
        self._kept = [
            session.declare_subscriber("learner/*/remote_action", self._answered),
            session.declare_subscriber("learner/*/remote_refusal", self._turned_away),
        ]

    def describe(self, name: str) -> None:
        self._session.put(f"{name}/robot_spec", self._spec)

    def _answered(self, sample: Any) -> None:
        now_s = time.perf_counter()
        name = str(sample.key_expr).split("/")[1]
        (stamp_ns,) = struct.unpack_from("<q", sample.payload.to_bytes(), START_AT)
        with self._lock:
            sent_s = self._sent_s.pop((name, stamp_ns), None)
            if sent_s is not None:
                self.took_s.setdefault(name, []).append(now_s - sent_s)

    def _turned_away(self, sample: Any) -> None:
        name = str(sample.key_expr).split("/")[1]
        self.refused[name] = sample.payload.to_bytes()[8:].decode(errors="replace").strip("\0")

    def run(self, names: Sequence[str], rate_hz: float, seconds: float) -> tuple[int, int]:
        """Send for this long; observations, and answers within one period."""
        with self._lock:
            self._sent_s.clear()
        self.took_s, self.refused = {name: [] for name in names}, {}
        period_s, rng = 1 / rate_hz, random.Random(len(names))
        begin_s = time.perf_counter() + 0.05
        due = sorted(
            (begin_s + i * period_s + phase_s, name)
            for name, phase_s in [(n, rng.random() * period_s) for n in names]
            for i in range(int(seconds * rate_hz))
        )
        for at_s, name in due:
            left_s = at_s - time.perf_counter()
            if left_s > 0:
                time.sleep(left_s)
            stamp_ns = time.time_ns()
            struct.pack_into("<iI", self._template, STAMP_AT, stamp_ns // 10**9, stamp_ns % 10**9)
            with self._lock:
                self._sent_s[(name, stamp_ns)] = time.perf_counter()
            self._session.put(f"{name}/remote_observation", bytes(self._template))
        time.sleep(2 * period_s + 0.2)
        with self._lock:
            in_time = sum(took <= period_s for found in self.took_s.values() for took in found)
        return len(due), in_time

    def percentile_ms(self, percent: float, names: Sequence[str] | None = None) -> float:
        every = [
            t for n, found in self.took_s.items() for t in found if names is None or n in names
        ]
        return float(np.percentile(every, percent)) * 1e3 if every else float("nan")


class World:
    """A bridge, and inference nodes whose robots have the names of their mode."""

    def __init__(
        self, stack: ExitStack, policy: tuple[str, dict[str, Any]], modes: dict[str, dict[str, Any]],
        count: int = MOST_ROBOTS,
    ) -> None:  # fmt: skip
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        self.env = env = {
            "ROS_DOMAIN_ID": str(stack.enter_context(claim_domain())),
            "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST", "OMP_NUM_THREADS": "1",
        }  # fmt: skip
        endpoint = free_endpoint()
        config = ZenohConfig(mode="router", listen=(endpoint,), shared_memory=False)
        self.session = session = open_session(config)
        self.names = {mode: [f"{mode}{i}" for i in range(count)] for mode in modes}
        every = [name for names in self.names.values() for name in names]
        bridge = {
            "role": "learner", "inference_for": every, "max_robots": len(every),
            "zenoh": {"connect": [endpoint], "shared_memory": False},
        }  # fmt: skip
        nodes = [
            NodeProcess(
                "user_comm.nodes.bridge", bridge, folder, "bridge", namespace="/learner", env=env
            )
        ]
        plugin, params = policy
        for mode, batching in modes.items():
            node = {
                "policy": {"plugin": plugin, "params": params}, "robots": self.names[mode],
                "batching": batching, "zenoh": {"connect": [endpoint], "shared_memory": False},
            }  # fmt: skip
            nodes.append(
                NodeProcess("user_actor.nodes.inference", node, folder, f"inference_{mode}", namespace="/learner", env=env)
            )  # fmt: skip
        for node_process in nodes:
            stack.callback(node_process.close)
            node_process.start()
        stack.callback(session.close)
        self.robots = Robots(session)
        for names in self.names.values():
            wait_until(lambda n=names: self._begun(n), f"{names[0]} is answered", 90.0)

    def _begun(self, names: Sequence[str]) -> bool:
        for name in names:
            if not self.robots.took_s.get(name):
                self.robots.describe(name)
                time.sleep(0.02)  # a bridge keeps a few for all robots
        self.robots.run(names[:1], 5.0, 0.4)
        return bool(self.robots.took_s[names[0]])


def robots(rates: Sequence[float], seconds: float) -> dict[tuple[str, float], int]:
    found: dict[tuple[str, float], int] = {}
    print(
        "\n| policy | rate | batches | robots | p50, p99 with this many | one more step |\n|---|---|---|---|---|---|"
    )
    for policy in POLICIES:
        modes = {
            "on": {"most": 16, "budget_s": 60.0}, "off": {"most": 1, "wait_s": 0.0, "budget_s": 60.0},
        }  # fmt: skip
        with ExitStack() as stack:
            world = World(stack, POLICIES[policy], modes)
            for rate_hz in rates:
                best = dict.fromkeys(modes, (0, ""))
                ended: dict[str, str] = {}
                for count in COUNTS:
                    for mode in modes:
                        if mode in ended:
                            continue
                        names = world.names[mode][:count]
                        world.robots.run(names, rate_hz, 0.5)  # robots that are new
                        sent, in_time = world.robots.run(names, rate_hz, seconds)
                        p50, p99 = (world.robots.percentile_ms(p) for p in (50, 99))
                        text = f"{p50:.0f}, {p99:.0f} ms"
                        if in_time >= 0.99 * sent:
                            best[mode] = (count, text)
                        else:
                            ended[mode] = f"{count}: {in_time / sent:.0%} in time"
                for mode, (count, text) in best.items():
                    most = " (as many as were tried)" if count == COUNTS[-1] else ""
                    print(
                        f"| {policy} | {rate_hz:.0f} Hz | {mode} | **{count}**{most} | {text} | {ended.get(mode, '')} |",
                        flush=True,
                    )
                found[policy, rate_hz] = best["on"][0]
    return found


def admission(policy: str, rate_hz: float, seconds: float) -> None:
    """All robots at once, with a budget of one period and with one that nobody exceeds."""
    modes = {
        "all": {"most": 16, "budget_s": 60.0}, "some": {"most": 16, "budget_s": 1 / rate_hz},
    }  # fmt: skip
    print(
        f"\n| {policy}, {MOST_ROBOTS} robots, {rate_hz:.0f} Hz | answered | turned away | answers a second, each | p50 | p99 "
        "| within a period |"
    )
    print("|---|---|---|---|---|---|---|")
    with ExitStack() as stack:
        world = World(stack, POLICIES[policy], modes)
        for mode, names in world.names.items():
            world.robots.run(names, rate_hz, 1.0)
            world.robots.run(names, rate_hz, max(seconds, 5.0))  # overload lasts before it counts
            world.robots.run(names, rate_hz, seconds)
            served = [n for n in names if n not in world.robots.refused]
            times = [t for n in served for t in world.robots.took_s[n]]
            asked = len(served) * int(seconds * rate_hz)
            in_time = sum(t <= 1 / rate_hz for t in times) / max(1, asked)
            p50, p99 = (world.robots.percentile_ms(p, served) for p in (50, 99))
            label = "without admission" if mode == "all" else f"budget {1e3 / rate_hz:.0f} ms"
            print(
                f"| {label} | {len(served)} | {len(world.robots.refused)} | "
                f"{len(times) / max(1, len(served)) / seconds:.1f} | {p50:.0f} ms | {p99:.0f} ms | {in_time:.0%} |",
                flush=True,
            )
        print("\n" + next(iter(world.robots.refused.values()), ""))


def preparing(rate_hz: float, seconds: float) -> None:
    """A version that takes long to be made ready, beside robots that are answered."""
    plugin, params = SLOW
    print(
        "\n| | answers a second, of the robot with the fewest | p50, p99 | turned away |\n|---|---|---|---|"
    )
    with ExitStack() as stack:
        modes = {"r": {"wait_s": 0.01, "budget_s": 0.4}}
        world = World(stack, SLOW, modes, FEW_ROBOTS)
        names, robots = world.names["r"], world.robots
        os.environ.update(world.env)
        probe = GraphProbe()
        stack.callback(probe.close)
        announce = probe.speaker(replace(topics.POLICY, name="/learner/policy"))
        server = stack.enter_context(PolicyServer(world.session, "learner/policy", announce))
        arrays = build("policies", plugin, params, SPEC).arrays()
        version = PolicyVersion(1, arrays, policy_config_hash(plugin, params, SPEC), created_ns=1)
        for what, lasts_s in (
            ("before", seconds), (f"while it is prepared, {params['prepare_s']:.0f} s", params["prepare_s"] - 1.0),
            ("after it", 2 * seconds),
        ):  # fmt: skip
            if what.startswith("while"):
                server.publish(version)
            robots.run(names, rate_hz, lasts_s)
            fewest = min(len(robots.took_s[name]) for name in names) / lasts_s
            p50, p99 = (robots.percentile_ms(p) for p in (50, 99))
            away = len(robots.refused)
            print(f"| {what} | {fewest:.1f} | {p50:.0f}, {p99:.0f} ms | {away} |", flush=True)


def main() -> None:
    parser = Parser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--seconds", type=float, default=3.0, help="of each trial")
    parser.add_argument("--rates", default="10,20,50", help="Hz")
    parser.add_argument("--only", default=",".join(PARTS), help="some of these")
    given = parser.parse_args()
    if wrong := set(given.only.split(",")) - set(PARTS):
        parser.error(f"--only: got {', '.join(sorted(wrong))}, expected some of {','.join(PARTS)}")
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    rates = [float(rate) for rate in given.rates.split(",")]
    for name in given.only.split(","):
        print(f"\n## {name}", flush=True)
        if name == "passes":
            passes()
        elif name == "robots":
            robots(rates, given.seconds)
        elif name == "preparing":
            preparing(5.0, given.seconds)
        else:
            for policy in POLICIES:
                admission(policy, rates[0], given.seconds)


if __name__ == "__main__":
    main()
