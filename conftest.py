"""Fixtures of all tests: ROS domains of their own, processes that always end, and the three tiers.

A test's tier follows from where it lies: ``src/*/test/ros`` holds ROS tests, ``tests`` system tests,
and all others in ``src/*/test`` are unit tests. Each carries its tier as a marker.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Generator, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from user_testing.ports import claim_domain
from user_testing.processes import begin_test, close_all, kill_group, logs_of_test
from user_testing.waiting import forget_dead_threads, watch_threads

_ROOT = Path(__file__).parent
_HAS_ROS = find_spec("rclpy") is not None
TIERS = ("unit", "ros", "system")


def tier_of(path: Path) -> str:
    """The tier of a test file."""
    folders = path.relative_to(_ROOT).parts[:-1]
    if folders[:1] == ("tests",) or "system" in folders:
        return "system"
    return "ros" if "ros" in folders else "unit"


def group_of(path: Path) -> str:
    """The tests that run one at a time with those of a file, in the same worker.

    Whole systems take turns, for they measure real time; so do the nodes of one package. The other
    tests of a file share its fixtures.
    """
    if path.is_relative_to(_ROOT / "tests"):
        return "system"
    return f"ros {path.relative_to(_ROOT).parts[1]}" if tier_of(path) == "ros" else str(path)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--tier", choices=TIERS, help="run the tests of one tier only")
    parser.addoption(
        "--rerun-system", type=int, default=0, metavar="N",
        help="run a test of the tiers ros and system that fails up to N times more; the summary names it",
    )  # fmt: skip


def pytest_configure(config: pytest.Config) -> None:
    # Started in the background of a script, SIGINT is ignored, and by all that the tests start.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    # Threads of one operation wait for each other in busy loops: beside other processes, a test
    # that trains small networks took 25 times as long with two of them as with one.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    # Ended by SIGTERM (`timeout`, a CI job that is cancelled), the fixtures end what they started.
    signal.signal(signal.SIGTERM, lambda number, frame: signal.raise_signal(signal.SIGINT))
    # Beside other work an example takes what it takes; hypothesis would fail after 0.2 s, or after 1 s of drawing.
    if find_spec("hypothesis") is not None:
        from hypothesis import HealthCheck, settings

        slow = [HealthCheck.too_slow]
        settings.register_profile("unhurried", deadline=None, suppress_health_check=slow)
        settings.load_profile("unhurried")
    # A domain per test session, so that sessions beside each other do not meet. Tests that need
    # one of their own take the fixture `ros_domain`.
    os.environ["ROS_DOMAIN_ID"] = str(claim_domain().number)
    os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
    # What tests start imports the test kit, too.
    kit = str(_ROOT / "testing")
    paths = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path != kit]
    os.environ["PYTHONPATH"] = os.pathsep.join([kit, *filter(None, paths)])
    # Logs and the state of robots, for instance a latched emergency stop, are the session's own.
    os.environ["ROS_HOME"] = tempfile.mkdtemp(prefix="user_tests_")
    config.add_cleanup(lambda: shutil.rmtree(os.environ["ROS_HOME"], ignore_errors=True))
    config.add_cleanup(close_all)
    # Tests kill processes, and each one leaves megabytes of shared memory behind.
    if find_spec("user_fleet") is not None:
        from user_fleet.supervisor.abandoned_memory import remove_abandoned_memory

        config.add_cleanup(remove_abandoned_memory)


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    if collection_path.suffix != ".py" or not collection_path.is_relative_to(_ROOT):
        return None
    tier = tier_of(collection_path)
    wanted = config.getoption("--tier")
    # Without ROS 2 (an installation, or the wheels) there are unit tests only.
    return True if (wanted and tier != wanted) or (tier != "unit" and not _HAS_ROS) else None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    reruns = config.getoption("--rerun-system")
    for item in items:
        tier = tier_of(item.path)
        item.add_marker(tier)
        if tier != "unit" and reruns:
            item.add_marker(pytest.mark.flaky(reruns=reruns))
        if item.get_closest_marker("root") and os.geteuid() != 0:
            item.add_marker(pytest.mark.skip(reason="needs root"))
    if hasattr(config, "workerinput"):  # the long groups begin first, so that workers end together
        items.sort(
            key=lambda item: (group_of(item.path) != "system", -TIERS.index(tier_of(item.path)))
        )


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Why tests were run once more: a fault that shows once in a hundred runs is found by what it said."""
    for report in terminalreporter.stats.get("rerun", []):
        terminalreporter.section(f"run once more: {report.nodeid}", "-")
        said = [line for line in report.longreprtext.splitlines() if line.startswith(("E ", ">"))]
        terminalreporter.write_line("\n".join(said[:40] or [report.longreprtext[-2000:]]))


def pytest_collection_finish(session: pytest.Session) -> None:
    worker = getattr(session.config, "workerinput", {}).get("workerid", "gw0")
    needed = "user_testing.interfaces" in sys.modules and not session.config.option.collectonly
    if worker == "gw0" and needed and any(tier_of(item.path) != "unit" for item in session.items):
        # Messages of robots' drivers are compiled once: while other tests run, and not in the time
        # of the first test that needs them, which waits.
        command = [sys.executable, "-m", "user_testing.interfaces"]
        quiet = subprocess.DEVNULL
        compiling = subprocess.Popen(command, stdout=quiet, stderr=quiet, start_new_session=True)
        session.config.add_cleanup(lambda: kill_group(compiling))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    from xdist.scheduler import LoadScopeScheduling

    class GroupScheduling(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return group_of(_ROOT / nodeid.partition("::")[0])

    config.option.loadscopereorder = False  # the order is that of the workers' items
    return GroupScheduling(config, log)


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    def end_in_spite_of_threads() -> None:
        others = set(threading.enumerate()) - {threading.main_thread()}
        if exitstatus != 0 and any(not thread.daemon for thread in others):
            sys.stdout.flush()
            os._exit(int(exitstatus))

    # A test that failed may have left a thread behind, for which Python would wait for ever.
    if not hasattr(session.config, "workerinput"):
        threading._register_atexit(end_in_spite_of_threads)  # type: ignore[attr-defined]


def pytest_sessionstart() -> None:
    watch_threads()  # behind pytest's own, which is there by now


def pytest_runtest_setup() -> None:
    begin_test()
    forget_dead_threads()


_has_failed = pytest.StashKey[bool]()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_teardown(item: pytest.Item) -> None:
    # Processes that the tests of a module share may be stuck once one has failed: when it is run once more, and for
    # those after it, new ones are started.
    if item.stash.get(_has_failed, False):
        item.session._setupstate.teardown_exact(item.session)
    # A training loop lets its thread flush denormal numbers; hypothesis refuses to draw floats then.
    if "torch" in sys.modules:
        sys.modules["torch"].set_flush_denormal(False)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    item.stash[_has_failed] = report.failed
    if report.failed:
        report.sections += [(f"end of the log of {name}", log) for name, log in logs_of_test()]
    return report


@pytest.fixture
def ros_domain(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """A ROS_DOMAIN_ID for this test alone, set in the environment of what it starts."""
    with claim_domain() as domain:
        monkeypatch.setenv("ROS_DOMAIN_ID", str(domain))
        yield domain


@pytest.fixture(scope="module")
def module_ros_domain() -> Iterator[int]:
    """A ROS_DOMAIN_ID for what the tests of a module share, set in the environment while they run."""
    with claim_domain() as domain, pytest.MonkeyPatch.context() as patch:
        patch.setenv("ROS_DOMAIN_ID", str(domain))
        yield domain


@pytest.fixture
def start_process() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """``start_process(words, **options)``: a process in a group of its own, ended with the test."""
    started: list[subprocess.Popen[str]] = []

    def start(words: list[str], **options: object) -> subprocess.Popen[str]:
        process = subprocess.Popen(words, text=True, start_new_session=True, **options)  # type: ignore[call-overload]
        started.append(process)
        return process

    yield start
    for process in started:
        kill_group(process)
