"""Round trips between two processes with each of rclpy's executors, in one run.

    tools/run python benchmarks/control/executors.py

*bare* publishes and takes serialised bytes: what DDS and the executor cost. *ours* is a node on
our lifecycle base class that decodes an observation, checked, and publishes it again. Rounds of
the executors alternate, so that a busy moment of the machine hits them all.
"""

from __future__ import annotations

import argparse
import os
import sys
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import numpy as np
import rclpy
from rclpy.executors import Executor, MultiThreadedExecutor, SingleThreadedExecutor
from rclpy.node import Node
from rclpy.serialization import serialize_message

from user_comm import topics
from user_comm.converters import observation_to_message
from user_comm.lifecycle import LifecycleNode
from user_comm.run import run
from user_comm.topics import interface_class, profile
from user_core.command_line import Parser
from user_core.types import Observation
from user_testing import systems

PROFILE = profile(topics.OBSERVATION.quality)
TYPE = interface_class(topics.OBSERVATION.type)


def make_executor(name: str) -> Executor:
    if name == "events":
        from rclpy.experimental.events_executor import EventsExecutor

        return EventsExecutor()
    return MultiThreadedExecutor(2) if name == "multi" else SingleThreadedExecutor()


class OursEcho(LifecycleNode):
    """Observations in, the same out."""

    def configure(self, stack: ExitStack) -> None:
        publisher = self.advertise(topics.OBSERVATION, name="/pong")
        self.listen(topics.OBSERVATION, publisher.publish, name="/ping")


def echo(name: str) -> None:
    if name == "ours":
        sys.exit(run(OursEcho, "echo", ["--ros-args", "-p", "autostart:=true"]))
    rclpy.init()
    node = Node("echo")
    publisher = node.create_publisher(TYPE, "/pong", PROFILE)
    node.create_subscription(TYPE, "/ping", publisher.publish, PROFILE, raw=True)
    executor = make_executor(name)
    executor.add_node(node)
    executor.spin()


class Pinger:
    """Sends one message and waits for its echo, again and again."""

    def __init__(self, executor: str) -> None:
        self.node = Node("ping")
        self.publisher = self.node.create_publisher(TYPE, "/ping", PROFILE)
        self._back = threading.Event()
        self.node.create_subscription(TYPE, "/pong", lambda _: self._back.set(), PROFILE, raw=True)
        self.executor = make_executor(executor)
        self.executor.add_node(self.node)
        threading.Thread(target=self.executor.spin, daemon=True).start()

    def ready(self, timeout_s: float) -> bool:
        """Whether messages come back, the other process being started meanwhile."""
        end_s = time.monotonic() + timeout_s
        while time.monotonic() < end_s:
            if self.publisher.get_subscription_count() and self.round(b"", 1.0) is not None:
                return True
            time.sleep(0.05)
        return False

    def round(self, data: bytes, timeout_s: float = 2.0) -> float | None:
        """Seconds until the message was back; None if it did not come."""
        self._back.clear()
        began_s = time.perf_counter()
        self.publisher.publish(data or SMALL)
        return time.perf_counter() - began_s if self._back.wait(timeout_s) else None


def message(size: int) -> bytes:
    arrays = {"image": np.zeros(size, np.uint8)}
    data: bytes = serialize_message(observation_to_message(Observation(arrays, 1)))
    return data


SMALL = message(1000)


def measure(name: str, domain: int, sizes: list[int], count: int) -> dict[int, list[float]]:
    """Round-trip times by size; empty where nothing came back."""
    environment = {**os.environ, "ROS_DOMAIN_ID": str(domain)}
    words = [sys.executable, __file__, "--echo", name]
    other = systems.start(words, env=environment)
    try:
        words = [sys.executable, __file__, "--ping", name, "--count", str(count)]
        done = systems.run_to_end(
            [*words, "--sizes", *map(str, sizes)],
            env=environment, capture_output=True, text=True, check=False, timeout=120,
        )  # fmt: skip
    finally:
        other.kill()
        other.wait()
    lines = [line.split() for line in done.stdout.splitlines() if line.startswith("times")]
    return {int(size): [float(t) for t in times] for _, size, *times in lines}


def ping(name: str, sizes: list[int], count: int) -> None:
    rclpy.init()
    pinger = Pinger("single" if name == "ours" else name)
    if pinger.ready(15.0):
        for size in sizes:
            data = message(size)
            times = [t for _ in range(count) if (t := pinger.round(data)) is not None]
            print("times", size, *(f"{t:.6f}" for t in times[count // 10 :]))
    sys.stdout.flush()
    os._exit(0)  # an executor that hangs would not let us go


def report(found: dict[str, dict[int, list[float]]], sizes: list[int]) -> None:
    print(f"{'executor':10s} {'bytes':>8s} {'p50 us':>8s} {'p99 us':>8s} {'/ single':>9s}")
    for size in sizes:
        base_s = 0.0
        for name, by_size in found.items():
            times = sorted(by_size.get(size, []))
            if not times:
                print(f"{name:10s} {size:8d}  no message came back")
                continue
            p50_s, p99_s = times[len(times) // 2], times[int(len(times) * 0.99)]
            base_s = base_s or p50_s
            print(
                f"{name:10s} {size:8d} {1e6 * p50_s:8.0f} {1e6 * p99_s:8.0f} {p50_s / base_s:9.2f}"
            )


def main() -> None:
    parser = Parser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3, help="of each executor, alternating")
    parser.add_argument("--count", type=int, default=500, help="round trips in a round and size")
    parser.add_argument("--sizes", type=int, nargs="+", default=[1000, 100_000])
    parser.add_argument("--echo", help=argparse.SUPPRESS)
    parser.add_argument("--ping", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.echo:
        return echo(options.echo)
    if options.ping:
        return ping(options.ping, options.sizes, options.count)
    names = ["single", "multi", "events", "ours"]
    found: dict[str, dict[int, list[float]]] = {name: {} for name in names}
    domain: Callable[[Any], int] = lambda n: 10 + (os.getpid() + n) % 90  # noqa: E731
    print(f"load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    for round_number in range(options.rounds):
        for index, name in enumerate(names):
            if name == "events" and round_number and not found[name]:
                continue  # it did not work: no need to wait for it again
            times = measure(name, domain(4 * round_number + index), options.sizes, options.count)
            for size, values in times.items():
                found[name].setdefault(size, []).extend(values)
    report(found, options.sizes)
    return None


if __name__ == "__main__":
    main()
