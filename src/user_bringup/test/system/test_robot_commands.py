"""A command that drives a robot, and how it ends: by signals, in a process of its own."""

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from user_testing.processes import Process
from user_testing.waiting import wait_until

PERSON = '''
from user_core.fakes import FakeTeleop, FakeTeleopConfig

class Person(FakeTeleop):
    """Holds the switch all the time, and never says that it is done."""

    def __init__(self, config):
        super().__init__(FakeTeleopConfig(engage_every=1))
'''


@pytest.fixture
def record(tmp_path: Path) -> Iterator[Process]:
    """`user demos record` with a mock robot in real time, driven until somebody ends it."""
    (tmp_path / "person.py").write_text(PERSON, encoding="utf-8")
    params = {"rate_hz": 50.0, "log_file": str(tmp_path / "log.jsonl")}
    file = {"robot": {"plugin": "mock", "params": params}, "safety": {"watchdog_s": 5.0}}
    (tmp_path / "mock.yaml").write_text(yaml.safe_dump(file), encoding="utf-8")
    words = ["user", "demos", "record", str(tmp_path / "mock.yaml"), "--out"]
    words += [str(tmp_path / "store"), "--teleop", "person:Person", "--resource", "mock"]
    words += ["--state-dir", str(tmp_path / "state")]
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    with Process(words, tmp_path / "record.log", {"PYTHONPATH": path}) as process:
        yield process


def events(folder: Path) -> list[str]:
    """What reached the driver, in its order."""
    file = folder / "log.jsonl"
    lines = file.read_text().splitlines() if file.exists() else []
    return [json.loads(line)["what"] for line in lines]


def assert_stopped(folder: Path) -> None:
    """After the last command came a stop, and nothing but stops until the driver was closed."""
    seen = events(folder)
    last = len(seen) - seen[::-1].index("command")
    assert seen[last] == "stop" and set(seen[last:-1]) == {"stop"} and seen[-1] == "close", seen


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_whatever_ends_the_command_stops_the_robot(record, tmp_path, number) -> None:
    wait_until(lambda: events(tmp_path).count("command") > 20, seen=lambda: record.log)
    record.signal(number)
    assert record.wait() == 128 + number, record.log
    assert_stopped(tmp_path)


def test_the_emergency_key_stops_and_stays(record, tmp_path) -> None:
    wait_until(lambda: events(tmp_path).count("command") > 20, seen=lambda: record.log)
    record.signal(signal.SIGQUIT)
    assert record.wait() == 1, record.log
    assert "emergency stop" in record.log and "--reset-emergency-stop" in record.log
    assert "Ctrl-" in (tmp_path / "state" / "emergency_stop").read_text()
    assert_stopped(tmp_path)
