"""What is started for grants, with real processes: one at a time for each resource, and all of it ends."""

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from user_core.errors import ConfigError
from user_fleet.presence import launcher
from user_fleet.presence.launcher import Launcher, user_up
from user_fleet.presence.messages import Granted
from user_fleet.processes import is_alive, session_members
from user_fleet.scheduling.experiment import Run
from user_testing.processes import Process
from user_testing.waiting import wait_until


def grant(number: int, script: str | None, resource: str = "h/robot/r", **changes) -> Granted:
    run = None if script is None else Run(deployment="script", set={"text": script})
    whole = {"experiment": "e", "role": "robots", "run": run, **changes}
    return Granted(fencing=number, resource=resource, **whole)


def shell(one: Granted, others: Sequence[Granted]) -> tuple[list[str], dict[str, str]]:
    assert one.run is not None
    return ["sh", "-c", one.run.set["text"]], {"FENCING": str(one.fencing)}


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Launcher]:
    made = Launcher(shell, tmp_path / "uses", stop_s=0.5)
    yield made
    made.close()


def pid_in(file: Path) -> int:
    return int(wait_until(lambda: file.exists() and file.read_text().strip()))


def test_it_runs_while_the_grant_holds_and_ends_with_all_that_it_started(
    host: Launcher, tmp_path: Path
) -> None:
    script = f"sleep 600 & echo $! > {tmp_path}/child; echo $$ > {tmp_path}/main; wait"
    host.apply([grant(1, script)])
    pids = [pid_in(tmp_path / name) for name in ("child", "main")]
    assert all(map(is_alive, pids))
    host.apply([])
    wait_until(lambda: not any(map(is_alive, pids)))
    assert not [*host.done(), *host.failed(), *host.given_back()]


def test_what_is_asked_back_is_given_back_once_nothing_runs(host: Launcher, tmp_path: Path) -> None:
    deaf = f"trap '' INT; echo $$ > {tmp_path}/main; while true; do sleep 0.05; done"
    host.apply([grant(1, deaf)])
    pid = pid_in(tmp_path / "main")
    host.apply([grant(1, deaf, yields=True)])
    wait_until(lambda: list(host.given_back()) == [1])
    assert not is_alive(pid)  # killed when its time was over, and only then given back
    host.apply([])
    assert not list(host.given_back())


def test_what_can_finish_is_asked_to_and_killed_only_when_its_time_is_over(tmp_path: Path) -> None:
    """An episode has its own time, beside that which the end takes."""
    script = (
        f"trap 'echo usr1 >> {tmp_path}/said; (sleep 0.8; touch {tmp_path}/over) & wait; exit 0' USR1; trap 'exit 7' INT;"
        f"echo $$ > {tmp_path}/main; while true; do sleep 0.05; done"
    )

    def finishes(one: Granted, others: Sequence[Granted]) -> tuple[list[str], dict[str, str]]:
        return ["sh", "-c", script, "sh", "--finish-s", "30"], {}

    host = Launcher(finishes, tmp_path / "uses", stop_s=0.2)
    try:
        host.apply([grant(1, script)])
        pid_in(tmp_path / "main")
        host.apply([grant(1, script, yields=True)])
        wait_until(lambda: list(host.given_back()) == [1])
        assert (tmp_path / "over").exists()
        assert (tmp_path / "said").read_text() == "usr1\n"

        (tmp_path / "main").unlink()
        host.apply([grant(2, script)])
        pid_in(tmp_path / "main")
        host.apply([])  # taken away: at once
        wait_until(lambda: not host._uses)
        assert (tmp_path / "said").read_text() == "usr1\n"
    finally:
        host.close()


def test_how_it_ends_by_itself_is_said(host: Launcher) -> None:
    host.apply([grant(1, "exit 0"), grant(2, "echo no bus >&2; exit 3", "h/robot/s")])
    wait_until(lambda: list(host.done()) == [1] and list(host.failed()))
    assert list(host.failed()) == [(2, "ended with code 3: no bus")]
    host.apply([])
    assert not [*host.done(), *host.failed()]


def test_what_has_failed_is_not_started_once_more(host: Launcher, tmp_path: Path) -> None:
    host.apply([grant(1, f"echo x >> {tmp_path}/starts; exit 3")])
    wait_until(lambda: list(host.failed()), "it has failed")
    time.sleep(1.0)
    assert (tmp_path / "starts").read_text() == "x\n"


def test_two_of_one_resource_never_run_at_once(host: Launcher, tmp_path: Path) -> None:
    overlap = (
        f"test -e {tmp_path}/busy && echo $FENCING >> {tmp_path}/overlaps; touch {tmp_path}/busy;"
        f"trap 'sleep 0.2; rm {tmp_path}/busy; exit 0' INT; echo $FENCING >> {tmp_path}/began;"
        "while true; do sleep 0.02; done"
    )
    for number in range(1, 4):
        host.apply([grant(number, overlap)])
        wait_until(lambda n=number: str(n) in (tmp_path / "began").read_text().split() if (tmp_path / "began").exists() else False)  # fmt: skip
    assert not (tmp_path / "overlaps").exists()


AGENT = """
import sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from test_launcher import grant, shell
from user_fleet.presence.launcher import Launcher
launcher = Launcher(shell, Path(sys.argv[2]), stop_s=5.0, alone_s=float(sys.argv[3]))
launcher.apply([grant(1, sys.argv[4])])
time.sleep(600)
"""


@pytest.fixture
def killed_agent(tmp_path: Path) -> Iterator[Callable[..., int]]:
    """An agent of its own that starts something for grant 1, and is killed; returns the pid of what it started."""

    def make(script: str, alone_s: float = 30.0) -> int:
        folder = Path(__file__).parent
        words = [sys.executable, "-c", AGENT, folder, tmp_path / "uses", alone_s]
        script = f"echo $$ > {tmp_path}/first; {script}"
        with Process([*map(str, words), script], tmp_path / "agent.log") as agent:
            pid = pid_in(tmp_path / "first")
            wait_until(lambda: list((tmp_path / "uses").glob("*.pid")), "it is noted")
            agent.kill()
        return pid

    yield make
    for file in (tmp_path / "uses").glob("*.pid"):
        for pid in session_members([int(file.read_text().split()[0])]):
            os.kill(pid, signal.SIGKILL)


FOREVER = "trap 'exit 0' INT TERM; while true; do sleep 0.02; done"


def test_what_a_killed_agent_has_started_goes_on_with_the_next_one(killed_agent, tmp_path) -> None:
    pid = killed_agent(FOREVER)
    host = Launcher(shell, tmp_path / "uses", stop_s=5.0)
    try:
        time.sleep(0.5)
        assert is_alive(pid)  # also while no scheduler has said yet what is granted
        host.apply([grant(1, FOREVER)])
        time.sleep(0.5)
        assert is_alive(pid) and pid_in(tmp_path / "first") == pid
        assert not [*host.done(), *host.failed(), *host.given_back()]
        host.apply([grant(1, FOREVER, yields=True)])
        wait_until(lambda: list(host.given_back()) == [1], "it is given back")
        assert not is_alive(pid)
    finally:
        host.close()


@pytest.mark.parametrize("code", [0, 7])
def test_how_it_ends_is_known_to_an_agent_that_has_not_started_it(
    killed_agent, tmp_path, code
) -> None:
    go = tmp_path / "go"
    killed_agent(f"while ! test -e {go}; do sleep 0.02; done; echo it was so; exit {code}")
    host = Launcher(shell, tmp_path / "uses")
    try:
        host.apply([grant(1, "exit 9")])
        assert not [*host.done(), *host.failed()]
        go.touch()
        wait_until(lambda: [*host.done(), *host.failed()], "it has ended")
        assert list(host.done()) == ([] if code else [1])
        assert dict(host.failed()) == ({1: "ended with code 7: it was so"} if code else {})
    finally:
        host.close()


def test_what_was_asked_to_end_by_a_killed_agent_is_no_success_and_begins_again(
    killed_agent, tmp_path
) -> None:
    killed_agent(FOREVER)
    keeper = int(next((tmp_path / "uses").glob("*.pid")).read_text().split()[0])
    host = Launcher(shell, tmp_path / "uses", stop_s=5.0)
    try:
        os.kill(keeper, signal.SIGINT)  # as by an agent that is killed while it waits for the end
        host.apply([grant(1, f"echo $$ > {tmp_path}/second; {FOREVER}")])
        assert is_alive(pid_in(tmp_path / "second"))
        assert not [*host.done(), *host.failed()]
    finally:
        host.close()


def test_without_any_agent_it_is_asked_to_end_in_good_order(killed_agent, tmp_path) -> None:
    script = f"trap 'echo end > {tmp_path}/last; exit 0' TERM; while true; do sleep 0.02; done"
    pid = killed_agent(script, alone_s=1.0)
    wait_until(lambda: (tmp_path / "last").exists() and not is_alive(pid), "it has ended")
    assert "no agent for 1.0 s: asked to end" in next((tmp_path / "uses").glob("*.log")).read_text()


def test_what_a_killed_agent_left_for_another_grant_is_ended_before_anything_is_started(
    host: Launcher, tmp_path: Path
) -> None:
    slow = (
        f"trap 'sleep 0.3; echo end >> {tmp_path}/lines; exit 0' INT TERM; echo begin >> {tmp_path}/lines;"
        "while true; do sleep 0.02; done"
    )

    def lines() -> list[str]:
        file = tmp_path / "lines"
        return file.read_text().split() if file.exists() else []

    host.apply([grant(1, slow)])
    wait_until(lambda: lines() == ["begin"])
    following = Launcher(shell, tmp_path / "uses", stop_s=30.0)  # the next agent of this host
    try:
        following.apply([grant(2, slow)])
        wait_until(lambda: len(lines()) == 3)
        assert lines() == ["begin", "end", "begin"]
    finally:
        following._stop_s = 0.2
        following.close()


def test_a_second_gpu_of_a_process_is_given_back_with_it(host: Launcher, tmp_path: Path) -> None:
    script = f"echo $$ > {tmp_path}/main; exec sleep 600"
    both = [grant(1, script, "h/gpu/a"), grant(2, None, "h/gpu/b")]
    host.apply(both)
    pid = pid_in(tmp_path / "main")
    host.apply([both[0], both[1].replace(yields=True)])
    wait_until(lambda: 2 in host.given_back())
    assert not is_alive(pid)


def test_what_has_ended_well_is_not_started_again_by_the_next_agent(tmp_path: Path) -> None:
    script = f"echo x >> {tmp_path}/starts"
    for _ in range(2):
        host = Launcher(shell, tmp_path / "uses")
        host.apply([grant(1, script)])
        wait_until(lambda h=host: list(h.done()) == [1])
        host.close()
    assert (tmp_path / "starts").read_text() == "x\n"


def test_what_cannot_be_started_is_a_failure(tmp_path: Path) -> None:
    host = Launcher(lambda one, others: (["/no/such/program"], {}), tmp_path)
    host.apply([grant(1, "")])
    wait_until(lambda: list(host.failed()))
    assert "cannot be started" in dict(host.failed())[1]
    host.close()


def test_user_up_is_told_what_it_is_for(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(launcher.shutil, "which", lambda name: f"/bin/{name}")
    run = Run(
        deployment="edge",
        set={"name": "${resource}", "robot": "${robot_file}", "actor.loop.random_steps": 5},
    )
    one = Granted(fencing=7, resource="lab/robot/left", experiment="e", role="robots", run=run)
    words, variables = user_up(one, [one], tmp_path, {"robot_file": "panda_sim"})
    assert words[:3] == ["/bin/user", "up", "edge"]
    assert words[3:6] == ['name:="left"', 'robot:="panda_sim"', "actor.loop.random_steps:=5"]
    assert words[-3:] == ["e.robots.left", "--finish-s", "60.0"]
    assert variables["USER_FLEET_GRANT"] == "7"
    with pytest.raises(ConfigError, match="robot_file"):
        user_up(one, [one], tmp_path, {})
    gpus = [
        one.replace(resource=f"lab/gpu/GPU-{i}", role="learner", run=Run(deployment="cloud"))
        for i in range(2)
    ]
    words, variables = user_up(gpus[0], [one, *gpus], tmp_path, {})
    assert variables == {"CUDA_VISIBLE_DEVICES": "GPU-0,GPU-1"}
    assert words[-1] == "e.learner"
