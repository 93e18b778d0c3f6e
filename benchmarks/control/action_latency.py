"""From an action's publication to the driver, beside a bare rclpy ping-pong of the same sizes.

Two processes each time. The *hal* node publishes observations of 100 KB at 100 Hz; a commander
answers each with an action, which passes deserialisation, lease, chunk validation, chunk player and
safety gate to the driver. The *bare* pair does the same with rclpy alone: the same message types,
sizes, qualities of service and rate, and a callback that notes the time. The two take turns in
one run, so that a busy machine slows both alike; what counts is the ratio of the 99th percentiles.

    python benchmarks/control/action_latency.py [--rounds 4] [--seconds 5] [--kilobytes 100] [--rate 100]
"""

from __future__ import annotations

import argparse
import array
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import yaml

from user_core.command_line import Parser
from user_core.config import Config, setting
from user_core.specs import Array
from user_core.types import Observation
from user_hal.robots.mock import MockConfig, MockRobot
from user_testing import systems

MOST_RATIO = 1.5
NAMESPACE = "/latency"
#: Actions carry the number of their observation, modulo this, in their first element.
NUMBERS = 4096
STEP = 2.0**-20
GATE = {
    "watchdog_s": 0.5,
    "step": {"linear": 0.05},
    "velocity": {"linear": 5.0},
    "acceleration": {"linear": 500.0},
    "workspace": {"low": [-9.0, -9.0, -9.0], "high": [99.0, 9.0, 9.0]},
}


class LatencyRobotConfig(MockConfig):
    """A mock robot that notes when things reach it."""

    dump_file: str = setting("", doc="Where to write the times at the end.")


class LatencyRobot(MockRobot):
    """Notes when each reading was taken and when its answer came to the driver."""

    Config: ClassVar[type[Config]] = LatencyRobotConfig

    def __init__(self, config: LatencyRobotConfig) -> None:
        super().__init__(config)
        self._taken: dict[int, int] = {}
        self._cycles: list[tuple[int, int, int]] = []

    def read(self) -> Observation:
        """A reading, and when it was there."""
        observation = super().read()
        self._taken[observation.sequence % NUMBERS] = time.monotonic_ns()
        return observation

    def command(self, action: Array) -> Array:
        """A command, and when it came."""
        now_ns = time.monotonic_ns()
        number = round(float(action[0]) / STEP)
        if number in self._taken:
            if not self._cycles:
                started(self.config.dump_file).touch()
            self._cycles.append((number, self._taken[number], now_ns))
        self.log.entries.clear()
        return super().command(action)

    def close(self) -> None:
        """Write down what was noted."""
        super().close()
        if self._cycles:
            Path(self.config.dump_file).write_text(json.dumps(self._cycles), encoding="utf-8")


def commander(out: str) -> None:
    """Answer every observation with an action; note when. Until SIGTERM."""
    import rclpy

    node, actions, messages = ros_node("commander")
    sent: list[tuple[int, int]] = []
    action = messages["ActionChunk"](period_ns=10_000_000)
    action.actions.name, action.actions.shape = "actions", array.array("I", [1, 7])
    action.actions.dtype = 10  # float32
    row = np.zeros(7, np.float32)

    def answer(observation: Any) -> None:
        number = observation.sequence % NUMBERS
        row[0] = number * STEP
        action.actions.data = array.array("B", row.tobytes())
        action.sequence = observation.sequence
        sent.append((number, time.monotonic_ns()))
        publisher.publish(action)

    publisher = node.create_publisher(messages["ActionChunk"], "action", actions["action"])
    node.create_subscription(messages["Observation"], "observation", answer, actions["observation"])
    spin_until_terminated(rclpy, node)
    Path(out).write_text(json.dumps(sent), encoding="utf-8")


def bare(out: str, rate_hz: float, kilobytes: int) -> None:
    """Publish observations, note when their answers come. Until SIGTERM."""
    import rclpy

    from user_comm.converters import observation_to_message

    node, qualities, messages = ros_node("bare")
    taken: dict[int, int] = {}
    cycles: list[tuple[int, int, int]] = []

    def answered(action: Any) -> None:
        now_ns = time.monotonic_ns()
        number = action.sequence % NUMBERS
        if number in taken:
            if not cycles:
                started(out).touch()
            cycles.append((number, taken[number], now_ns))

    node.create_subscription(messages["ActionChunk"], "action", answered, qualities["action"])
    publisher = node.create_publisher(
        messages["Observation"], "observation", qualities["observation"]
    )
    robot = MockRobot(MockConfig(payload_bytes=kilobytes * 1000))
    robot.connect()
    message = observation_to_message(robot.read(), "base")  # the hal's, made beforehand

    def publish() -> None:
        period_ns, due_ns, sequence = int(1e9 / rate_hz), time.monotonic_ns(), 0
        while rclpy.ok():
            sequence += 1
            message.sequence = sequence
            taken[sequence % NUMBERS] = time.monotonic_ns()
            publisher.publish(message)
            due_ns += period_ns
            time.sleep(max(due_ns - time.monotonic_ns(), 0) * 1e-9)

    threading.Thread(target=publish, daemon=True).start()
    spin_until_terminated(rclpy, node)
    Path(out).write_text(json.dumps(cycles), encoding="utf-8")


def ros_node(name: str) -> tuple[Any, dict[str, Any], dict[str, Any]]:
    """A plain rclpy node, the qualities of service of our topics, and message classes."""
    import rclpy
    from rclpy.node import Node
    from rclpy.signals import SignalHandlerOptions
    from user_msgs.msg import ActionChunk
    from user_msgs.msg import Observation as ObservationMessage

    from user_comm import topics
    from user_comm.topics import profile

    rclpy.init(signal_handler_options=SignalHandlerOptions.NO)
    node = Node(name, namespace=NAMESPACE)
    qualities = {
        topic.name: profile(topic.quality) for topic in (topics.ACTION, topics.OBSERVATION)
    }
    return node, qualities, {
        "ActionChunk": ActionChunk,
        "Observation": ObservationMessage,
    }  # fmt: skip


def spin_until_terminated(rclpy: Any, node: Any) -> None:
    ended = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: ended.set())
    executor = rclpy.executors.SingleThreadedExecutor()
    executor.add_node(node)
    while not ended.is_set():
        executor.spin_once(timeout_sec=0.1)
    rclpy.shutdown()


def started(out: str) -> Path:
    """The file that says that a pair has found each other."""
    return Path(out + ".started")


def start(words: list[str]) -> subprocess.Popen[bytes]:
    return systems.start([sys.executable, *words], env=dict(os.environ))


def end(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:
        process.kill()
        raise


def one_round(kind: str, args: argparse.Namespace, folder: Path) -> tuple[Array, Array]:
    """One pair of processes; cycles and ways of the actions, milliseconds."""
    cycles, sent = folder / "cycles.json", folder / "sent.json"
    if kind == "hal":
        main_words = ["-m", "user_hal.nodes.hal", "--ros-args", "-r", f"__ns:={NAMESPACE}"]
        main_words += ["--params-file", str(hal_params(args, folder, cycles))]
    else:
        main_words = [__file__, "--role", "bare", "--out", str(cycles)]
        main_words += [f"--rate={args.rate}", f"--kilobytes={args.kilobytes}"]
    processes = [start([__file__, "--role", "commander", "--out", str(sent)]), start(main_words)]
    try:
        deadline_s = time.monotonic() + 60.0
        while not started(str(cycles)).exists():
            if time.monotonic() > deadline_s:
                raise TimeoutError(f"the {kind} pair did not find each other")
            time.sleep(0.05)
        time.sleep(args.warm_up + args.seconds)
    finally:
        started(str(cycles)).unlink(missing_ok=True)
        for process in reversed(processes):
            end(process)
    took = json.loads(cycles.read_text())
    published = dict(json.loads(sent.read_text()))
    keep = took[-int(args.seconds * args.rate) :]
    cycle_ms = np.array([came - taken for _, taken, came in keep]) / 1e6
    way_ms = np.array([came - published[n] for n, _, came in keep if n in published]) / 1e6
    return cycle_ms, way_ms[way_ms > 0]


def hal_params(args: argparse.Namespace, folder: Path, cycles: Path) -> Path:
    params = {
        "autostart": True,
        "robot": {
            "plugin": "action_latency:LatencyRobot",
            "params": {
                "rate_hz": args.rate,
                "payload_bytes": args.kilobytes * 1000,
                "dump_file": str(cycles),
            },
        },
        "safety": GATE,
        "lease": {"required": False},
    }
    path = folder / "params.yaml"
    path.write_text(yaml.safe_dump({"/**": {"ros__parameters": params}}), encoding="utf-8")
    return path


def main() -> int:
    parser = Parser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--warm-up", type=float, default=1.0)
    parser.add_argument("--kilobytes", type=int, default=100)
    parser.add_argument("--rate", type=float, default=100.0)
    parser.add_argument("--role", default="", help=argparse.SUPPRESS)
    parser.add_argument("--out", default="", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.role == "commander":
        commander(args.out)
    elif args.role == "bare":
        bare(args.out, args.rate, args.kilobytes)
    else:
        return compare(args)
    return 0


def compare(args: argparse.Namespace) -> int:
    os.environ["PYTHONPATH"] = os.pathsep.join(
        [str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]
    )
    os.environ["ROS_DOMAIN_ID"] = str(10 + os.getpid() % 90)
    found: dict[str, list[tuple[Array, Array]]] = {"hal": [], "bare": []}
    with tempfile.TemporaryDirectory() as name:
        for _ in range(args.rounds):
            for kind, results in found.items():
                results.append(one_round(kind, args, Path(name)))
    print(f"{args.kilobytes} KB observations at {args.rate:g} Hz, {args.rounds} rounds; ms")
    print("| what | pairs | p50 | p99 | worst |\n|---|---|---|---|---|")
    p99 = {}
    for i, what in enumerate(("observation taken to answer there", "action published to there")):
        for kind, results in found.items():
            times_ms = np.concatenate([result[i] for result in results])
            p50, p99[kind, i], worst = np.percentile(times_ms, [50, 99, 100])
            label = f"{what}, {'driver of the hal' if kind == 'hal' else 'bare rclpy'}"
            print(f"| {label} | {len(times_ms)} | {p50:.3f} | {p99[kind, i]:.3f} | {worst:.3f} |")
    ratios = [p99["hal", i] / p99["bare", i] for i in range(2)]
    print(
        f"ratio of p99: {ratios[0]:.2f} there and back, {ratios[1]:.2f} one way (at most {MOST_RATIO})"
    )
    return 0 if max(ratios) <= MOST_RATIO else 1


if __name__ == "__main__":
    sys.exit(main())
