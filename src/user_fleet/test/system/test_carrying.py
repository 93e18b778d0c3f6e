"""A job that is carried: its end is the carrier's, cancelling it is Ctrl-C, and none is lost when a carrier is
killed."""

import json
import os
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from user_core import plugins
from user_core.errors import EngineSilent
from user_core.jobs import Engine, EngineConfig, Job, JobState
from user_core.reasons import JOB_WAITS, Reason
from user_fleet.engines.carry import FAILED, REFUSED, write_job
from user_fleet.presence.launcher import Launcher, user_up
from user_fleet.presence.messages import Granted
from user_fleet.processes import is_alive
from user_fleet.scheduling.experiment import Run
from user_testing.processes import Process
from user_testing.waiting import wait_until

CARRY = [sys.executable, "-m", "user_fleet.engines.carry"]


def a_job(folder: Path, script: str, engine: str = "local", **options: object) -> Path:
    file = folder / "e.learner.1.job"
    whole = {"look_s": 0.05, **options}
    write_job(file, engine, whole, Job("e.learner", ["sh", "-c", script], folder))
    return file


def carried(folder: Path, file: Path, *words: str) -> Process:
    return Process([*CARRY, *words, str(file)], folder / "carrier.log").start()


def test_it_prints_what_the_job_prints_and_ends_as_it_does(tmp_path: Path) -> None:
    carrier = carried(tmp_path, a_job(tmp_path, "echo learns; exit 0"))
    assert carrier.wait(30.0) == 0
    assert "learns" in carrier.log and not list(tmp_path.glob("*.job"))
    carrier = carried(tmp_path, a_job(tmp_path, "echo no store; exit 3"))
    assert carrier.wait(30.0) == FAILED
    assert carrier.log.splitlines()[-1] == "job_failed: ended with code 3"


def test_ctrl_c_cancels_the_job_and_waits_for_its_end(tmp_path: Path) -> None:
    script = f"trap 'sleep 0.3; touch {tmp_path}/end; exit 0' INT; echo begins; while true; do sleep 0.05; done"
    carrier = carried(tmp_path, a_job(tmp_path, script))
    wait_until(lambda: "begins" in carrier.log, seen=lambda: carrier.log)
    carrier.signal(signal.SIGINT)
    assert carrier.wait(30.0) == 0
    assert (tmp_path / "end").exists()


def test_a_job_whose_carrier_was_killed_is_carried_on_or_cancelled(tmp_path: Path) -> None:
    script = f"echo x >> {tmp_path}/begins; while true; do sleep 0.05; done"
    file = a_job(tmp_path, script)
    first = carried(tmp_path, file)
    wait_until(lambda: "number" in file.read_text() and (tmp_path / "begins").exists())
    pid = int(json.loads(file.read_text())["number"].split(":")[0])
    os.kill(first.pid, signal.SIGKILL)
    second = carried(tmp_path, file)
    wait_until(lambda: "local: running" in second.log, seen=lambda: second.log)
    os.kill(second.pid, signal.SIGKILL)
    assert is_alive(pid)
    assert carried(tmp_path, file, "--cancel").wait(30.0) == 0
    assert not is_alive(pid) and not file.exists()
    assert (tmp_path / "begins").read_text() == "x\n"  # it was begun once


def test_what_is_refused_or_wrong_is_said_at_once(tmp_path: Path) -> None:
    carrier = carried(tmp_path, a_job(tmp_path, "true", "torchrun", ranks=4))
    assert carrier.wait(30.0) == REFUSED
    assert "config: " in carrier.log and "to an engine a learner is one process" in carrier.log
    assert not list(tmp_path.glob("*.job"))
    carrier = carried(tmp_path, a_job(tmp_path, "true", "ray", address="http://127.0.0.1:9", patience_s=0.3))  # fmt: skip
    assert carrier.wait(30.0) == FAILED
    assert carrier.log.splitlines()[-1].startswith("engine_silent: ray at http://127.0.0.1:9")


class Moody(Engine):
    """An engine of somebody else: silent at first; its jobs wait for ever."""

    Config = EngineConfig
    asked = 0

    def submit(self, job: Job) -> str:
        return "7"

    def state(self, number: str) -> JobState:
        self.asked += 1
        if self.asked < 4:
            raise EngineSilent("moody", got="no answer")
        return JobState("waiting", Reason(JOB_WAITS, "behind others"))

    def cancel(self, number: str) -> None:
        pass

    def logs(self, number: str, offset: int = 0) -> bytes:
        return b""


def test_an_engine_of_another_package_is_named_by_its_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    assert issubclass(plugins.load("engines", "user_fleet.engines.ray:RayEngine"), Engine)
    monkeypatch.setattr(plugins, "load", lambda kind, name: Moody)
    import threading

    from user_fleet.engines import carry

    monkeypatch.setattr(carry, "_BEGINS_S", 0.2)
    said: list[str] = []
    cancelling = threading.Event()
    carrier = carry.Carrier(a_job(tmp_path, "true", "moody"), cancelling, said.append)
    thread = threading.Thread(target=lambda: said.append(f"code {carrier.run()}"))
    thread.start()
    wait_until(lambda: "moody: waiting, behind others" in said, seen=lambda: said)
    cancelling.set()
    thread.join(60)
    assert said[-1] == "code 0"  # an engine that never begins it does not keep us


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Launcher]:
    program = tmp_path / "user"
    program.write_text(
        f'#!/bin/sh\necho "$@" >> {tmp_path}/begins\n'
        f"trap 'echo end >> {tmp_path}/begins; exit 0' INT TERM\nwhile true; do sleep 0.05; done\n"
    )
    program.chmod(0o755)
    jobs = tmp_path / "uses"

    def command(one: Granted, others: Sequence[Granted]) -> tuple[list[str], dict[str, str]]:
        return user_up(one, others, tmp_path / "runs", {}, jobs)

    made = Launcher(command, jobs, stop_s=10.0)
    yield made
    made.close()


def lines(folder: Path) -> list[str]:
    file = folder / "begins"
    return file.read_text().splitlines() if file.exists() else []


def test_a_grant_is_carried_by_its_engine_and_its_end_cancels_the_job(
    host: Launcher, tmp_path: Path
) -> None:
    options = {"program": str(tmp_path / "user"), "look_s": 0.05}
    run = Run(
        deployment="cloud", engine="torchrun", options=options, set={"router": "tcp/${address}"}
    )
    broken = Granted(fencing=1, resource="h/host/h", experiment="e", role="learner", run=run)
    host.apply([broken])
    wait_until(lambda: dict(host.failed()))
    assert "${address}" in dict(host.failed())[1]
    run = run.replace(set={"robot": "${robots.name}"})
    one = broken.replace(run=run, fencing=2)
    host.apply([one])
    host.apply([one.replace(peers={"robots.name": "left"})])  # it waits until that is known
    wait_until(lambda: lines(tmp_path), seen=lambda: list((tmp_path / "uses").iterdir()))
    assert lines(tmp_path)[0].startswith('up cloud robot:="left" --no-table')
    assert host.log(2) is not None and host.log(3) is None
    host.apply([one.replace(peers={"robots.name": "right"})])  # a robot was replaced: it goes on
    host.apply([one.replace(yields=True)])
    wait_until(lambda: list(host.given_back()) == [2])
    assert lines(tmp_path)[1:] == ["end"]


def test_what_is_connected_to_a_role_that_moves_is_started_again(tmp_path: Path) -> None:
    script = f"echo begin >> {tmp_path}/begins; trap 'echo end >> {tmp_path}/begins; exit 0' INT; while true; do sleep 0.05; done"  # fmt: skip
    host = Launcher(lambda one, others: (["sh", "-c", script], {}), tmp_path / "uses", stop_s=5.0)
    run = Run(deployment="edge", set={"router": "tcp/${learner.address}:1"})
    one = Granted(
        fencing=1, resource="h/robot/r", experiment="e", role="robots", run=run,
        peers={"learner.address": "10.0.0.1"},
    )  # fmt: skip
    try:
        host.apply([one])
        wait_until(lambda: lines(tmp_path) == ["begin"])
        host.apply([one.replace(peers={})])  # the learner is being replaced: the robot goes on
        host.apply([one.replace(peers={"learner.address": "10.0.0.2"})])
        wait_until(lambda: lines(tmp_path) == ["begin", "end", "begin"])
        assert not [*host.done(), *host.failed(), *host.given_back()]
    finally:
        host.close()


def test_a_job_that_nobody_carries_any_more_is_cancelled(tmp_path: Path) -> None:
    jobs = tmp_path / "uses"
    jobs.mkdir()
    file = jobs / "e.learner.5.job"
    write_job(file, "local", {"look_s": 0.05}, Job("e.learner", ["sleep", "600"], jobs))
    carrier = carried(tmp_path, file)
    wait_until(lambda: "number" in file.read_text())
    pid = int(json.loads(file.read_text())["number"].split(":")[0])
    os.kill(carrier.pid, signal.SIGKILL)
    assert is_alive(pid)
    host = Launcher(lambda one, others: (["true"], {}), jobs)
    try:
        time.sleep(0.5)
        assert is_alive(pid)  # nobody has said yet that its grant is over
        host.apply([])
        wait_until(lambda: not file.exists())
        assert not is_alive(pid)
    finally:
        host.close()
