"""What the bridge costs: ROS through it to Zenoh and back, beside a bare Zenoh put and bare ROS.

Three processes of one host: this one (ROS publisher and subscriber), ``bridge_node``, and a Zenoh
process that takes and sends bytes. The same bytes go each way through the bridge, by a bare put
between the two Zenoh sessions, and between two ROS endpoints; the three take turns in each round.
Rates are with a window of messages that have not been acknowledged yet, times with one message
every few milliseconds. No shared memory of Zenoh's, as across a network.

    python benchmarks/links/bridge.py [--rounds 5] [--bytes 100000]
"""

from __future__ import annotations

import argparse
import os
import socket
import statistics
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import rclpy
import yaml
import zenoh
from rclpy.node import Node
from rclpy.serialization import serialize_message
from std_msgs.msg import UInt8MultiArray

from user_comm.net.sessions import ZenohConfig, open_session
from user_comm.subscriptions import TopicReader
from user_comm.topics import Quality, profile
from user_core.command_line import Parser
from user_testing import systems

WINDOW = 8
COUNT = 500
#: Acknowledgements are never dropped for want of room.
ACK: Any = {"express": True, "congestion_control": zenoh.CongestionControl.BLOCK}
TYPE = "std_msgs/msg/UInt8MultiArray"
QUALITY = Quality(depth=64)
_STAMP = struct.Struct("<Q")
PATHS = ("bridge out", "bridge in", "zenoh", "ros")


class Flow:
    """One way from a sender to a receiver that says what it got.

    Args:
        send: Sends one message.
        size: Of a message, bytes.
    """

    def __init__(self, send: Callable[[bytes], object], size: int) -> None:
        self._send = send
        message = UInt8MultiArray(data=bytes(size))
        self._bytes = bytearray(serialize_message(message))
        self.lags_ns: list[int] = []
        self._got = threading.Condition()
        self._count = 0

    def got(self, lag_ns: int) -> None:
        with self._got:
            self._count += 1
            self.lags_ns.append(lag_ns)
            self._got.notify()

    def push(self, count: int, window: int, pause_s: float) -> float:
        """Send this many; returns the seconds it took."""
        with self._got:
            self._count, self.lags_ns = 0, []
        began_s = time.monotonic()
        for number in range(count):
            self._wait(number - window)
            _STAMP.pack_into(self._bytes, len(self._bytes) - 8, time.monotonic_ns())
            self._send(bytes(self._bytes))
            if pause_s:
                self._wait(number)
                time.sleep(pause_s)
        self._wait(count - 1)
        return time.monotonic() - began_s

    def ready(self) -> bool:
        """Whether a message gets through."""
        try:
            self.push(1, 1, 0.0)
        except TimeoutError:
            return False
        return True

    def _wait(self, number: int) -> None:
        """Until this message has been received."""
        with self._got:
            if not self._got.wait_for(lambda: self._count > number, timeout=5.0):
                raise TimeoutError(f"message {number}: {self._count} of them have come")


def lag_ns(data: Any) -> int:
    return time.monotonic_ns() - int(_STAMP.unpack_from(data, len(data) - 8)[0])


def far_end(endpoint: str, size: int) -> None:
    """The Zenoh process: acknowledges what comes, and sends when it is told to."""
    session = open_session(ZenohConfig(mode="router", listen=(endpoint,), shared_memory=False))
    flow = Flow(lambda data: down.put(data), size)
    down = session.declare_publisher("bench/down", congestion_control=zenoh.CongestionControl.BLOCK)

    def take(sample: zenoh.Sample) -> None:
        session.put("bench/ack", _STAMP.pack(lag_ns(sample.payload.to_bytes())), **ACK)

    def start(query: zenoh.Query) -> None:
        count, window, pause_ms = struct.unpack("<IId", query.payload.to_bytes())
        took_s = flow.push(count, window, pause_ms / 1e3)
        lags = struct.pack(f"<d{len(flow.lags_ns)}Q", took_s, *flow.lags_ns)
        query.reply("bench/go", lags)
        query.drop()

    kept = [
        session.declare_subscriber("bench/up", take),
        session.declare_subscriber("bench/bare", take),
        session.declare_subscriber(
            "bench/back", lambda s: flow.got(_STAMP.unpack(s.payload.to_bytes())[0])
        ),
        session.declare_queryable("bench/go", start),
    ]
    while os.getppid() != 1 and kept:
        time.sleep(0.5)


class NearEnd:
    """This process: ROS endpoints, and a Zenoh session of its own for the bare put."""

    def __init__(self, node: Node, endpoint: str, size: int) -> None:
        self.session = open_session(
            ZenohConfig(connect=(endpoint,), shared_memory=False), threading.Event()
        )
        up = node.create_publisher(UInt8MultiArray, "/bench/up", profile(QUALITY))
        local = node.create_publisher(UInt8MultiArray, "/bench/local", profile(QUALITY))
        bare = self.session.declare_publisher(
            "bench/bare", congestion_control=zenoh.CongestionControl.BLOCK
        )
        self.flows = {
            "bridge out": Flow(up.publish, size),
            "zenoh": Flow(bare.put, size),
            "ros": Flow(local.publish, size),
        }
        self._current = ""
        self._subscriber = self.session.declare_subscriber("bench/ack", self._ack)
        self.reader = TopicReader(node, "reader", on_error=print)
        self.reader.subscribe(UInt8MultiArray, "/bench/down", profile(QUALITY), self._down)
        self.reader.subscribe(
            UInt8MultiArray, "/bench/local", profile(QUALITY),
            lambda data: self.flows["ros"].got(lag_ns(data)),
        )  # fmt: skip

    def run(self, path: str, count: int, window: int, pause_s: float) -> tuple[float, list[int]]:
        """Seconds, and the time from sending to receiving of each message, nanoseconds."""
        self._current = path
        if path != "bridge in":
            flow = self.flows[path]
            return flow.push(count, window, pause_s), flow.lags_ns
        request = struct.pack("<IId", count, window, pause_s * 1e3)
        for reply in self.session.get("bench/go", payload=request, timeout=60.0):
            assert reply.ok is not None, "the far end did not finish"
            data = reply.ok.payload.to_bytes()
            took_s, *lags = struct.unpack(f"<d{len(data) // 8 - 1}Q", data)
            return took_s, [int(lag) for lag in lags]
        raise TimeoutError("no answer from the far end")

    def wait(self) -> None:
        """Until messages get through on all paths."""
        for path in PATHS:
            end_s = time.monotonic() + 30
            while True:
                try:
                    self.run(path, 1, 1, 0.0)
                    break
                except (TimeoutError, AssertionError):
                    if time.monotonic() > end_s:
                        raise
            time.sleep(0.2)

    def _ack(self, sample: zenoh.Sample) -> None:
        self.flows[self._current].got(_STAMP.unpack(sample.payload.to_bytes())[0])

    def _down(self, data: bytes) -> None:
        self.session.put("bench/back", _STAMP.pack(lag_ns(data)), **ACK)


@contextmanager
def processes(endpoint: str, size: int) -> Iterator[None]:
    """The far end and the bridge."""
    route = {"type": TYPE, "max_bytes": 2**24, "depth": QUALITY.depth, "waits": True}
    routes = [
        {"topic": "/bench/up", "direction": "out", **route},
        {"topic": "/bench/down", "direction": "in", **route},
    ]
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "bridge.yaml"
        parameters = {
            "autostart": True,
            "routes": yaml.safe_dump(routes),
            "zenoh": {"connect": [endpoint], "shared_memory": False},
        }
        file.write_text(yaml.safe_dump({"/**": {"ros__parameters": parameters}}), encoding="utf-8")
        far = [sys.executable, __file__, "--far", endpoint, "--bytes", str(size)]
        bridge = [sys.executable, "-m", "user_comm.nodes.bridge"]
        started = [
            systems.start(far),
            systems.start(
                [*bridge, "--ros-args", "--params-file", str(file)], stderr=subprocess.DEVNULL
            ),
        ]
        try:
            yield
        finally:
            for process in started:
                process.kill()
                process.wait()


def free_endpoint() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"tcp/127.0.0.1:{probe.getsockname()[1]}"


def main() -> None:
    parser = Parser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--bytes", type=int, default=100_000)
    parser.add_argument("--far", default="", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.far:
        far_end(arguments.far, arguments.bytes)
        return
    endpoint = free_endpoint()
    rates: dict[str, list[float]] = {path: [] for path in PATHS}
    lags: dict[str, list[int]] = {path: [] for path in PATHS}
    with processes(endpoint, arguments.bytes):
        rclpy.init()
        node = Node("near_end")
        near = NearEnd(node, endpoint, arguments.bytes)
        try:
            near.wait()
            for _ in range(arguments.rounds):
                for path in PATHS:
                    took_s, _ = near.run(path, COUNT, WINDOW, 0.0)
                    rates[path].append(COUNT * arguments.bytes / took_s / 1e6)
                    lags[path] += near.run(path, 100, 1, 0.005)[1]
        finally:
            near.reader.close()
            near.session.close()
            rclpy.try_shutdown()
    print(f"{arguments.bytes} bytes, window {WINDOW}, {arguments.rounds} rounds")
    print(
        f"{'path':<12}{'MB/s':>8}{'of zenoh':>10}{'p50 ms':>9}{'p99 ms':>9}{'p50 added to zenoh':>21}"
    )
    middle = {path: statistics.median(values) for path, values in lags.items()}
    for path in PATHS:
        share = statistics.median(r / z for r, z in zip(rates[path], rates["zenoh"], strict=True))
        p99 = statistics.quantiles(lags[path], n=100)[98]
        print(
            f"{path:<12}{statistics.median(rates[path]):>8.0f}{share:>10.2f}"
            f"{middle[path] / 1e6:>9.2f}{p99 / 1e6:>9.2f}"
            f"{(middle[path] - middle['zenoh']) / 1e6:>18.2f} ms"
        )


if __name__ == "__main__":
    main()
