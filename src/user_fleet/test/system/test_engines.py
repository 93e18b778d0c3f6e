"""Every engine keeps the same promises, with the real thing where it is there: Slurm, Ray, torchrun, processes."""

import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from user_core import plugins
from user_core.errors import ConfigError, EngineError, EngineSilent
from user_core.jobs import Engine, Job, JobState
from user_fleet.engines.carry import write_job
from user_testing.link_emulator import Host, Link, LinkQuality, unavailable
from user_testing.processes import Process
from user_testing.waiting import wait_until
from user_testing.worlds.fleets.ray import RayWorld, ray_program
from user_testing.worlds.fleets.slurm import SlurmWorld, logs_of, missing


@pytest.fixture(scope="module")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SlurmWorld]:
    if what := missing():
        pytest.skip(f"{what} is not installed")
    pytest.importorskip("submitit")
    world = SlurmWorld(tmp_path_factory.mktemp("slurm"))
    world.start()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in world.environment.items():
            patch.setenv(name, value)
        yield world
    world.close()


@pytest.fixture(scope="module")
def ray(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RayWorld]:
    if not ray_program():
        pytest.skip("ray is not installed; USER_TEST_RAY names its program")
    world = RayWorld(tmp_path_factory.mktemp("ray"))
    world.start()
    yield world
    world.close()


@pytest.fixture(params=["local", "torchrun", "slurm", pytest.param("ray", marks=pytest.mark.slow)])
def engine(request: pytest.FixtureRequest) -> Engine:
    options: dict[str, object] = {}
    if request.param == "torchrun":
        pytest.importorskip("torch")
    if request.param == "slurm":
        request.getfixturevalue("slurm")
    if request.param == "ray":
        options = {"address": request.getfixturevalue("ray").address}
    made: Engine = plugins.build("engines", request.param, options)
    return made


@pytest.fixture
def job(tmp_path: Path) -> Callable[[str], Job]:
    return lambda script: Job("peg.learner", ["sh", "-c", script], tmp_path, {"ROBOT": "left arm"})


def ended(engine: Engine, number: str) -> JobState:
    def over() -> JobState | None:
        state = engine.state(number)
        return state if state.over else None

    found: JobState = wait_until(over, "the job is over", 90.0)
    return found


def printed(engine: Engine, number: str, text: str) -> None:
    wait_until(lambda: text in engine.logs(number).decode(), text)


def test_a_job_runs_prints_and_is_done(engine: Engine, job: Callable[[str], Job]) -> None:
    number = engine.submit(job("echo drives $ROBOT; exit 0"))
    assert ended(engine, number).phase == "done"
    printed(engine, number, "drives left arm")
    whole = engine.logs(number)
    assert engine.logs(number, 7) == whole[7:]


def test_one_that_fails_says_so(engine: Engine, job: Callable[[str], Job]) -> None:
    number = engine.submit(job("echo no store; exit 3"))
    state = ended(engine, number)
    assert (state.phase, state.reason.code) == ("failed", "job_failed")
    printed(engine, number, "no store")


def test_a_cancelled_one_ends_in_order_also_by_another_process(
    engine: Engine, job: Callable[[str], Job], tmp_path: Path
) -> None:
    script = (
        f"trap 'sleep 1; echo in order > {tmp_path}/end; exit 0' INT TERM; touch {tmp_path}/begin;"
        "while true; do sleep 0.05; done"
    )
    number = engine.submit(job(script))
    wait_until((tmp_path / "begin").exists, "it runs")
    assert engine.state(number).phase == "running"
    another = type(engine)(engine.config)  # knows no more than the number
    assert another.state(number).phase == "running"
    another.cancel(number)
    assert ended(engine, number).over
    assert (tmp_path / "end").read_text() == "in order\n"
    another.cancel(number)  # again, which does nothing


def test_what_slurm_refuses_is_told_in_its_own_words(
    slurm: SlurmWorld, job: Callable[[str], Job]
) -> None:
    wrong = plugins.build("engines", "slurm", {"partition": "no_such"})
    with pytest.raises(EngineError, match="invalid partition"):
        wrong.submit(job("true"))
    greedy = plugins.build("engines", "slurm", {"gpus": 8})
    with pytest.raises(EngineError, match="[Ii]nvalid"):
        greedy.submit(job("true"))
    engine = plugins.build("engines", "slurm", {})
    assert engine.state("999999:/x").phase == "gone"
    engine.cancel("999999:/x")


def test_a_slurm_that_dies_is_silent_and_its_job_goes_on(
    slurm: SlurmWorld, job: Callable[[str], Job], tmp_path: Path
) -> None:
    engine = plugins.build("engines", "slurm", {})
    script = f"while ! test -e {tmp_path}/finish; do sleep 0.05; done"
    number = engine.submit(job(script))
    wait_until(lambda: engine.state(number).phase == "running", "it runs")
    # What its file does not have yet, Slurm itself forgets: a job that it saved as waiting and finds
    # running, it aborts. So something of the running job is changed, and looked for in the file.
    slurm.ask("scontrol", "update", f"JobId={number.partition(':')[0]}", "Comment=known_to_run")
    saved = slurm.folder / "state" / "job_state"
    wait_until(lambda: saved.exists() and b"known_to_run" in saved.read_bytes())
    slurm.controller.kill()
    slurm.controller.wait()
    with pytest.raises(EngineSilent):
        engine.state(number)
    slurm.start_controller()

    def back() -> bool:
        try:
            return bool(engine.state(number).phase == "running")
        except EngineSilent:
            return False

    wait_until(
        back,
        "slurm is back and knows the job",
        60.0,
        seen=lambda: (
            slurm.ask("scontrol", "show", "job", number.partition(":")[0]),
            *logs_of(slurm),
        ),
    )
    (tmp_path / "finish").touch()
    assert ended(engine, number).phase == "done"


@pytest.mark.slow
def test_what_ray_cannot_give_waits_and_one_that_is_away_is_silent(
    ray: RayWorld, job: Callable[[str], Job]
) -> None:
    engine = plugins.build("engines", "ray", {"address": ray.address, "gpus": 4})
    number = engine.submit(job("true"))
    state = engine.state(number)
    assert (state.phase, state.reason.code) == ("waiting", "job_waits")
    engine.cancel(number)  # Ray ends what it has not begun only when it would begin
    assert engine.state(number).phase in ("waiting", "cancelled")
    assert engine.state("no-such-job").phase == "gone"
    away = plugins.build("engines", "ray", {"address": "http://127.0.0.1:9"})
    with pytest.raises(EngineSilent):
        away.state(number)


def test_torchrun_says_who_is_who(job: Callable[[str], Job]) -> None:
    pytest.importorskip("torch")
    if shutil.which("torchrun") is None:
        pytest.skip("torchrun is not on the path")
    engine = plugins.build("engines", "torchrun", {})
    number = engine.submit(job("echo rank $RANK of $WORLD_SIZE"))
    assert ended(engine, number).phase == "done"
    printed(engine, number, "rank 0 of 1")


@pytest.mark.parametrize("option", [{"ranks": 2}, {"nodes": 2}])
def test_more_than_one_rank_is_refused_and_why(option: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match="to an engine a learner is one process"):
        plugins.build("engines", "torchrun", option)


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.skipif(unavailable() is not None, reason=str(unavailable()))
@pytest.mark.skipif(not ray_program(), reason="ray is not installed; USER_TEST_RAY names it")
def test_a_job_of_a_cluster_on_another_host_goes_on_while_its_link_is_cut(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    with ExitStack() as stack:
        cluster, site = (stack.enter_context(Host(name)) for name in ("cluster", "site"))
        link = stack.enter_context(Link(cluster, site, LinkQuality()))
        folder = tmp_path_factory.mktemp("ray")  # Ray's sockets want a short path
        head = RayWorld(folder, ip=link.address_of(cluster), prefix=cluster.command())
        stack.callback(head.close)
        head.start()
        go = tmp_path / "go"
        script = tmp_path / "script"  # a file, since Ray prints the command
        script.write_text(f"echo begins; while ! test -e {go}; do sleep 0.1; done; echo ends")
        file = tmp_path / "e.learner.1.job"
        options = {"address": head.address, "look_s": 0.2}
        write_job(file, "ray", options, Job("e.learner", ["sh", str(script)], tmp_path))
        carry = [sys.executable, "-m", "user_fleet.engines.carry", str(file)]
        carrier = stack.enter_context(Process(site.command(*carry), tmp_path / "carrier.log"))
        wait_until(lambda: "begins" in carrier.log, "it runs", 90.0, seen=lambda: carrier.log)
        link.cut()
        go.touch()
        time.sleep(5.0)
        assert (
            carrier.is_running and "ends" not in carrier.log
        )  # nothing reaches it, nothing is lost
        link.restore()
        wait_until(lambda: "ends" in carrier.log, "its end is heard of")
        assert carrier.wait(60.0) == 0
