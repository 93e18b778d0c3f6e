"""The demo over a bad link: a robot's host and the learner's, 20 Mbit/s and 80 ms apart, cut thrice.

Two hosts on one machine. As root they are network namespaces joined by an emulated link (delay,
rate, drop-tail queue, cuts); otherwise two ROS domains with a proxy between them that delays,
limits and cuts the connections. Everything that crosses does so by bridge and router, over mutual
TLS: experience up, acks and policies down.

    make demo-edge-cloud            python examples/edge_cloud_demo.py --help
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import yaml

from user_actor.outbox.storage import OutboxDatabase
from user_comm.net.network import Members, Network
from user_core.command_line import Parser
from user_learner.replay import StoreReader, StoreWriter
from user_testing.link_emulator import Host, Link, LinkQuality, unavailable
from user_testing.link_proxy import LinkProxy
from user_testing.ports import free_port

ROBOT = "robot0"
NOISE = 0.3  # of the demonstrations; see `user demo`


class Far:
    """The two hosts, and the link between them."""

    def __init__(
        self, stack: ExitStack, quality: LinkQuality, domain: int, proxy: bool = False
    ) -> None:
        self._domains = {"cloud": domain, "edge": domain + 1}
        self._hosts: dict[str, Host] = {}
        self.link: Any
        reason = "so it was wished" if proxy else unavailable()
        if reason is None:
            for name in self._domains:
                self._hosts[name] = stack.enter_context(Host(name))
            self.link = stack.enter_context(Link(*self._hosts.values(), quality))
            address = self.link.address_of(self._hosts["cloud"])
            self.listen = self.connect = f"tls/{address}:7457"
            self.what = "an emulated link between two network namespaces"
        else:
            address, port, inner = "127.0.0.1", free_port(), free_port()
            self.link = stack.enter_context(LinkProxy(port, inner, quality))
            self.listen, self.connect = f"tls/{address}:{inner}", f"tls/{address}:{port}"
            self.what = f"a proxy that delays, limits and cuts connections ({reason})"
        self.address = address

    def start(self, host: str, words: list[str], log: Path) -> subprocess.Popen[str]:
        """Start a program on a host."""
        if host in self._hosts:
            words = self._hosts[host].command(*words)
        with open(log, "a", encoding="utf-8") as out:
            return subprocess.Popen(
                words, stdout=out, stderr=subprocess.STDOUT, text=True, start_new_session=True,
                env={**os.environ, "ROS_DOMAIN_ID": str(self._domains[host])},
            )  # fmt: skip


def main() -> int:
    """Exit code 0 when it has learned, and nothing that was experienced is missing."""
    arguments = parser().parse_args()
    name = time.strftime("edge-cloud-%Y%m%d-%H%M%S")
    folder = (arguments.runs / name).resolve()
    folder.mkdir(parents=True)
    robot = folder / "robot.yaml"
    params = {"robot": "panda", "task": arguments.task}
    robot.write_text(
        yaml.safe_dump({"robot": {"plugin": "mujoco", "params": params}, "task": arguments.task}),
        encoding="utf-8",
    )
    demonstrations = folder / "demonstrations"
    subprocess.run(
        ["user", "demos", "record", str(robot), "--out", str(demonstrations), "--episodes",
         str(arguments.demonstrations), "--noise", str(NOISE), "--seed", str(arguments.seed)],
        check=True,
    )  # fmt: skip
    quality = LinkQuality(arguments.rate, arguments.rtt / 2)
    with ExitStack() as stack:
        far = Far(stack, quality, arguments.domain, arguments.proxy)
        print(f"{arguments.rate:g} Mbit/s, {arguments.rtt:g} ms round trip: {far.what}")
        network = Network.create(
            folder / "net", Members(endpoints=(far.listen,), hosts=(far.address,))
        )
        learner = network.add("learner", "learner").folder
        credentials = network.add("robot", ROBOT).folder
        common = ["--runs", str(folder), "--no-table"]
        driver = {"real_time": True, "speed": arguments.speed, "seed": arguments.seed}
        # At another speed a period is shorter by the clock; what an action does in it is the same.
        same = [] if arguments.speed == 1.0 else ["learner.data.accept_differences:=[period]"]
        cloud = far.start(
            "cloud",
            ["user", "up", "cloud", f"network:={network.folder}", f"router:={far.listen}",
             f"credentials:={learner}", "algorithm:=rlpd_cpu", f"seed:={arguments.seed}",
             f"demonstrations:={demonstrations}", *same, "--run", "cloud", *common],
            folder / "cloud.txt",
        )  # fmt: skip
        stack.callback(end, cloud)
        edge = far.start(
            "edge",
            ["user", "up", "edge", f"name:={ROBOT}", f"router:={far.connect}",
             f"credentials:={credentials}", "algorithm:=rlpd_cpu", f"robot:={robot}",
             f"robot_params:={yaml.safe_dump(driver, default_flow_style=True).strip()}",
             "evaluate_every:=3", "start:=at_once", "--minutes", str(arguments.minutes), "--until-success", "0.9",
             "--run", "edge", *common],
            folder / "edge.txt",
        )  # fmt: skip
        stack.callback(end, edge)
        cut_s = watch(folder, far.link, (cloud, edge), arguments)
        broken = None
        if cloud.poll() is not None and edge.poll() is None:
            broken = ("the learner's host has ended", folder / "cloud.txt")
        elif edge.poll() and not committed(folder):
            broken = ("the robot's host has ended before its first step", folder / "edge.txt")
        end(edge)
        end(cloud)
        if broken is not None:
            what, said = broken
            print(f"{what}: {why_ended(said)}\n  {said}")
            return 1
        return report(folder, far.link, cut_s, account(folder), arguments)


def watch(
    folder: Path,
    link: Any,
    hosts: tuple[subprocess.Popen[str], ...],
    arguments: argparse.Namespace,
) -> list[float]:
    """Say how it goes, and cut the link now and then, until one of the hosts has ended."""
    began_s = said_s = time.monotonic()
    cuts = [(30.0 + 30.0 * n, length) for n, length in enumerate(arguments.cuts)]
    done: list[float] = []
    while all(host.poll() is None for host in hosts):
        now_s = time.monotonic() - began_s
        if cuts and now_s >= cuts[0][0]:
            _, length_s = cuts.pop(0)
            print(f"{now_s:5.0f} s  --- the link is cut for {length_s:g} s ---", flush=True)
            before = committed(folder)
            link.cut()
            time.sleep(length_s)
            link.restore()
            gained = committed(folder) - before
            print(f"        --- and is back; {gained} steps were collected meanwhile ---")
            done.append(length_s)
        if time.monotonic() - said_s >= 10.0:
            said_s = time.monotonic()
            print(last_line(folder / "edge.txt"), flush=True)
        time.sleep(0.2)
    return done


def account(folder: Path) -> tuple[int, int, int]:
    """Steps that were committed on the robot; that are in the store; that wait in the outbox.

    What was experienced in the last moments is sent when the robot's host runs again.
    """
    with StoreWriter(folder / "cloud" / "replay") as writer:
        stored = max((ack.sequence for ack in writer.acknowledged()), default=0)
    (file,) = (folder / "edge" / "outbox").glob("*/outbox.sqlite")
    reader, outbox = StoreReader(folder / "cloud" / "replay"), OutboxDatabase(file, ROBOT)
    try:
        unsent = [outbox.read(entry.sequence) for entry in outbox.upcoming(stored, 10_000)]
        waiting = sum(int((~chunk.columns["final"]).sum()) for chunk in unsent)
        return outbox.steps, sum(reader.meta.steps.values()), waiting
    finally:
        reader.close()
        outbox.close()


def report(
    folder: Path, link: Any, cut_s: list[float], steps: tuple[int, int, int], arguments: Any
) -> int:
    """Print what came of it."""
    done, stored, waiting = steps
    said = (folder / "edge.txt").read_text(encoding="utf-8")
    learned = "stopping: evaluation " in said  # as `user up --until-success` says
    down, up = link.traffic()
    print(last_line(folder / "edge.txt"))
    print(f"cuts: {len(cut_s)} ({', '.join(f'{s:g} s' for s in cut_s)})")
    print(f"over the link: {up.bytes / 1e6:.1f} MB up, {down.bytes / 1e6:.1f} MB down")
    print(f"steps committed on the robot: {done}; in the store {stored}, in the outbox {waiting}")
    print("learned: 90 % of the last 20 evaluation episodes" if learned else "has not learned yet")
    print(f"folder: {folder}")
    return 0 if learned and stored + waiting == done and len(cut_s) == len(arguments.cuts) else 1


def committed(folder: Path) -> int:
    """Steps that the robot's host has put on its disk so far."""
    for file in (folder / "edge" / "outbox").glob("*/outbox.sqlite"):
        with contextlib.closing(sqlite3.connect(file)) as connection:
            (steps,) = connection.execute("SELECT value FROM meta WHERE key = 'steps'").fetchone()
            return int(steps)
    return 0


def last_line(file: Path, about: str = " steps", without: str = "starting") -> str:
    """The newest line with these words."""
    lines = [line for line in file.read_text(encoding="utf-8").splitlines() if about in line]
    return lines[-1] if lines else without


def why_ended(file: Path) -> str:
    """The line of `user up` that says why it has ended; of none that says so, its last words before its report."""
    lines = [line for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
    lines = [line.strip() for line in lines if not line.startswith("report: ")]
    for about in (": given up, ", " given up: ", "nothing was collected: ", ""):
        if found := [line for line in lines if about in line]:
            return found[-1]
    return "it said nothing"


def end(process: subprocess.Popen[str]) -> None:
    """End `user up` as Ctrl-C does; then whatever is left."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(60)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def parser() -> Parser:
    """The command line."""
    made = Parser(description=__doc__.partition("\n\n    make")[0])
    made.add_argument("--task", default="peg_insertion", choices=["reach", "peg_insertion"])
    made.add_argument("--rate", type=float, default=20.0, help="of the link, Mbit/s")
    made.add_argument("--rtt", type=float, default=80.0, help="of the link, milliseconds")
    made.add_argument(
        "--cuts",
        type=float,
        nargs="*",
        default=[5.0, 10.0, 15.0],
        help="how long the link is cut each time, seconds",
    )
    made.add_argument("--minutes", type=float, default=10.0, help="longest time to learn")
    made.add_argument("--speed", type=float, default=1.0, help="simulated seconds in a second")
    made.add_argument(
        "--demonstrations", type=int, default=20, help="episodes of the scripted expert"
    )
    made.add_argument("--seed", type=int, default=0, help="of starts and of learning")
    made.add_argument("--runs", type=Path, default=Path("runs"), help="folder of all runs")
    made.add_argument("--domain", type=int, default=42, help="ROS domain; the next one too")
    made.add_argument("--proxy", action="store_true", help="a proxy, also where there is root")
    return made


if __name__ == "__main__":
    sys.exit(main())
