"""How soon a dead or silent host is known among 100, and what the scheduler costs while nothing happens.

A router, a scheduler, and ten processes with the agents of ten hosts each, over Zenoh on this machine. One process
after the other is killed (its sockets close, as when an agent or a host's system ends), and then stopped by a signal
(nothing closes, as behind a cut); measured is the time until the scheduler's file says for each of its hosts that it is
away. Before that, the processor time of the scheduler and of the agents while nothing happens.

    python benchmarks/system/fleet_presence.py [--rounds 6] [--idle 30]
"""

from __future__ import annotations

import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

from user_core.command_line import Parser
from user_fleet.scheduling.store import FleetStore
from user_testing import systems

ROOT = Path(__file__).resolve().parents[2]
PROCESSES, EACH = 10, 10
PORT = 7989


def start(*words: str) -> subprocess.Popen[bytes]:
    """A Python program, without its output."""
    return systems.start(
        [sys.executable, *words], cwd=ROOT / "testing", stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )  # fmt: skip


def start_agents(number: int) -> subprocess.Popen[bytes]:
    hosts = hosts_of(number)
    return start("-m", "user_testing.programs.fleet_agent", f"tcp/127.0.0.1:{PORT}", *hosts)


def hosts_of(number: int) -> list[str]:
    return [f"h{number:02}{index:02}" for index in range(EACH)]


def states(store: FleetStore) -> dict[str, str]:
    return {known.name: known.state for known in store.hosts() if known.report}


def wait_for(
    store: FleetStore, hosts: list[str], here: bool, limit_s: float = 120.0
) -> list[float]:
    """Seconds until the file says so of each host."""
    began_s, took = time.monotonic(), dict[str, float]()
    while len(took) < len(hosts):
        now_s = time.monotonic() - began_s
        if now_s > limit_s:
            raise SystemExit(f"not within {limit_s:g} s: {set(hosts) - took.keys()}")
        known = states(store)
        for host in hosts:
            if host not in took and host in known and (known[host] == "here") == here:
                took[host] = now_s
        time.sleep(0.01)
    return list(took.values())


def cpu_s(process: subprocess.Popen[bytes]) -> float:
    times = psutil.Process(process.pid).cpu_times()
    return times.user + times.system


def show(what: str, times: list[float]) -> None:
    ordered = sorted(times)
    p95 = ordered[min(len(ordered) - 1, int(0.95 * len(ordered)))]
    print(f"{what}: p50 {statistics.median(ordered):.2f} s, p95 {p95:.2f} s, "
          f"worst {ordered[-1]:.2f} s ({len(ordered)} hosts)", flush=True)  # fmt: skip


def main() -> None:
    parser = Parser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--idle", type=float, default=30.0)
    arguments = parser.parse_args()
    running: list[subprocess.Popen[bytes]] = []
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "fleet.sqlite"
        try:
            running.append(
                start("-m", "user_comm.nodes.router", "--listen", f"tcp/127.0.0.1:{PORT}")
            )
            scheduler = start(
                "-m", "user_testing.programs.fleet_scheduler", str(file), f"tcp/127.0.0.1:{PORT}"
            )
            agents = [start_agents(number) for number in range(PROCESSES)]
            running += [scheduler, *agents]
            while not file.exists():
                time.sleep(0.1)
            store = FleetStore(file)
            everybody = [host for number in range(PROCESSES) for host in hosts_of(number)]
            wait_for(store, everybody, here=True)
            print(f"{len(everybody)} hosts, {3 * len(everybody)} resources are there", flush=True)
            before = [cpu_s(scheduler), cpu_s(agents[0])]
            time.sleep(arguments.idle)
            after = [cpu_s(scheduler), cpu_s(agents[0])]
            shares = [100 * (b - a) / arguments.idle for a, b in zip(before, after)]
            print(
                f"idle: scheduler {shares[0]:.1f} % of a core, one agent {shares[1] / EACH:.2f} %"
            )
            ends, silences = list[float](), list[float]()
            for number in range(arguments.rounds):
                one = number % PROCESSES
                agents[one].kill()
                ends += wait_for(store, hosts_of(one), here=False)
                agents[one].wait()
                agents[one] = start_agents(one)
                running.append(agents[one])
                wait_for(store, hosts_of(one), here=True)
            show("killed, known after", ends)
            for number in range(arguments.rounds):
                one = number % PROCESSES
                agents[one].send_signal(signal.SIGSTOP)
                silences += wait_for(store, hosts_of(one), here=False)
                agents[one].send_signal(signal.SIGCONT)
                wait_for(store, hosts_of(one), here=True)
            show("silent, known after", silences)
            others = [host for host, state in states(store).items() if state != "here"]
            print(f"hosts that are wrongly away at the end: {len(others)}")
        finally:
            for process in running:
                process.kill()
                process.wait()


if __name__ == "__main__":
    main()
