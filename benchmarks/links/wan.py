"""Trajectories, policies and control traffic over a bad link, beside an idle one. Needs root.

Hosts are network namespaces, joined by the emulated link of :mod:`user_testing.link_emulator` (by default
20 Mbit/s, 80 ms there and back, a queue of 100 ms); Zenoh's shared memory is off.

    python benchmarks/links/wan.py drain        # goodput of a backlog, control traffic beside it
    python benchmarks/links/wan.py cuts         # random cuts, then a long one: nothing lost, nothing twice
    python benchmarks/links/wan.py neighbours   # a fast robot beside a slow and a black-holed one
"""

from __future__ import annotations

import argparse
import random
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

from user_core.command_line import Parser
from user_learner.replay.reader import StoreReader
from user_testing.link_emulator import Host, Link, LinkQuality, unavailable
from user_testing.systems import InLines, take_sigterm_as_ctrl_c

ENDS = Path(__file__).with_name("wan_ends.py")


class End(InLines):
    """A process in a host, that obeys lines and answers in lines."""

    def __init__(self, host: Host, script: str | Path, *words: str) -> None:
        process = host.popen(
            [sys.executable, str(script), *words], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        super().__init__(process, "an end of the benchmark")
        self.answer()


class World:
    """A cloud, and robots each behind a link of its own."""

    def __init__(
        self, stack: ExitStack, folder: Path, links: dict[str, LinkQuality],
        arguments: argparse.Namespace, policy_floats: int,
    ) -> None:  # fmt: skip
        self.folder = folder
        cloud_host = stack.enter_context(Host("cloud"))
        self.links, self.robots, self.bridges = {}, {}, {}
        hosts = {name: stack.enter_context(Host(name)) for name in links}
        for name, quality in links.items():
            self.links[name] = stack.enter_context(Link(cloud_host, hosts[name], quality))

        def start(host: Host, place: Path, role: str, endpoint: str, *words: str) -> End:
            tcp = ["--tcp", arguments.tcp] if arguments.tcp else []
            given = ("--folder", str(place), "--endpoint", endpoint)
            end = End(host, ENDS, role, *given, *words, *tcp)
            stack.callback(end.close)
            return end

        self.router = start(
            cloud_host, folder, "bridge", "tcp/0.0.0.0:7457", "--listen", "--robots",
            ",".join(links),
        )  # fmt: skip
        self.store = start(cloud_host, folder, "store", "tcp/127.0.0.1:7457")
        self.learner = start(
            cloud_host, folder, "learner", "tcp/127.0.0.1:7457", "--policy-floats",
            str(policy_floats), "--policy-period-s", str(arguments.policy_period_s),
        )  # fmt: skip
        for name, host in hosts.items():
            endpoint = f"tcp/{self.links[name].address_of(cloud_host)}:7457"
            self.bridges[name] = start(host, folder, "bridge", endpoint, "--robots", name)
            self.robots[name] = start(
                host, folder / name, "robot", endpoint, "--name", name, "--chunk-bytes",
                str(arguments.chunk_bytes),
            )  # fmt: skip

    def phase(self, number: int) -> None:
        for end in (self.router, self.learner, *self.bridges.values()):
            end.ask(f"phase {number}")

    def control(self, name: str) -> tuple[str, str]:
        """How control traffic of a robot fared, up and down."""
        cloud, edge = self.router.ask("report")[name], self.bridges[name].ask("report")[name]
        return control_line("up", cloud, edge), control_line("down", edge, cloud)

    def drained(self, name: str, timeout_s: float = 600.0) -> dict[str, Any]:
        deadline_s = time.monotonic() + timeout_s
        while True:
            report = self.robots[name].ask("report")
            if report["pending"] == 0:
                return report
            if time.monotonic() > deadline_s:
                raise SystemExit(f"not drained within {timeout_s:.0f} s: {report}")
            time.sleep(0.25)

    def stored(self) -> int:
        """Steps in the store, which ends."""
        self.store.ask("end")
        with closing(StoreReader(self.folder / "store")) as reader:
            reader.refresh()
            episodes = len({int(number) for number in reader.tables.extents[:, 1]})
            return int(reader.tables.segments[:, 2].sum()) - episodes


def control_line(label: str, report: dict[str, Any], sent: dict[str, Any]) -> str:
    parts = []
    for phase, name in (("0", "idle"), ("1", "loaded")):
        if phase in report["late_ms"]:
            p50, p99, p999 = report["late_ms"][phase]
            share = report["came"][phase] / max(1, sent["sent"].get(phase, 1))
            parts.append(f"{name} p50 {p50:.1f} p99 {p99:.1f} p99.9 {p999:.1f} ms, "
                         f"{100 * share:.2f} % came")  # fmt: skip
    ratio = ""
    if {"0", "1"} <= report["late_ms"].keys():
        ratio = f"; p99 x {report['late_ms']['1'][1] / report['late_ms']['0'][1]:.2f}"
    return f"    control {label}: {'; '.join(parts)}{ratio}"


def drain(arguments: argparse.Namespace, stack: ExitStack, folder: Path) -> None:
    quality = LinkQuality(arguments.rate, arguments.delay, arguments.loss, arguments.queue)
    world = World(stack, folder, {"r1": quality}, arguments, arguments.policy_floats)
    robot = world.robots["r1"]
    filled = robot.ask(f"fill {arguments.megabytes}")
    world.phase(0)
    time.sleep(arguments.idle_s)
    world.phase(1)
    before = world.links["r1"].traffic()
    first = robot.ask("deliver")
    samples = [first]
    while samples[-1]["pending"]:
        time.sleep(0.25)
        samples.append(robot.ask("report"))
        if arguments.verbose:
            s, (down, up) = samples[-1], world.links["r1"].traffic()
            print(f"# {s['at_s'] - first['at_s']:6.2f} s pending {s['pending']/1e6:6.2f} MB window {s['window']} rate "
                  f"{s['rate']} rtt {s['round_trip_ms']} resent {s['resent']}; policies: rate "
                  f"{s['pull_rate']} rtt {s['pull_round_trip_ms']} {s['policy_bytes']}; queue up {up.queue_ms:.0f} down {down.queue_ms:.0f} ms")  # fmt: skip
        if samples[-1]["at_s"] - first["at_s"] > arguments.limit_s:
            break
    last = samples[-1]
    after = world.links["r1"].traffic()
    took_s = last["at_s"] - first["at_s"]
    delivered = filled["pending"] - last["pending"]
    goodput = 8e-6 * delivered / took_s
    on_wire = 8e-6 * (after[1].bytes - before[1].bytes) / took_s
    started = next(s for s in samples if s["at_s"] - first["at_s"] > 2.0 or s is last)
    steady = (
        8e-6 * (started["pending"] - last["pending"]) / max(0.1, last["at_s"] - started["at_s"])
    )
    print(f"    {delivered / 1e6:.1f} MB in {took_s:.1f} s: goodput {goodput:.2f} Mbit/s, on the wire "
          f"{on_wire:.2f}, of {arguments.rate:g}: {goodput / arguments.rate:.3f}, "
          f"after the first two seconds {steady / arguments.rate:.3f}; "
          f"resent {last['resent']}, packets dropped {after[1].dropped - before[1].dropped} up, "
          f"{after[0].dropped - before[0].dropped} down")  # fmt: skip
    print(f"    policies meanwhile: {last['versions']} versions, {last['policy_bytes'] / 1e6:.1f} MB, "
          f"pulled in {max(last['pull_s'], default=0):.2f} s at most")  # fmt: skip
    world.phase(2)
    time.sleep(0.5)
    print(*world.control("r1"), sep="\n")


def cuts(arguments: argparse.Namespace, stack: ExitStack, folder: Path) -> None:
    quality = LinkQuality(arguments.rate, arguments.delay, arguments.loss, arguments.queue)
    world = World(stack, folder, {"r1": quality}, arguments, 0)
    robot, link, dice = world.robots["r1"], world.links["r1"], random.Random(arguments.seed)
    robot.ask("deliver")
    robot.ask("collect 20")
    total_s = 0.0
    for _ in range(arguments.cuts):
        time.sleep(dice.uniform(0.2, 2.0))
        link.cut()
        length_s = dice.uniform(1.0, 30.0) * arguments.scale
        time.sleep(length_s)
        total_s += length_s
        link.restore()
    time.sleep(1.0)
    link.cut()
    time.sleep(600 * arguments.scale)
    link.restore()
    cut_end_s = time.monotonic()
    still = robot.ask("still")
    report = world.drained("r1")
    back_s = time.monotonic() - cut_end_s
    stored = world.stored()
    print(f"    {arguments.cuts} cuts ({total_s:.0f} s in all), then one of {600 * arguments.scale:.0f} s: "
          f"{report['steps']} steps collected, {stored} in the store; "
          f"backlog {still['pending'] / 1e6:.1f} MB gone after {back_s:.1f} s, {report['resent']} chunks "
          f"sent again, longest append {report['longest_append_ms']} ms")  # fmt: skip
    if stored != report["steps"]:
        raise SystemExit("steps were lost or doubled")


def neighbours(arguments: argparse.Namespace, stack: ExitStack, folder: Path) -> None:
    fast = LinkQuality(arguments.rate, arguments.delay, arguments.loss, arguments.queue)
    slow = LinkQuality(4, arguments.delay, arguments.loss, arguments.queue)
    for label, links in (
        ("alone", {"fast": fast}),
        ("with a slow one and a black hole", {"fast": fast, "slow": slow, "hole": fast}),
    ):
        with ExitStack() as inner:
            place = folder / str(len(links))
            place.mkdir()
            world = World(inner, place, links, arguments, arguments.policy_floats)
            for end in world.robots.values():
                end.ask("fill 1")
            world.phase(1)
            for end in world.robots.values():
                end.ask("deliver")
                end.ask("collect 20")
            if "hole" in links:
                time.sleep(2.0)
                world.links["hole"].cut()
            time.sleep(arguments.seconds)
            report = world.robots["fast"].ask("report")
            ages = sorted(report["pull_s"])
            versions = world.learner.ask("report")["versions"]
            print(f"    {label}: {report['versions']} of {versions} versions, pull median "
                  f"{ages[len(ages) // 2] if ages else float('nan'):.3f} s, worst "
                  f"{ages[-1] if ages else float('nan'):.3f} s; pending "
                  f"{report['pending'] / 1e6:.2f} MB")  # fmt: skip
            print(*world.control("fast"), sep="\n")


def main() -> None:
    parser = Parser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("drain", "cuts", "neighbours"))
    parser.add_argument("--rate", type=float, default=20.0, help="Mbit/s")
    parser.add_argument("--delay", type=float, default=40.0, help="ms, one way")
    parser.add_argument("--loss", type=float, default=0.0, help="part of the packets")
    parser.add_argument("--tcp", default="", help="congestion control of TCP: reno, cubic, bbr")
    parser.add_argument("--queue", type=float, default=100.0, help="ms")
    parser.add_argument("--chunk-bytes", type=int, default=32 * 1024)
    parser.add_argument("--megabytes", type=float, default=60.0, help="backlog to drain")
    parser.add_argument("--policy-floats", type=int, default=500_000)
    parser.add_argument("--policy-period-s", type=float, default=2.0)
    parser.add_argument("--idle-s", type=float, default=15.0)
    parser.add_argument("--limit-s", type=float, default=120.0)
    parser.add_argument("--seconds", type=float, default=30.0, help="of neighbours, each")
    parser.add_argument("--cuts", type=int, default=20)
    parser.add_argument("--scale", type=float, default=0.1, help="of the cuts' lengths")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--verbose", action="store_true")
    arguments = parser.parse_args()
    take_sigterm_as_ctrl_c()
    if reason := unavailable():
        raise SystemExit(f"no emulated link: {reason}")
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        print(f"{arguments.what}: {arguments.rate:g} Mbit/s, {2 * arguments.delay:g} ms, loss "
              f"{arguments.loss:g}, queue {arguments.queue:g} ms, chunks of {arguments.chunk_bytes}"
              f"{', TCP ' * bool(arguments.tcp)}{arguments.tcp}")  # fmt: skip
        {"drain": drain, "cuts": cuts, "neighbours": neighbours}[arguments.what](
            arguments, stack, folder
        )


if __name__ == "__main__":
    main()
