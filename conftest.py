"""Fixtures of all tests: a ROS domain of their own, and processes that always end."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator

import pytest

# DDS ports are computed from the domain; up to 101 they stay below the ephemeral range of Linux.
_DOMAINS = range(10, 100)
_ROS_TEST = f"{os.sep}ros{os.sep}"


def pytest_configure(config: pytest.Config) -> None:
    # Started in the background of a script, SIGINT is ignored, and by all that the tests start.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    # A domain per test session, so that sessions beside each other do not meet. Tests that need
    # one of their own take the fixture `ros_domain`.
    domain = _DOMAINS[os.getpid() % len(_DOMAINS)]
    os.environ["ROS_DOMAIN_ID"] = os.environ.get("USER_TEST_DOMAIN", str(domain))
    os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
    # Logs and the state of robots, for instance a latched emergency stop, are the session's own.
    os.environ["ROS_HOME"] = tempfile.mkdtemp(prefix="user_tests_")
    config.add_cleanup(lambda: shutil.rmtree(os.environ["ROS_HOME"], ignore_errors=True))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if _ROS_TEST in str(item.path):
            item.add_marker("ros")
        if item.get_closest_marker("root") and os.geteuid() != 0:
            item.add_marker(pytest.mark.skip(reason="needs root"))


@pytest.fixture
def ros_domain(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> int:
    """A ROS_DOMAIN_ID for this test alone, set in the environment of what it starts."""
    domain = _DOMAINS[hash((os.getpid(), request.node.nodeid)) % len(_DOMAINS)]
    monkeypatch.setenv("ROS_DOMAIN_ID", str(domain))
    return domain


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
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        for stream in (process.stdin, process.stdout, process.stderr):
            if stream is not None:
                stream.close()
