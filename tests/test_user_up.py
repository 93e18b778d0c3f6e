"""`user up` as a user runs it: a robot learns, everything is killed once, nothing is lost."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import pytest

from user_actor.outbox.storage import OutboxDatabase
from user_learner.replay import StoreReader, StoreWriter
from user_learner.replay.maintenance import verify
from user_testing.ports import free_endpoint
from user_testing.worlds.fleets.deployment import DeploymentRun

pytestmark = pytest.mark.timeout(600)


@pytest.fixture
def run(tmp_path, start_process, ros_domain):
    words = [
        "user", "up", "sim_single", "speed:=2.0", "evaluate_every:=3",
        f"policy_endpoint:={free_endpoint()}", "--runs", str(tmp_path), "--run", "r", "--no-table",
    ]  # fmt: skip
    process = start_process(words, stdout=subprocess.DEVNULL, env=dict(os.environ))
    return DeploymentRun(tmp_path / "r", process)


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
