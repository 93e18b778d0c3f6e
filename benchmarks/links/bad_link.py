"""Control traffic beside bulk over a bad link: a connection of its own, or priorities on a shared one.

Two network namespaces joined by an emulated link (20 Mbit/s, 80 ms, drop-tail queue of 100 ms),
so it needs root. 100 bytes at 50 Hz, as `trajectory_ack` or `safety_status` may be, cross from the
robot to the learner: alone, and while chunks of 64 KB go up (256 KB not acknowledged at most) and
policy pieces of 64 KB come down (two asked for at a time). The settings of the sessions are those of
the bridge; the two arrangements take turns.

    python benchmarks/links/bad_link.py [--rounds 3] [--seconds 10]
"""

from __future__ import annotations

import argparse
import json
import statistics
import struct
import subprocess
import sys
import threading
import time
from typing import Any

import zenoh

from user_comm.net.sessions import ZenohConfig, open_session
from user_core.command_line import Parser
from user_testing.link_emulator import Host, Link, LinkQuality, unavailable
from user_testing.systems import take_sigterm_as_ctrl_c

PIECE = 64 * 1024
IN_FLIGHT_UP, IN_FLIGHT_DOWN = 4, 2
PERIOD_S = 0.02
DROP, BLOCK = zenoh.CongestionControl.DROP, zenoh.CongestionControl.BLOCK
STAMP = struct.Struct("<Qd")


def far_end(address: str) -> None:
    """The learner's host: a router, that notes what comes and serves pieces."""
    session = open_session(
        ZenohConfig(mode="router", listen=(f"tcp/{address}:7457",), shared_memory=False)
    )
    lags_ms: list[float] = []
    piece = bytes(PIECE)
    urgent: Any = {"congestion_control": DROP, "priority": zenoh.Priority.INTERACTIVE_HIGH}

    def control(sample: zenoh.Sample) -> None:
        _, sent_s = STAMP.unpack_from(sample.payload.to_bytes())
        lags_ms.append((time.monotonic() - sent_s) * 1e3)

    def report(query: zenoh.Query) -> None:
        with query:
            query.reply("bench/report", json.dumps(lags_ms))
            lags_ms.clear()

    def give(query: zenoh.Query) -> None:
        with query:
            query.reply(str(query.key_expr), piece)

    direct = zenoh.handlers.Callback
    kept = [
        session.declare_subscriber("bench/control", direct(control, None, indirect=False)),
        session.declare_subscriber(
            "bench/bulk",
            direct(
                lambda s: session.put("bench/ack", b"", express=True, **urgent),
                None, indirect=False,
            ),
        ),
        session.declare_queryable("bench/report", report),
        session.declare_queryable("bench/pieces/**", direct(give, None, indirect=False)),
    ]  # fmt: skip
    print("ready", flush=True)
    sys.stdin.read()
    del kept


class NearEnd:
    """The robot's host."""

    def __init__(self, address: str, apart: bool) -> None:
        config = ZenohConfig(connect=(f"tcp/{address}:7457",), shared_memory=False)
        self.urgent = open_session(config, threading.Event())
        self.bulk = open_session(config, threading.Event()) if apart else self.urgent
        self.puller = open_session(config, threading.Event()) if apart else self.urgent
        self._acks = threading.Semaphore(IN_FLIGHT_UP)
        self._subscriber = self.urgent.declare_subscriber(
            "bench/ack",
            zenoh.handlers.Callback(lambda _: self._acks.release(), None, indirect=False),
        )
        self._slots = threading.Semaphore(IN_FLIGHT_DOWN)
        self.up = self.down = 0
        time.sleep(1.0)

    def close(self) -> None:
        for session in {id(s): s for s in (self.urgent, self.bulk, self.puller)}.values():
            session.close()

    def measure(self, seconds: float, loaded: bool) -> dict[str, Any]:
        self._report()
        ending = threading.Event()
        threads = [
            threading.Thread(target=work, args=(ending,)) for work in (self._push, self._pull)
        ]
        for thread in threads if loaded else ():
            thread.start()
        time.sleep(1.0 if loaded else 0.0)
        self.up = self.down = sent = 0
        began_s = due_s = time.monotonic()
        while time.monotonic() - began_s < seconds:
            self.urgent.put(
                "bench/control", STAMP.pack(sent, time.monotonic()) + bytes(84), express=True,
                congestion_control=DROP, priority=zenoh.Priority.INTERACTIVE_HIGH,
            )  # fmt: skip
            sent += 1
            due_s += PERIOD_S
            time.sleep(max(0.0, due_s - time.monotonic()))
        up, down = self.up, self.down
        ending.set()
        for thread in threads if loaded else ():
            thread.join()
        time.sleep(2.0)
        lags = self._report()
        return {"sent": sent, "lags": lags, "up": up / seconds / 1e6, "down": down / seconds / 1e6}

    def _report(self) -> list[float]:
        for reply in self.urgent.get("bench/report", timeout=30.0):
            if reply.ok is not None:
                lags: list[float] = json.loads(reply.ok.payload.to_bytes())
                return lags
        return []

    def _push(self, ending: threading.Event) -> None:
        chunk = bytes(PIECE)
        while not ending.is_set():
            if self._acks.acquire(timeout=5.0):  # else one was lost: the outbox would send again
                self.up += PIECE
            self.bulk.put(
                "bench/bulk", chunk, congestion_control=BLOCK, priority=zenoh.Priority.DATA_LOW
            )

    def _pull(self, ending: threading.Event) -> None:
        def take(reply: zenoh.Reply) -> None:
            if reply.ok is not None:
                self.down += len(reply.ok.payload)

        number = 0
        while not ending.is_set():
            if self._slots.acquire(timeout=0.5):
                self.puller.get(
                    f"bench/pieces/{number}",
                    zenoh.handlers.Callback(take, self._slots.release, indirect=False),
                    timeout=5.0, congestion_control=DROP, priority=zenoh.Priority.DATA_LOW,
                )  # fmt: skip
                number += 1


def near_end(address: str, apart: bool, seconds: float) -> None:
    near = NearEnd(address, apart)
    found = {name: near.measure(seconds, name == "loaded") for name in ("idle", "loaded")}
    print(json.dumps(found), flush=True)
    near.close()


def run(cloud: Host, edge: Host, address: str, apart: bool, seconds: float) -> dict[str, Any]:
    """One arrangement, on fresh sessions."""
    program = [sys.executable, __file__]
    far = cloud.popen([*program, "--far", address], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert far.stdout is not None
        assert far.stdout.readline() == "ready\n"
        words = [*program, "--near", address, "--seconds", str(seconds)]
        near = edge.popen([*words, *["--apart"] * apart], stdout=subprocess.PIPE)
        out, _ = near.communicate(timeout=60 + 4 * seconds)
        found: dict[str, Any] = json.loads(out)
        return found
    finally:
        far.kill()
        far.wait()


def main() -> int:
    parser = Parser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--far", help=argparse.SUPPRESS)
    parser.add_argument("--near", help=argparse.SUPPRESS)
    parser.add_argument("--apart", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    take_sigterm_as_ctrl_c()
    if arguments.far:
        far_end(arguments.far)
        return 0
    if arguments.near:
        near_end(arguments.near, arguments.apart, arguments.seconds)
        return 0
    if reason := unavailable():
        print(f"skipped: {reason}")
        return 0
    rows: dict[tuple[bool, str], list[dict[str, Any]]] = {}
    with Host("cloud") as cloud, Host("edge") as edge:
        with Link(cloud, edge, LinkQuality(20.0, 40.0)) as link:
            address = link.address_of(cloud)
            for _ in range(arguments.rounds):
                for apart in (True, False):
                    found = run(cloud, edge, address, apart, arguments.seconds)
                    for load, result in found.items():
                        rows.setdefault((apart, load), []).append(result)
    print(f"{'connections':<14}{'load':<8}{'p50 ms':>8}{'p99 ms':>8}{'of idle':>9}{'arrived':>9}"
          f"{'up MB/s':>9}{'down MB/s':>11}")  # fmt: skip
    idle = statistics.median(p99(r) for (_, load), rs in rows.items() if load == "idle" for r in rs)
    for (apart, load), results in sorted(rows.items(), reverse=True):
        arrived = sum(len(r["lags"]) for r in results) / sum(r["sent"] for r in results)
        middle = [statistics.median(statistics.median(r["lags"]) for r in results),
                  statistics.median(p99(r) for r in results)]  # fmt: skip
        up, down = (statistics.median(r[way] for r in results) for way in ("up", "down"))
        print(f"{'one each' if apart else 'one for all':<14}{load:<8}{middle[0]:>8.0f}{middle[1]:>8.0f}"
              f"{middle[1] / idle:>9.2f}{arrived:>9.4f}{up:>9.2f}{down:>11.2f}")  # fmt: skip
    return 0


def p99(result: dict[str, Any]) -> float:
    return statistics.quantiles(result["lags"], n=100)[98]


if __name__ == "__main__":
    sys.exit(main())
