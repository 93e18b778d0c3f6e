"""How punctual the HAL's control loop is, beside a bare loop of absolute sleeps.

The HAL runs a simulated arm in real time at 100 Hz, physics, safety gate, chunk player and all,
with a command for every period, while another process keeps one core busy. At the same time, in
a process of its own, a loop that does nothing but sleep until the next deadline runs at the same
rate: what is left of its punctuality is the machine's doing. What counts is the ratio.

    python benchmarks/control/control_loop.py [--seconds 60] [--rate 100] [--task reach]
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import subprocess
import sys
import threading
import time

import numpy as np

from user_core.command_line import Parser
from user_core.runtime.histogram import LatencyHistogram
from user_core.types import ActionChunk, Observation
from user_hal.robots.mujoco import MujocoConfig, MujocoRobot
from user_hal.runtime.control_loop import HalLoop, LoopConfig
from user_hal.runtime.leases import LeaseConfig
from user_hal.safety import Refused, SafetyConfig
from user_testing import systems

MOST_RATIO = 1.5


def keep_busy() -> None:
    """Burn one core."""
    while True:
        sum(range(1000))


def bare_loop(rate_hz: float, seconds: float) -> list[int]:
    """Lateness of a loop of absolute sleeps, nanoseconds."""
    period_ns = int(1e9 / rate_hz)
    late_ns, due_ns = [], time.monotonic_ns() + period_ns
    for _ in range(int(seconds * rate_hz)):
        time.sleep(max(due_ns - time.monotonic_ns(), 0) * 1e-9)
        late_ns.append(time.monotonic_ns() - due_ns)
        due_ns += period_ns
    return late_ns


class Recorded(LatencyHistogram):
    """Keeps every lateness, nanoseconds."""

    def __init__(self) -> None:
        super().__init__()
        self.late_ns: list[int] = []

    def add(self, duration_ns: int) -> None:
        super().add(duration_ns)
        self.late_ns.append(duration_ns)


class Run:
    """The HAL with a simulated arm, and an actor that sends a command a period."""

    def __init__(self, rate_hz: float, seconds: float, task: str) -> None:
        robot = MujocoRobot(
            MujocoConfig(task=task, rate_hz=rate_hz, substeps=5, real_time=True, horizon_s=1e6)
        )
        self.stamps_ns: list[int] = []
        self.loop = HalLoop(
            robot,
            LoopConfig(),
            SafetyConfig(),
            LeaseConfig(required=False),
            on_observation=self._seen,
        )
        self.late = self.loop.deadlines.lateness = Recorded()
        self._row = np.zeros((1, robot.spec.action.size), np.float32)
        self._period_ns = int(robot.spec.period_s * 1e9)
        self._sequence = 0
        self.refused = 0
        self._fresh = threading.Event()
        self._end = threading.Event()

    def _seen(self, observation: Observation) -> None:
        self.stamps_ns.append(time.monotonic_ns())
        self._fresh.set()

    def _act(self) -> None:
        while not self._end.is_set():
            if self._fresh.wait(1.0):
                self._fresh.clear()
                self._sequence += 1
                chunk = ActionChunk(self._row, self._period_ns, sequence=self._sequence)
                try:
                    self.loop.submit(chunk)
                except Refused:
                    self.refused += 1

    def run(self, seconds: float) -> np.ndarray:
        """Run it; return the lateness of each cycle, nanoseconds."""
        actor = threading.Thread(target=self._act, daemon=True)
        self.loop.start()
        actor.start()
        time.sleep(seconds)
        late_ns = np.array(self.late.late_ns)
        self._end.set()
        actor.join()
        self.loop.close()
        return late_ns


def drift_ms(stamps_ns: list[int], period_ns: int) -> float:
    """How far the deadlines shifted from the first fifth of the run to the last.

    By the punctual cycles (the fifth percentile): how late the others are is another question.
    """
    stamps = np.array(stamps_ns[5:])
    offset = (stamps - stamps[0]) % period_ns
    offset = (offset + period_ns // 2) % period_ns - period_ns // 2
    fifth = len(offset) // 5
    first, last = np.percentile(offset[:fifth], 5), np.percentile(offset[-fifth:], 5)
    return float(last - first) / 1e6


def main() -> int:
    parser = Parser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--rate", type=float, default=100.0)
    parser.add_argument("--task", default="reach")
    parser.add_argument("--idle", action="store_true", help="no busy process beside it")
    parser.add_argument("--bare", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.bare:
        print(json.dumps(bare_loop(args.rate, args.seconds)))
        return 0
    sys.setswitchinterval(0.0005)  # as the hal node does
    busy = multiprocessing.Process(
        target=systems.call_until_parent_ends, args=(keep_busy,), daemon=True
    )
    if not args.idle:
        busy.start()
    words = [sys.executable, __file__, "--bare", f"--seconds={args.seconds}", f"--rate={args.rate}"]
    bare = systems.start(words, stdout=subprocess.PIPE, text=True)
    try:
        run = Run(args.rate, args.seconds, args.task)
        hal_ns = run.run(args.seconds)
        output, _ = bare.communicate(timeout=args.seconds + 30)
    finally:
        bare.kill()
        if busy.is_alive():
            busy.kill()
    return report(args, run, hal_ns, np.array(json.loads(output)))


def report(args: argparse.Namespace, run: Run, hal_ns: np.ndarray, bare_ns: np.ndarray) -> int:
    load = "no other load" if args.idle else "another process keeps one core busy"
    print(f"{args.rate:g} Hz for {args.seconds:g} s, {load}; lateness in ms")
    print("| loop | cycles | p50 | p99 | worst |\n|---|---|---|---|---|")
    rows = {"hal, simulated arm": hal_ns, "bare absolute sleep": bare_ns}
    for name, late_ns in rows.items():
        p50, p99, worst = np.percentile(late_ns, [50, 99, 100]) / 1e6
        print(f"| {name} | {len(late_ns)} | {p50:.3f} | {p99:.3f} | {worst:.3f} |")
    ratio = np.percentile(hal_ns, 99) / np.percentile(bare_ns, 99)
    status = run.loop.status()
    drift = drift_ms(run.stamps_ns, int(1e9 / args.rate))
    print(f"ratio of p99: {ratio:.2f} (at most {MOST_RATIO}); drift over the run: {drift:+.3f} ms")
    print(
        f"deadlines missed altogether: {status.lateness.missed}; commands that reached the robot: "
        f"{status.passed}, refused: {run.refused}"
    )
    return 0 if ratio <= MOST_RATIO else 1


if __name__ == "__main__":
    sys.exit(main())
