"""A version of an adapter and one of the whole model on their way to a robot behind a thin link.

Learner and robot are network namespaces, with an emulated link in between (root and ``/dev/net/tun`` are needed). The
model is a transformer's weights at random in bfloat16, its adapter LoRA's matrices in float32. Each comes as an actor
pulls it: with its own limits, pieces and checks. At the robot a control loop lets a policy act 50 times a second, and
messages of 100 bytes cross the link both ways at that rate; how late they are is noted while nothing is pulled and
while each version comes.

    python benchmarks/links/adapter_over_link.py [--width 1024] [--layers 4] [--rank 4] [--rate 20] [--delay 40]
"""

from __future__ import annotations

import argparse
import json
import sys
import threading
import time
from contextlib import ExitStack
from typing import Any

import numpy as np

from user_comm.converters import PolicyAnnouncement
from user_comm.net.sessions import open_session
from user_comm.policy_blobs.puller import PolicyPuller
from user_comm.policy_blobs.server import PolicyServer
from user_core.command_line import Parser
from user_core.policies.tanh_gaussian import TanhGaussianConfig, TanhGaussianPolicy
from user_core.specs import Array, ArraySpec, RobotSpec
from user_core.types import PolicyVersion
from user_testing.link_emulator import Host, Link, LinkQuality, unavailable
from user_testing.systems import take_sigterm_as_ctrl_c
from wan import End
from wan_ends import Control, config, say

SPEC = RobotSpec(
    "arm", {"q": ArraySpec((14,), low=-3.0, high=3.0)}, ArraySpec((7,), low=-1.0, high=1.0)
)
PHASES = ("idle", "model", "adapter")
PERIOD_S = 0.02


def linear_layers(width: int, layers: int) -> dict[str, tuple[int, int]]:
    """Names and shapes of the weights of a transformer with hidden layers of four times its width."""
    found = {}
    for i in range(layers):
        found |= {f"block{i}.{name}": (width, width) for name in ("q", "k", "v", "o")}
        found |= {f"block{i}.up": (width, 4 * width), f"block{i}.down": (4 * width, width)}
    return found


def model(width: int, layers: int) -> dict[str, Array]:
    """Weights in bfloat16, as the uint16 they travel as."""
    rng, found = np.random.default_rng(0), {}
    for name, shape in linear_layers(width, layers).items():
        values = (0.02 * rng.standard_normal(shape, np.float32)).view(np.uint32)
        found[name] = (values >> 16).astype(np.uint16)
    return found


def adapter(width: int, layers: int, rank: int) -> dict[str, Array]:
    """Two matrices of a rank beside each weight, float32."""
    rng, found = np.random.default_rng(1), {}
    for name, (inputs, outputs) in linear_layers(width, layers).items():
        found[f"{name}.lora_A"] = rng.standard_normal((inputs, rank), np.float32)
        found[f"{name}.lora_B"] = rng.standard_normal((rank, outputs), np.float32)
    return found


def learner(given: argparse.Namespace) -> None:
    """Serves both; obeys: phase N, publish model, publish adapter."""
    phase = [0]
    with ExitStack() as stack:
        ends = config(mode="router", listen=(given.endpoint,))
        session = stack.enter_context(open_session(ends, threading.Event()))
        control = Control(session, "robot/down", "robot/up", lambda: phase[0])
        servers = {}
        for name in PHASES[1:]:

            def announce(made: PolicyAnnouncement, name: str = name) -> None:
                data = json.dumps({**made.__dict__, "kind": int(made.kind)}).encode()
                session.put(f"announcement/{name}", data)

            servers[name] = stack.enter_context(PolicyServer(session, f"user/{name}", announce))
        say(ready=True)
        for line in sys.stdin:
            word, _, value = line.strip().partition(" ")
            if word == "phase":
                phase[0] = int(value)
            elif word == "publish":
                arrays = (
                    model(given.width, given.layers) if value == "model"
                    else adapter(given.width, given.layers, given.rank)
                )  # fmt: skip
                servers[value].publish(PolicyVersion(1, arrays, created_ns=time.monotonic_ns()))
            say(**control.report())


def robot(given: argparse.Namespace) -> None:
    """Pulls both, and controls; obeys: phase N, report."""
    phase = [0]
    came_s: dict[str, float] = {}
    late_s: dict[int, list[float]] = {0: [], 1: [], 2: []}
    with ExitStack() as stack:
        ends, never = config(connect=(given.endpoint,)), threading.Event()
        session = stack.enter_context(open_session(ends, never))
        control = Control(session, "robot/up", "robot/down", lambda: phase[0])
        pullers: dict[str, PolicyPuller] = {}
        for name in PHASES[1:]:
            puller = stack.enter_context(
                PolicyPuller(
                    lambda _: open_session(ends, never), "",
                    lambda name=name: came_s.setdefault(name, time.monotonic()),
                )
            )  # fmt: skip
            pullers[name] = puller

            def hear(sample: Any, puller: PolicyPuller = puller) -> None:
                puller.announced(PolicyAnnouncement(**json.loads(sample.payload.to_bytes())))

            stack.callback(session.declare_subscriber(f"announcement/{name}", hear).undeclare)
        policy = TanhGaussianPolicy(TanhGaussianConfig(), SPEC)
        seen = SPEC.sample_observation(np.random.default_rng(0))

        def act() -> None:
            due_s = time.monotonic()
            while True:
                due_s += PERIOD_S
                time.sleep(max(0.0, due_s - time.monotonic()))
                policy.act(seen)
                late_s[phase[0]].append(time.monotonic() - due_s)

        threading.Thread(target=act, daemon=True).start()
        say(ready=True)
        for line in sys.stdin:
            word, _, value = line.strip().partition(" ")
            if word == "phase":
                phase[0] = int(value)
            stats = {name: one.stats for name, one in pullers.items()}
            say(
                **control.report(),
                loop_ms={
                    str(p): [round(1e3 * float(x), 2) for x in np.percentile(v, [50, 99])]
                    for p, v in late_s.items()
                    if v
                },
                pull_s={n: s.last_pull_s for n, s in stats.items() if n in came_s},
                bytes={n: s.bytes for n, s in stats.items()},
                refused={n: str(s.refused) for n, s in stats.items()},
            )


def measure(given: argparse.Namespace) -> None:
    why = unavailable()
    if why:
        raise SystemExit(why)
    quality = LinkQuality(rate_mbit_s=given.rate, delay_ms=given.delay)
    sizes = [f"--width={given.width}", f"--layers={given.layers}", f"--rank={given.rank}"]
    with ExitStack() as stack:
        cloud, edge = (stack.enter_context(Host(name)) for name in ("cloud", "robot"))
        link = stack.enter_context(Link(cloud, edge, quality))
        above = End(cloud, __file__, "--role", "learner", "--endpoint", "tcp/0.0.0.0:7457", *sizes)
        stack.callback(above.close)
        endpoint = f"tcp/{link.address_of(cloud)}:7457"
        below = End(edge, __file__, "--role", "robot", "--endpoint", endpoint, *sizes)
        stack.callback(below.close)
        time.sleep(3.0)
        for number, name in enumerate(PHASES):
            above.ask(f"phase {number}")
            report = below.ask(f"phase {number}")
            if number:
                above.ask(f"publish {name}")
                while name not in report["pull_s"]:
                    time.sleep(0.05)
                    report = below.ask("report")
                print(f"{name} came", file=sys.stderr, flush=True)
            time.sleep(given.idle if name == "idle" else 1.0)
            above.ask("phase 0")
            below.ask("phase 0")
        down, up = below.ask("report"), above.ask("report")
    print(
        "\n| | bytes | time | of the model's | control loop, p50, p99 | messages up, p99 | down, p99 |"
    )
    print("|---|---|---|---|---|---|---|")
    for number, name in enumerate(PHASES):
        phase = str(number)
        loop, sent = down["loop_ms"][phase], (up["late_ms"][phase][1], down["late_ms"][phase][1])
        pull = down["pull_s"].get(name)
        share = "" if pull is None else f"{pull / down['pull_s']['model']:.4f}"
        took = "" if pull is None else f"{pull:.2f} s"
        nbytes = "" if pull is None else f"{down['bytes'][name]:,}".replace(",", " ")
        print(
            f"| {name} | {nbytes} | {took} | {share} | {loop[0]:.2f}, {loop[1]:.2f} ms late | {sent[0]:.1f} ms | "
            f"{sent[1]:.1f} ms |"
        )  # fmt: skip


def main() -> None:
    parser = Parser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--width", type=int, default=1024)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--rank", type=int, default=4)
    parser.add_argument("--rate", type=float, default=20.0, help="Mbit/s")
    parser.add_argument("--delay", type=float, default=40.0, help="one way, ms")
    parser.add_argument(
        "--idle", type=float, default=20.0, help="seconds in which nothing is pulled"
    )
    parser.add_argument("--role", default="", help=argparse.SUPPRESS)
    parser.add_argument("--endpoint", default="", help=argparse.SUPPRESS)
    given = parser.parse_args()
    take_sigterm_as_ctrl_c()
    {"": measure, "learner": learner, "robot": robot}[given.role](given)


if __name__ == "__main__":
    main()
