"""The two ends of `wan.py`, each a process in a network namespace of its own.

Real parts: a Zenoh router with the replay store and a policy server at the one end, an outbox,
a policy puller and control traffic at the other, with one link for what must not wait and one
for bulk, as the bridge has them.
"""

from __future__ import annotations

import argparse
import contextlib
import json
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
from user_comm.policy_blobs import PolicyPuller, PolicyServer, ZenohConfig, open_session
from user_core.codecs import Limits, decode_chunk, encode_chunk
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
from user_learner.replay.receipt import Receipt
from user_learner.replay.writer import StoreWriter

SPEC = RobotSpec("wan", {"image": ArraySpec((40, 50, 3), "uint8")}, ArraySpec((4,)), 0.05)
_CONTROL = struct.Struct("<dI88x")  # time sent, phase; 100 bytes
_CONTROL_HZ = 50
_LIMITS = Limits(tensor_bytes=2**28, total_bytes=2**28)


def say(**fields: Any) -> None:
    """A line for the benchmark."""
    print(json.dumps(fields), flush=True)


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
        return {
            "sent": {str(p): n for p, n in self.sent.items()},
            "came": {str(p): len(v) for p, v in self.late_s.items()},
            "late_ms": {
                str(p): [round(1e3 * float(x), 2) for x in np.percentile(v, [50, 99, 99.9])]
                for p, v in self.late_s.items()
            },
        }


def cloud(arguments: argparse.Namespace) -> None:
    """Router, store and policies; obeys lines on standard input."""
    phase = [9]
    with ExitStack() as stack:
        session = stack.enter_context(
            open_session(config(mode="router", listen=(arguments.endpoint,)))
        )
        writer = stack.enter_context(StoreWriter(Path(arguments.folder) / "store"))
        acks = threading.Lock()
        duplicates = [0]

        def put(ack: TrajectoryAck) -> None:
            session.put(
                f"{ack.producer}/ack", json.dumps(ack.__dict__).encode(), express=True,
                priority=zenoh.Priority.INTERACTIVE_HIGH,
                congestion_control=zenoh.CongestionControl.DROP,
            )  # fmt: skip

        def take(sample: zenoh.Sample) -> None:
            answer = writer.append(decode_chunk(sample.payload.to_bytes(), _LIMITS))
            with acks:
                duplicates[0] += answer.receipt is Receipt.DUPLICATE
            if answer.receipt is not Receipt.STAGED:
                put(answer.ack)

        def commit() -> None:
            while True:
                time.sleep(0.025)
                if writer.commit_due:
                    for ack in writer.commit():
                        put(ack)

        stack.callback(session.declare_subscriber("*/trajectory", take).undeclare)
        threading.Thread(target=commit, daemon=True).start()
        announcements: list[PolicyAnnouncement] = []

        def announce(made: PolicyAnnouncement) -> None:
            announcements.append(made)
            session.put(
                "announcement", json.dumps({**made.__dict__, "kind": int(made.kind)}).encode(),
                congestion_control=zenoh.CongestionControl.DROP,
            )  # fmt: skip

        server = stack.enter_context(PolicyServer(session, "user/policy", announce))
        controls = {
            name: Control(session, f"{name}/down", f"{name}/up", lambda: phase[0])
            for name in arguments.robots.split(",")
        }
        stopping = threading.Event()

        def train() -> None:
            rng = np.random.default_rng(0)
            weights = (rng.standard_normal(arguments.policy_floats) * 0.05).astype(np.float32)
            number = 0
            while not stopping.wait(arguments.policy_period_s):
                if phase[0] != 1:
                    continue
                number += 1
                weights += (rng.standard_normal(weights.size) * 1e-4).astype(np.float32)
                server.publish(
                    PolicyVersion(number, {"w": weights.copy()}, created_ns=time.monotonic_ns())
                )

        if arguments.policy_floats:
            threading.Thread(target=train, daemon=True).start()
        say(ready=True)
        for line in sys.stdin:
            if line.startswith("phase"):
                phase[0] = int(line.split()[1])
            else:
                break
        stopping.set()
        time.sleep(1.0)
        say(
            controls={name: control.report() for name, control in controls.items()},
            served_bytes=server.served_bytes, versions=len(announcements),
            duplicates=duplicates[0],
        )  # fmt: skip


class Robot:
    """An outbox that delivers over Zenoh, a puller, and control traffic."""

    def __init__(self, arguments: argparse.Namespace, stack: ExitStack) -> None:
        self.arguments, self.name = arguments, arguments.name
        self.phase = 9
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
        self.control = Control(urgent, f"{self.name}/up", f"{self.name}/down", lambda: self.phase)
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
            congestion_control=zenoh.CongestionControl.DROP, priority=zenoh.Priority.DATA,
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
            "pull_s": [round(s, 3) for s in self.pulls_s], "control": self.control.report(),
            "pull_rate": round(self.puller.window.rate_bytes_s),
            "pull_round_trip_ms": round(1e3 * self.puller.window.round_trip_s, 1),
        }  # fmt: skip


def robot(arguments: argparse.Namespace) -> None:
    """Obeys lines on standard input: phase N, fill MB, deliver, collect HZ, report, end."""
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
            if word == "phase":
                one.phase = int(value)
            elif word == "fill":
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
            elif word == "end":
                break
            say(**one.report())


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("role", choices=("cloud", "robot"))
    parser.add_argument("--endpoint", required=True)
    parser.add_argument("--folder", required=True)
    parser.add_argument("--name", default="r1")
    parser.add_argument("--robots", default="r1")
    parser.add_argument("--chunk-bytes", type=int, default=32 * 1024)
    parser.add_argument("--policy-floats", type=int, default=0)
    parser.add_argument("--policy-period-s", type=float, default=2.0)
    arguments = parser.parse_args()
    (cloud if arguments.role == "cloud" else robot)(arguments)


if __name__ == "__main__":
    main()
