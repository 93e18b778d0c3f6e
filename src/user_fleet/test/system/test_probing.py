"""Drivers that hang, raise, lie, crash or chatter are named; the others are heard, and nothing is left."""

import os
import textwrap
import time
from pathlib import Path

import pytest

from user_fleet.processes import is_alive
from user_fleet.resources.inventory import HostConfig, HostRobot, Inventory
from user_fleet.resources.probing import ask_drivers, ask_files, problems_of, robots_of

DRIVERS = """
    import os, pathlib, subprocess, sys, time
    from user_core.fakes import FakeRobot
    from user_core.interfaces import Discovered

    class Good(FakeRobot):
        @classmethod
        def discover(cls):
            print("chatter")
            return [Discovered("one", {"max_step_m": 0.1}), Discovered("two", {"nonsense": 1})]

    class Hangs(FakeRobot):
        @classmethod
        def discover(cls):
            pathlib.Path(os.environ["PIDS"]).write_text(
                f"{os.getpid()} {subprocess.Popen(['sleep', '600']).pid}")
            while True:
                time.sleep(60)

    class HangsLater(FakeRobot):
        def __init__(self, *args):
            time.sleep(600)
        @classmethod
        def discover(cls):
            return [Discovered("slow")]

    class Raises(FakeRobot):
        @classmethod
        def discover(cls):
            raise OSError("no bus")

    class Exits(FakeRobot):
        @classmethod
        def discover(cls):
            print("licence expired", file=sys.stderr)
            sys.exit(3)

    class Crashes(FakeRobot):
        @classmethod
        def discover(cls):
            os.abort()

    class Nothing(FakeRobot):
        @classmethod
        def discover(cls):
            return None

    class Endless(FakeRobot):
        @classmethod
        def discover(cls):
            return [Discovered(str(i)) for i in range(100000)]

    class Unspeakable(FakeRobot):
        @classmethod
        def discover(cls):
            return [Discovered("x", {"handle": object()})]

    class Twice(FakeRobot):
        @classmethod
        def discover(cls):
            return [Discovered("x"), Discovered("x")]

    class Shouts(FakeRobot):
        @classmethod
        def discover(cls):
            while True:
                sys.stderr.write("x" * 65536)
"""
NAMES = [
    "Good", "Hangs", "HangsLater", "Raises", "Exits", "Crashes", "Nothing", "Endless",
    "Unspeakable", "Twice", "Shouts",
]  # fmt: skip


@pytest.fixture
def drivers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "lab_drivers.py").write_text(textwrap.dedent(DRIVERS))
    paths = [str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(paths))
    monkeypatch.setenv("PIDS", str(tmp_path / "pids"))
    return tmp_path


def test_each_bad_driver_is_named_and_hurts_nobody(drivers: Path) -> None:
    names = [f"lab_drivers:{name}" for name in NAMES]
    began_s = time.monotonic()
    answers = dict(zip(NAMES, ask_drivers("robots", names, limit_s=12.0, together=4), strict=True))
    assert time.monotonic() - began_s < 12.0 * len(NAMES) / 2

    good = robots_of(answers["Good"], "h1", "hall")
    assert [(item.name, item.health) for item in good] == [("one", "ready"), ("two", "faulty")]
    assert good[0].spec["robot"] == "fake" and "simulated" in good[0].tags
    assert "nonsense" in good[1].reason
    assert not answers["Good"].error

    words = {p.what.partition(":")[2]: p.text for p in problems_of(answers.values())}
    for name, word in {
        "Hangs": "within 12 s", "HangsLater": "within 12 s", "Raises": "no bus",
        "Exits": "licence expired", "Crashes": "signal 6", "Nothing": "NoneType",
        "Endless": "100000 devices", "Unspeakable": "plain data", "Twice": "twice",
        "Shouts": "within 12 s",
    }.items():  # fmt: skip
        assert word in words[name], (name, words[name])
    # What it found before it hung is there, without what nobody knows of it.
    (slow,) = robots_of(answers["HangsLater"], "h1")
    assert (slow.name, slow.spec) == ("slow", {})
    for pid in (drivers / "pids").read_text().split():  # the driver, and what it had started
        assert not is_alive(int(pid))


def test_files_describe_robots_and_what_is_wrong_with_one_is_said(drivers: Path) -> None:
    (drivers / "arm.yaml").write_text(
        "robot: {plugin: fake, params: {image_size: 8}}\n"
        "cameras: {devices: {wrist: {plugin: opencv, params: {source: 0}}}}\n"
    )
    (drivers / "bad.yaml").write_text("robot: {plugin: faek}\n")
    config = HostConfig(
        host="h1",
        site="hall",
        tags=("lab",),
        robots={
            "left": HostRobot(file=str(drivers / "arm.yaml"), tags=("cell-a",)),
            "right": HostRobot(file=str(drivers / "bad.yaml")),
        },
        drivers=("lab_drivers:Raises",),
    )
    report = Inventory(config, root=drivers).report()
    robots = {item.name: item for item in report.resources if item.kind == "robot"}
    left, right = robots["left"], robots["right"]
    assert left.tags == ("cell-a", "simulated", "lab")
    assert left.cameras == ("image_front", "wrist")
    assert (left.model, left.action_kind, left.site) == ("fake", "ee_delta", "hall")
    assert right.health == "faulty" and "'fake'" in right.reason
    assert {p.what for p in report.problems} == {"lab_drivers:Raises", str(drivers / "bad.yaml")}


def test_a_file_that_is_not_there_is_an_answer(tmp_path: Path) -> None:
    (answer,) = ask_files([str(tmp_path / "none.yaml")])
    assert answer.error and "none.yaml" in answer.error.text
