"""A command in whose process a plugin works does not end in silence when the plugin ends it."""

import os
from pathlib import Path

import pytest

from user_testing.processes import Process
from user_testing.waiting import wait_until

_PLUGIN = """
import ctypes, os
{}
from user_core.fakes import FakeRobot
class Rude(FakeRobot):
    def __init__(self, config):
        {}
        super().__init__(config)
    def connect(self):
        {}
        super().connect()
"""


@pytest.mark.parametrize(
    ("when", "ending", "status", "words"),
    [
        (
            1,
            "os._exit(0)",
            2,
            "'rude:Rude' (rude:Rude) cannot be made: got ExitCalled: os._exit(0)",
        ),
        (2, "os._exit(0)", 1, "a plugin wanted to end this process: os._exit(0) was called"),
        (0, "ctypes.string_at(0)", -11, "while plugin 'rude:Rude' (rude:Rude) was being imported"),
        (2, "ctypes.string_at(0)", -11, "user check robot: this process was ended from within"),
    ],
)
def test_a_robot_that_ends_the_check_is_told(
    when: int, ending: str, status: int, words: str, tmp_path: Path
) -> None:
    doing = ["", "pass", "pass"]
    doing[when] = ending
    (tmp_path / "rude.py").write_text(_PLUGIN.format(*doing))
    (tmp_path / "robot.yaml").write_text("robot: {plugin: 'rude:Rude'}\n")
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    command = ["user", "check", "robot", str(tmp_path / "robot.yaml")]
    with Process(command, tmp_path / "check.log", {"PYTHONPATH": path}) as process:
        assert process.wait() == status, process.log
        # What tells of a crash is another process, which speaks when this one is gone.
        wait_until(lambda: words in process.log, seen=lambda: process.log)
