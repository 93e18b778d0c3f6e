"""A policy on another host: what the way there costs, and what chunks are worth.

Robot, actor and bridge in one ROS graph; router, bridge, replay and inference in another; between
them mutual TLS through a proxy with 20 Mbit/s and 80 ms of round trip, or what is given.

- **Round trip**: from the sending of an observation to its answer, beside a bare TCP echo of as
  many bytes through a proxy of the same quality, at the same time.
- **Reach**: the simulated arm in real time, 20 Hz, with the policy here; elsewhere with 16 rows; so
  with a policy that thinks for 100 ms; elsewhere with one action at a time.
- **Thin link**: pictures 20 times a second over 2 Mbit/s, in several codings. The newest wins, so
  answers become fewer, not later.
- **Cuts**: from the last command to the stop of the driver, in watchdog periods.

    python benchmarks/links/remote_inference.py [--seconds 40] [--delay 40] [--only reach,...]
"""

from __future__ import annotations

import contextlib
import os
import socket
import statistics
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.executors import SingleThreadedExecutor

from user_core.command_line import Parser
from user_core.types import Outcome
from user_learner.replay.reader import StoreReader
from user_testing.link_emulator import LinkQuality
from user_testing.link_proxy import LinkProxy
from user_testing.ports import free_port
from user_testing.worlds.remote import (
    WATCHDOG_S,
    DriverLog,
    RemoteWorld,
    stop_answers,
)

REACH = {
    "robot": {
        "plugin": "mujoco",
        "params": {
            "robot": "panda",
            "task": "reach",
            "real_time": True,
            "rate_hz": 20.0,
            "seed": 1,
        },
    },
    "safety": {"watchdog_s": WATCHDOG_S},
    "loop": {"blend_rows": 2},
}


def picture_robot(folder: Path, **params: Any) -> dict[str, Any]:
    log = {"log_file": str(folder / "driver.jsonl"), **params}
    return {
        "robot": {"plugin": "user_testing.worlds.remote_parts:PictureRobot", "params": log},
        "safety": {"watchdog_s": WATCHDOG_S}, "loop": {"blend_rows": 2},
    }  # fmt: skip


def go_there(rows: int = 16, thinks_s: float = 0.0) -> dict[str, Any]:
    return {
        "plugin": "user_testing.worlds.remote_parts:GoThere",
        "params": {"rows": rows, "thinks_s": thinks_s},
    }


class Diagnoses:
    """The newest diagnostics of a ROS graph."""

    def __init__(self, domain: int) -> None:
        self._context = rclpy.Context()
        self._context.init(domain_id=domain)
        self._node = rclpy.create_node("benchmark", context=self._context)
        self.values: dict[str, dict[str, str]] = {}
        self._node.create_subscription(DiagnosticArray, "/diagnostics", self._take, 50)
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self._node)
        self._thread = threading.Thread(target=self._executor.spin, daemon=True)
        self._thread.start()

    def _take(self, message: DiagnosticArray) -> None:
        for status in message.status:
            name = status.name.partition(": ")[2]
            self.values[name] = {item.key: item.value for item in status.values}

    def close(self) -> None:
        self._executor.shutdown()
        self._thread.join(5.0)
        self._context.try_shutdown()


@contextmanager
def running(
    quality: LinkQuality, hal: dict[str, Any], policy: dict[str, Any], **world: Any
) -> Iterator[tuple[RemoteWorld, Diagnoses]]:
    """Everything runs, and the first episodes have succeeded."""
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name)
        hal = picture_robot(folder, **hal) if "robot" not in hal else hal
        made = RemoteWorld(folder, stack, quality, hal, policy, **world)
        diagnoses = Diagnoses(made.domains["edge"])
        stack.callback(diagnoses.close)
        made.start()
        made.until(lambda: made.episodes(Outcome.SUCCESS) >= 1, "it succeeds", 90.0)
        yield made, diagnoses


def wait(seconds: float) -> None:
    time.sleep(seconds)


class Echo:
    """Bare TCP through a link: as many bytes there, a few back, one at a time."""

    def __init__(self, quality: LinkQuality, size: int) -> None:
        self._size = size
        port, through = free_port(), free_port()
        self._server = socket.create_server(("127.0.0.1", port))
        threading.Thread(target=self._serve, daemon=True).start()
        self._proxy = LinkProxy(through, port, quality)
        self._socket = socket.create_connection(("127.0.0.1", through))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            client, _ = self._server.accept()
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            while True:
                left = self._size
                while left:
                    left -= len(client.recv(left))
                client.sendall(bytes(600))

    def times_ms(self, seconds: float) -> list[float]:
        end_s, found = time.monotonic() + seconds, []
        while time.monotonic() < end_s:
            began_s = time.monotonic()
            self._socket.sendall(bytes(self._size))
            left = 600
            while left:
                left -= len(self._socket.recv(left))
            found.append((time.monotonic() - began_s) * 1e3)
            time.sleep(0.05)
        return found

    def close(self) -> None:
        self._socket.close()
        self._proxy.close()
        self._server.close()


def round_trip(quality: LinkQuality, seconds: float) -> None:
    print("\n| | p50 | p99 | / bare TCP |\n|---|---|---|---|")
    with running(quality, REACH, go_there(), remote={"in_flight": 3}) as (_, diagnoses):
        flow = lambda: diagnoses.values.get("flow inference", {})  # noqa: E731
        wait(2.0)
        size = int(flow()["bytes"]) // max(1, int(diagnoses.values["remote inference"]["sent"]))
        echo = Echo(quality, size)
        bare = echo.times_ms(seconds)
        echo.close()
        item = diagnoses.values["remote inference"]
        ours = float(item["round_trip_p50_ms"]), float(item["round_trip_p99_ms"])
        answered, lost = item["answered"], item["lost"]
    bare_p50, bare_p99 = statistics.median(bare), statistics.quantiles(bare, n=100)[98]
    print(f"| bare TCP, {size} bytes there | {bare_p50:.1f} ms | {bare_p99:.1f} ms | 1 |")
    print(
        f"| observation to action | {ours[0]:.1f} ms | {ours[1]:.1f} ms | {ours[0] / bare_p50:.2f} |"
        f"\n\n{answered} answered, {lost} lost"
    )


def reach(quality: LinkQuality, seconds: float) -> None:
    cases: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
        ("here, 1 row", go_there(1), {"remote": {"enabled": False}}),
        ("elsewhere, 16 rows", go_there(16), {}),
        ("elsewhere, 16 rows, thinks for 100 ms", go_there(16, 0.1), {}),
        ("elsewhere, 1 row", go_there(1), {}),
        ("elsewhere, 1 row, thinks for 100 ms", go_there(1, 0.1), {}),
    ]
    print("\n| policy | successes | time to the goal, p50 | / here | steps a second |")
    print("|---|---|---|---|---|")
    here_s = 0.0
    for name, policy, more in cases:
        if not more:
            world: dict[str, Any] = {}
        else:
            world = {**more, "actor_policy": policy}
        with running(quality, REACH, policy, **world) as (made, _):
            wait(seconds)
            made.actor.interrupt()
            time.sleep(1.0)
            wins, ends, took_s, rates = _episodes(made.store)
        p50_s = statistics.median(took_s)
        here_s = here_s or p50_s
        print(
            f"| {name} | {wins} of {ends} | {p50_s:.2f} s | {p50_s / here_s:.2f} | "
            f"{statistics.median(rates):.1f} |",
            flush=True,
        )


def _episodes(store: Path) -> tuple[int, int, list[float], list[float]]:
    reader = StoreReader(store)
    wins, ends, took_s, rates = 0, 0, [], []
    for episode in reader.episodes():
        result = episode.result
        if result is None or result.outcome in (Outcome.ABORTED, Outcome.UNFINISHED):
            continue
        ends += 1
        won = result.outcome is Outcome.SUCCESS
        wins += won
        stamps = reader.read_episode(episode)["stamp_ns"]
        duration_s = float(stamps[-1] - stamps[0]) * 1e-9
        if won:
            took_s.append(duration_s)
        rates.append((len(stamps) - 1) / max(duration_s, 1e-9))
    reader.close()
    return wins, ends, took_s, rates


def thin_link(quality: LinkQuality, seconds: float) -> None:
    print("\n| pictures 96 x 96 x 3, 20 Hz | bytes | answers a second | p50 | p99 | superseded |")
    print("|---|---|---|---|---|---|")
    for coding in ("", "zstd", "jpeg80"):
        hal = {"image_size": 96, "noise": False, "period_s": 0.05}
        with running(quality, hal, go_there(), remote={"coding": coding}) as (
            _,
            diagnoses,
        ):
            before = dict(diagnoses.values["remote inference"])
            wait(seconds)
            item = diagnoses.values["remote inference"]
            sent_bytes = int(diagnoses.values["flow inference"]["bytes"])
        answered = int(item["answered"]) - int(before["answered"])
        print(
            f"| {coding or 'as they are'} | {sent_bytes // max(1, int(item['sent']))} "
            f"| {answered / seconds:.1f} | {item['round_trip_p50_ms']} ms "
            f"| {item['round_trip_p99_ms']} ms | {item['superseded']} |",
            flush=True,
        )


def cuts(quality: LinkQuality, count: int = 5) -> None:
    with running(quality, {"period_s": 0.05, "max_step_m": 0.02}, go_there()) as (made, _):
        driver = DriverLog(made.folder / "driver.jsonl")
        found: list[tuple[float, float]] = []
        for _number in range(count):
            cut_s, last_s, stop_s = stop_answers(made, driver, made.link.cut, made.link.restore)
            found.append((last_s - cut_s, stop_s - last_s))
            made.link.restore()
            wins = made.episodes(Outcome.SUCCESS)
            made.until(lambda wins=wins: made.episodes(Outcome.SUCCESS) > wins, "it goes on")
    print("\n| cut | played on for | last command to stop | watchdog periods |\n|---|---|---|---|")
    for number, (played_s, stop_s) in enumerate(found):
        print(f"| {number + 1} | {played_s:.2f} s | {stop_s:.3f} s | {stop_s / WATCHDOG_S:.2f} |")


def main() -> None:
    parser = Parser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--seconds", type=float, default=40.0, help="of each trial")
    parser.add_argument("--rate", type=float, default=20.0, help="Mbit/s")
    parser.add_argument("--delay", type=float, default=40.0, help="one way, ms")
    parser.add_argument("--only", default="round_trip,reach,thin_link,cuts")
    given = parser.parse_args()
    os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
    quality = LinkQuality(rate_mbit_s=given.rate, delay_ms=given.delay)
    thin = LinkQuality(rate_mbit_s=2.0, delay_ms=given.delay)
    for name in given.only.split(","):
        print(f"\n## {name}", flush=True)
        if name == "round_trip":
            round_trip(quality, given.seconds)
        elif name == "reach":
            reach(quality, given.seconds)
        elif name == "thin_link":
            thin_link(thin, given.seconds / 2)
        else:
            cuts(quality)


if __name__ == "__main__":
    main()
