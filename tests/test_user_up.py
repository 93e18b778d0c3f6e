"""`user up` as a user runs it: a robot learns, everything is killed once, nothing is lost."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import time
from pathlib import Path

import pytest

from user_actor.outbox.storage import OutboxDatabase
from user_learner.replay import StoreReader, StoreWriter
from user_learner.replay.maintenance import verify

pytestmark = pytest.mark.timeout(420)


def free_endpoint() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"tcp/127.0.0.1:{probe.getsockname()[1]}"


class Run:
    def __init__(self, folder: Path, process: subprocess.Popen[str]) -> None:
        self.folder, self.process = folder, process

    def states(self) -> list[dict]:
        file = self.folder / "history.jsonl"
        lines = file.read_text().splitlines() if file.exists() else []
        found = []
        for line in lines:
            try:
                found.append(json.loads(line))
            except json.JSONDecodeError:  # being written
                continue
        return [line for line in found if line["kind"] == "state"]

    def number(self, name: str) -> float:
        return next((s[name] for s in reversed(self.states()) if name in s), 0)

    def until(self, condition, what: str, timeout_s: float = 120.0) -> None:
        deadline_s = time.monotonic() + timeout_s
        while not condition():
            assert self.process.poll() is None, f"user up ended with {self.process.returncode}"
            assert time.monotonic() < deadline_s, f"not within {timeout_s} s: {what}\n{self.logs()}"
            time.sleep(0.2)

    def pid(self, name: str) -> int:
        wanted = str(self.folder / "config" / f"{name}.yaml").encode()
        for entry in Path("/proc").iterdir():
            try:
                if entry.name.isdigit() and wanted in (entry / "cmdline").read_bytes().split(b"\0"):
                    return int(entry.name)
            except OSError:
                continue
        return 0

    def logs(self) -> str:
        return "\n".join(
            f"== {file.name}\n" + "\n".join(file.read_text().splitlines()[-12:])
            for file in sorted((self.folder / "logs").glob("*.log"))
        )


@pytest.fixture
def run(tmp_path, start_process, ros_domain):
    words = [
        "user", "up", "sim_single", "speed:=2.0", "evaluate_every:=3",
        f"policy_endpoint:={free_endpoint()}", "--runs", str(tmp_path), "--run", "r", "--no-table",
    ]  # fmt: skip
    process = start_process(words, stdout=subprocess.DEVNULL, env=dict(os.environ))
    return Run(tmp_path / "r", process)


def test_a_robot_learns_through_a_kill_of_every_process(run):
    run.until(lambda: run.number("policy_version") >= 3, "the learner trains")
    run.until(lambda: run.number("actor_version") >= 2, "the actor has swapped policies")
    for name, grows in (
        ("replay", "stored_steps"),
        ("hal", "stored_steps"),
        ("learner", "update"),
        ("actor", "stored_steps"),
    ):
        before_pid, before = run.pid(name), run.number(grows)
        assert before_pid, f"{name} is not there"
        os.kill(before_pid, signal.SIGKILL)
        run.until(lambda n=name, p=before_pid: run.pid(n) not in (0, p), f"{name} comes back")
        run.until(lambda g=grows, b=before: run.number(g) > b, f"{grows} grows after {name} died")
    version = run.number("policy_version")
    run.until(lambda: run.number("policy_version") > version, "newer versions")
    pids = [run.pid(name) for name in ("hal", "actor", "replay", "learner")]
    run.process.send_signal(signal.SIGINT)
    assert run.process.wait(90) == 0
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids), "a process was left over"

    report = verify(run.folder / "replay")
    assert report.ok, report.errors
    (outbox,) = (run.folder / "outbox").glob("*/outbox.sqlite")
    with StoreWriter(run.folder / "replay") as writer:
        (ack,) = writer.acknowledged()
    reader, database = StoreReader(run.folder / "replay"), OutboxDatabase(outbox, ack.producer)
    try:
        # Every committed step is in the store, or its chunk is still to be sent: a chunk that is
        # in both was stored, and its ack did not come before the end.
        unsent = [database.read(e.sequence) for e in database.upcoming(ack.sequence, 10_000)]
        left = sum(int((~chunk.columns["final"]).sum()) for chunk in unsent)
        stored = sum(reader.meta.steps.values())
        assert stored + left == database.steps
        assert stored > 100
        assert database.aside == 0
        assert ack.incarnation == database.incarnation
    finally:
        reader.close()
        database.close()
    assert (run.folder / "report.md").exists()


def test_a_wrong_argument_starts_nothing(tmp_path):
    result = subprocess.run(
        ["user", "up", "sim_single", "robot:=spot", "--runs", str(tmp_path)],
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert result.returncode == 1
    assert "panda" in result.stderr
    assert "Traceback" not in result.stderr
    assert not list(tmp_path.iterdir())
