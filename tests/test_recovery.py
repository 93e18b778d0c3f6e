"""What becomes of the robot and of the data when a process dies, is suspended, or the clock jumps."""

from __future__ import annotations

import json
import os
import shutil
import signal
import struct
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from user_msgs.msg import ActorStatus

from user_learner.replay import StoreReader
from user_learner.replay.maintenance import verify
from user_testing.ports import free_endpoint
from user_testing.processes import NodeProcess
from user_testing.worlds.acting import GraphProbe, committed_steps

WATCHDOG_S = 0.3
#: Room for a busy machine on top of what is promised.
SLACK_S = 0.25
HOUR_NS = 3600 * 10**9


class Lab:
    """A robot that writes down what reaches it, its actor, and a store."""

    def __init__(self, folder: Path, env: dict[str, str] | None = None) -> None:
        self.folder, self.reached = folder, folder / "reached.jsonl"
        self.probe = GraphProbe()
        self.hal = NodeProcess(
            "user_hal.nodes.hal",
            {
                "robot": {
                    "plugin": "mock", "params": {"rate_hz": 50.0, "log_file": str(self.reached)},
                },
                "safety": {"watchdog_s": WATCHDOG_S},
                "state_dir": str(folder / "state"),
            },
            folder, env=env,
        )  # fmt: skip
        self.replay = NodeProcess(
            "user_learner.nodes.replay", {"path": str(folder / "store")}, folder, env=env
        )
        self.actor = NodeProcess(
            "user_actor.nodes.actor",
            {
                "policy": {"plugin": "tanh_gaussian"},
                "reward": {"plugin": "pose_threshold", "params": {"goal": [9.0, 9.0, 9.0]}},
                "outbox": {"directory": str(folder / "outbox")},
                "loop": {
                    "exploration": {"before_first_version": "initial"},
                    "retry_s": 0.2, "max_episode_steps": 200,
                },
                "lease": {"duration_s": 2.0},
                "zenoh": {"connect": [free_endpoint()]},
            },
            folder, env=env,
        )  # fmt: skip

    def start(self) -> Lab:
        for process in (self.hal, self.replay, self.actor):
            process.start()
        return self

    def acts(self) -> None:
        """Wait until commands reach the robot and the store grows."""
        commands = len(self.log("command"))
        probe = self.probe
        probe.until(lambda: probe.replay is not None, "the store says how it is")
        steps = probe.replay.steps
        probe.until(
            lambda: len(self.log("command")) > commands + 20 and probe.replay.steps > steps + 20,
            "commands reach the robot and the store grows",
        )

    def log(self, what: str = "") -> list[dict]:
        if not self.reached.exists():
            return []
        lines = self.reached.read_text(encoding="utf-8").splitlines()
        found = []
        for line in lines:
            try:
                found.append(json.loads(line))
            except json.JSONDecodeError:  # being written
                continue
        return [entry for entry in found if not what or entry["what"] == what]

    def stopped_after(self, since_ns: int) -> float:
        """How long it took until the driver was told to stop, seconds."""
        found: list[int] = []

        def seen() -> bool:
            found[:] = [e["monotonic_ns"] for e in self.log("stop") if e["monotonic_ns"] > since_ns]
            return bool(found)

        self.probe.until(seen, "the driver is told to stop", 10.0)
        return (found[0] - since_ns) * 1e-9

    def close(self) -> None:
        for process in (self.actor, self.replay, self.hal):
            process.close()
        self.probe.close()


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    lab = Lab(tmp_path_factory.mktemp("lab"))
    try:
        yield lab.start()
    finally:
        lab.close()


def quiet_until(lab: Lab, since_ns: int, until_ns: int) -> None:
    """No command reached the robot between its stop and this time."""
    stop_ns = min(e["monotonic_ns"] for e in lab.log("stop") if e["monotonic_ns"] > since_ns)
    late = [e for e in lab.log("command") if stop_ns < e["monotonic_ns"] < until_ns]
    assert not late, f"{len(late)} commands after the stop"


def test_the_robot_stops_within_two_watchdog_periods_when_its_actor_dies(lab: Lab) -> None:
    lab.acts()
    died_ns = time.monotonic_ns()
    lab.actor.kill()
    assert lab.stopped_after(died_ns) <= 2 * WATCHDOG_S + SLACK_S
    time.sleep(0.5)
    quiet_until(lab, died_ns, time.monotonic_ns())
    lab.actor.start()
    lab.acts()


@pytest.mark.slow
def test_a_suspended_actor_stops_the_robot_and_goes_on_by_itself(lab: Lab) -> None:
    lab.acts()
    suspended_ns = time.monotonic_ns()
    os.kill(lab.actor.process.pid, signal.SIGSTOP)
    try:
        assert lab.stopped_after(suspended_ns) <= 2 * WATCHDOG_S + SLACK_S
        time.sleep(3.0)  # longer than its lease
        continued_ns = time.monotonic_ns()
    finally:
        os.kill(lab.actor.process.pid, signal.SIGCONT)
    quiet_until(lab, suspended_ns, continued_ns)
    lab.acts()


@pytest.mark.slow
def test_a_suspended_hal_plays_nothing_old_when_it_goes_on(lab: Lab) -> None:
    lab.acts()
    os.kill(lab.hal.process.pid, signal.SIGSTOP)
    try:
        time.sleep(3.0)
        continued_ns = time.monotonic_ns()
    finally:
        os.kill(lab.hal.process.pid, signal.SIGCONT)
    lab.stopped_after(continued_ns)
    first = next(e for e in lab.log() if e["monotonic_ns"] > continued_ns)
    assert first["what"] == "stop"
    lab.acts()


@pytest.mark.slow
def test_without_its_robot_the_actor_waits_and_says_so(lab: Lab) -> None:
    lab.acts()
    lab.hal.kill()
    probe = lab.probe
    probe.until(lambda: probe.actor.state == ActorStatus.WAITING, "the actor waits")
    lab.hal.start()
    lab.acts()


@pytest.mark.slow
def test_nothing_is_lost_when_the_clock_jumps(tmp_path: Path, ros_domain: int) -> None:
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler here, to move the clock of the processes")
    library, offset = tmp_path / "clock_offset.so", tmp_path / "offset"
    source = Path(__file__).with_name("clock_offset.c")
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", library, source, "-ldl"], check=True)
    offset.write_bytes(struct.pack("<q", 0))

    def jump(offset_ns: int) -> None:
        with offset.open("r+b") as stream:
            stream.write(struct.pack("<q", offset_ns))

    lab = Lab(tmp_path, {"LD_PRELOAD": str(library), "CLOCK_OFFSET_FILE": str(offset)})
    try:
        lab.start().acts()
        for jump_ns in (HOUR_NS, -HOUR_NS, 0):
            jump(jump_ns)
            lab.acts()
        # All of the host comes back, killed, with a clock that has lost an hour: everything that
        # it finds on its disk is of the future.
        for process in (lab.actor, lab.replay, lab.hal):
            process.kill()
        jump(-HOUR_NS)
        lab.probe.forget()
        lab.start().acts()
        assert lab.actor.interrupt() == 0, lab.actor.log[-3000:]
    finally:
        lab.close()
    report = verify(tmp_path / "store")
    assert report.ok, report.errors
    steps, chunks = committed_steps(tmp_path / "outbox")
    reader = StoreReader(tmp_path / "store")
    try:
        stored = sum(reader.meta.steps.values())
        assert stored <= steps
        assert stored == steps or chunks > 0
    finally:
        reader.close()
