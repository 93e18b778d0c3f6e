"""The parts of `wan.py`, each a process in the network namespace of its host.

In the cloud a Zenoh router, the replay store and a policy server; at a robot its outbox with a policy
puller; at both ends a process for control traffic, as bridges are processes of their own. What must
not wait and what is bulk have a connection each, as the bridge has them.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import socket
import struct
import sys
import threading
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import zenoh

from user_actor.outbox import Outbox, OutboxConfig
from user_comm.converters import PolicyAnnouncement
from user_comm.net.sessions import ZenohConfig, open_session
from user_comm.policy_blobs.puller import PolicyPuller
from user_comm.policy_blobs.server import PolicyServer
from user_core.codecs import Limits, decode_chunk, encode_chunk
from user_core.command_line import Parser
from user_core.specs import ArraySpec, RobotSpec
from user_core.types import (
    EpisodeResult,
    EpisodeSource,
    FinalObservation,
    Outcome,
    PolicyVersion,
    Step,
    TrajectoryAck,
)
from user_learner.replay.ingest import ChunkStatus
from user_learner.replay.writer import StoreWriter

SPEC = RobotSpec("wan", {"image": ArraySpec((40, 50, 3), "uint8")}, ArraySpec((4,)), period_s=0.05)
_CONTROL = struct.Struct("<dI88x")  # time sent, phase; 100 bytes
_CONTROL_HZ = 50
_LIMITS = Limits(tensor_bytes=2**28, total_bytes=2**28)


def say(**fields: Any) -> None:
    """A line for the benchmark."""
    print(json.dumps(fields), flush=True)


def set_congestion_control(name: str) -> None:
    """Give all TCP sockets of this process, and what they will accept, this congestion control."""
    for fd in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError), socket.socket(fileno=os.dup(int(fd))) as one:
            if one.type == socket.SOCK_STREAM and one.family == socket.AF_INET:
                one.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, name.encode())


def config(**fields: Any) -> ZenohConfig:
    return ZenohConfig(shared_memory=False, **fields)


class Control:
    """Sends 100 bytes at 50 Hz, and notes how late those of the other end come."""

    def __init__(self, session: zenoh.Session, to: str, of: str, phase: Any) -> None:
        self._session, self._to, self._phase = session, to, phase
        self.late_s: dict[int, list[float]] = {}
        self.sent: dict[int, int] = {}
        self._stop = threading.Event()
        self._subscriber = session.declare_subscriber(
            of, zenoh.handlers.Callback(self._take, None, indirect=False)
        )
        threading.Thread(target=self._run_until_closed, daemon=True).start()

    def _run_until_closed(self) -> None:
        with contextlib.suppress(RuntimeError, zenoh.ZError):
            self._run()

    def _take(self, sample: zenoh.Sample) -> None:
        sent_s, phase = _CONTROL.unpack(sample.payload.to_bytes())
        self.late_s.setdefault(phase, []).append(time.monotonic() - sent_s)

    def _run(self) -> None:
        due_s = time.monotonic()
        while not self._stop.is_set():
            phase = self._phase()
            self.sent[phase] = self.sent.get(phase, 0) + 1
            self._session.put(
                self._to, _CONTROL.pack(time.monotonic(), phase),
                congestion_control=zenoh.CongestionControl.DROP,
                priority=zenoh.Priority.REAL_TIME, express=True,
            )  # fmt: skip
            due_s += 1 / _CONTROL_HZ
            time.sleep(max(0.0, due_s - time.monotonic()))

    def report(self) -> dict[str, Any]:
        late_s = {phase: list(late) for phase, late in list(self.late_s.items())}
        return {
            "sent": {str(p): n for p, n in list(self.sent.items())},
            "came": {str(p): len(v) for p, v in late_s.items()},
            "late_ms": {
                str(p): [round(1e3 * float(x), 2) for x in np.percentile(v, [50, 99, 99.9])]
                for p, v in late_s.items()
            },
        }


def bridge(arguments: argparse.Namespace) -> None:
    """What a host's bridge does for control traffic; in the cloud it is the router, too."""
    phase = [9]
    own, far = ("down", "up") if arguments.listen else ("up", "down")
    with ExitStack() as stack:
        if arguments.listen:
            ends = config(mode="router", listen=(arguments.endpoint,))
        else:
            ends = config(connect=(arguments.endpoint,))
        session = stack.enter_context(open_session(ends, threading.Event()))
        controls = {
            name: Control(session, f"{name}/{own}", f"{name}/{far}", lambda: phase[0])
            for name in arguments.robots.split(",")
        }
        say(ready=True)
        for line in sys.stdin:
            word, _, value = line.strip().partition(" ")
            if word == "phase":
                phase[0] = int(value)
            say(**{name: control.report() for name, control in controls.items()})


def store(arguments: argparse.Namespace) -> None:
    """Replay store: takes chunks, commits them, acknowledges them."""
    with ExitStack() as stack:
        session = stack.enter_context(
            open_session(config(connect=(arguments.endpoint,)), threading.Event())
        )
        writer = stack.enter_context(StoreWriter(Path(arguments.folder) / "store"))

        def put(ack: TrajectoryAck) -> None:
            session.put(
                f"{ack.producer}/ack", json.dumps(ack.__dict__).encode(), express=True,
                priority=zenoh.Priority.INTERACTIVE_HIGH,
                congestion_control=zenoh.CongestionControl.DROP,
            )  # fmt: skip

        def take(sample: zenoh.Sample) -> None:
            answer = writer.append(decode_chunk(sample.payload.to_bytes(), _LIMITS))
            if answer.status is not ChunkStatus.STAGED:
                put(answer.ack)

        def commit() -> None:
            while True:
                time.sleep(0.025)
                if writer.commit_due:
                    for ack in writer.commit():
                        put(ack)

        stack.callback(session.declare_subscriber("*/trajectory", take).undeclare)
        threading.Thread(target=commit, daemon=True).start()
        say(ready=True)
        sys.stdin.readline()
        time.sleep(1.0)  # what is on its way
        say(ended=True)


def learner(arguments: argparse.Namespace) -> None:
    """Makes and serves policies; no training beside."""
    training = threading.Event()
    with ExitStack() as stack:
        session = stack.enter_context(
            open_session(config(connect=(arguments.endpoint,)), threading.Event())
        )
        versions = [0]

        def announce(made: PolicyAnnouncement) -> None:
            versions[0] += 1
            session.put(
                "announcement", json.dumps({**made.__dict__, "kind": int(made.kind)}).encode(),
                congestion_control=zenoh.CongestionControl.DROP,
            )  # fmt: skip

        server = stack.enter_context(PolicyServer(session, "user/policy", announce))

        def train() -> None:
            rng = np.random.default_rng(0)
            weights = (rng.standard_normal(arguments.policy_floats) * 0.05).astype(np.float32)
            number = 0
            while True:
                time.sleep(arguments.policy_period_s)
                training.wait()
                number += 1
                weights += (rng.standard_normal(weights.size) * 1e-4).astype(np.float32)
                server.publish(
                    PolicyVersion(number, {"w": weights.copy()}, created_ns=time.monotonic_ns())
                )

        if arguments.policy_floats:
            threading.Thread(target=train, daemon=True).start()
        say(ready=True)
        for line in sys.stdin:
            if line.split() == ["phase", "1"]:
                training.set()
            else:
                training.clear()
            say(served_bytes=server.served_bytes, versions=versions[0])


class Robot:
    """An outbox that delivers over Zenoh, and a puller."""

    def __init__(self, arguments: argparse.Namespace, stack: ExitStack) -> None:
        self.arguments, self.name = arguments, arguments.name
        self.outbox = Outbox(
            OutboxConfig(
                directory=Path(arguments.folder) / "outbox", chunk_bytes=arguments.chunk_bytes,
                durability="normal", image_coding="none",
            ),
            self.name, SPEC,
        )  # fmt: skip
        stack.callback(self.outbox.close)
        ends = (arguments.endpoint,)
        never = threading.Event()
        self._bulk = stack.enter_context(open_session(config(connect=ends), never))
        urgent = stack.enter_context(open_session(config(connect=ends), never))
        self._acks = urgent.declare_subscriber(
            f"{self.name}/ack", zenoh.handlers.Callback(self._ack, None, indirect=False)
        )
        self.pulls_s: list[float] = []
        self.puller = stack.enter_context(
            PolicyPuller(lambda _: open_session(config(connect=ends), never), "", self._pulled)
        )
        self._announced = urgent.declare_subscriber(
            "announcement", zenoh.handlers.Callback(self._hear, None, indirect=False)
        )
        self._rng = np.random.default_rng(0)
        self.longest_append_s = 0.0

    def _ack(self, sample: zenoh.Sample) -> None:
        self.outbox.acknowledge(TrajectoryAck(**json.loads(sample.payload.to_bytes())))

    def _hear(self, sample: zenoh.Sample) -> None:
        self.puller.announced(PolicyAnnouncement(**json.loads(sample.payload.to_bytes())))

    def _pulled(self) -> None:
        self.pulls_s.append(self.puller.stats.last_pull_s)

    def send(self, chunk: Any) -> None:
        self._bulk.put(
            f"{self.name}/trajectory", encode_chunk(chunk),
            congestion_control=zenoh.CongestionControl.BLOCK, priority=zenoh.Priority.DATA,
        )  # fmt: skip

    def episode(self, steps: int, period_s: float = 0.0) -> None:
        """Collect one episode."""
        key = self.outbox.begin_episode(EpisodeSource.ONLINE)
        action = np.zeros(4, np.float32)
        for _ in range(steps):
            image = self._rng.integers(0, 256, (40, 50, 3), np.uint8)
            while self.outbox.why_paused():
                time.sleep(0.01)
            start_s = time.monotonic()
            self.outbox.append(
                Step({"image": image}, action, action, 0.0, False, False,
                     stamp_ns=time.time_ns())
            )  # fmt: skip
            self.longest_append_s = max(self.longest_append_s, time.monotonic() - start_s)
            time.sleep(period_s)
        self.outbox.append(FinalObservation({"image": image}, stamp_ns=time.time_ns()))
        self.outbox.end_episode(
            EpisodeResult(key, EpisodeSource.ONLINE, Outcome.TIMEOUT, steps, 0.0)
        )

    def report(self) -> dict[str, Any]:
        status, stats = self.outbox.status(), self.puller.stats
        return {
            "pending": status.pending_bytes, "delivered": status.delivered_bytes,
            "steps": status.total_steps, "resent": status.resent,
            "window": status.window_bytes, "rate": round(status.link_bytes_s),
            "round_trip_ms": round(1e3 * status.round_trip_s, 1),
            "at_s": time.monotonic(), "longest_append_ms": round(1e3 * self.longest_append_s, 2),
            "versions": stats.versions, "policy_bytes": stats.bytes, "refused": stats.refused,
            "pull_s": [round(s, 3) for s in self.pulls_s],
            "pull_rate": round(self.puller.window.rate_bytes_s),
            "pull_round_trip_ms": round(1e3 * self.puller.window.round_trip_s, 1),
        }  # fmt: skip


def robot(arguments: argparse.Namespace) -> None:
    """Obeys lines on standard input: fill MB, deliver, collect HZ, still, report."""
    with ExitStack() as stack:
        one = Robot(arguments, stack)
        collecting = threading.Event()
        done = threading.Event()

        def collect(rate_hz: float) -> None:
            while collecting.is_set():
                one.episode(40, 1 / rate_hz)
            done.set()

        say(ready=True)
        for line in sys.stdin:
            word, _, value = line.strip().partition(" ")
            if word == "fill":
                while one.outbox.status().pending_bytes < float(value) * 1e6:
                    one.episode(100)
                    one.outbox.flush(30)
            elif word == "deliver":
                one.outbox.deliver_to(one.send)
            elif word == "collect":
                collecting.set()
                threading.Thread(target=collect, args=(float(value),), daemon=True).start()
            elif word == "still":
                collecting.clear()
                done.wait(30)
                one.outbox.flush(30)
            say(**one.report())


def main() -> None:
    roles = {"bridge": bridge, "store": store, "learner": learner, "robot": robot}
    parser = Parser()
    parser.add_argument("role", choices=roles)
    parser.add_argument("--endpoint", required=True)
    parser.add_argument("--listen", action="store_true")
    parser.add_argument("--folder", required=True)
    parser.add_argument("--name", default="r1")
    parser.add_argument("--robots", default="r1")
    parser.add_argument("--chunk-bytes", type=int, default=32 * 1024)
    parser.add_argument("--tcp", default="")
    parser.add_argument("--policy-floats", type=int, default=0)
    parser.add_argument("--policy-period-s", type=float, default=2.0)
    arguments = parser.parse_args()
    if arguments.tcp:
        opened = open_session

        def open_and_set(*words: Any) -> zenoh.Session:
            session = opened(*words)
            set_congestion_control(arguments.tcp)
            return session

        globals()["open_session"] = open_and_set
    roles[arguments.role](arguments)


if __name__ == "__main__":
    main()
