"""Commands and nodes whose nodes cannot be destroyed: FastDDS never returns, and Python's lock is held."""

from __future__ import annotations

import json
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import rclpy
from std_srvs.srv import Trigger

from user_core.runtime.processes.endings import PATIENCE_VARIABLE, time_to_end_s
from user_testing.spinning import spinning

HANG = """
import ctypes, sys
from functools import partial
from rclpy.node import Node

def destroy_in_vain(self):
    ctypes.PyDLL(None).sleep(120)  # with the interpreter's lock, as a call of rclpy

Node.destroy_node = destroy_in_vain
"""
COMMAND = """
from user_bringup.cli import main
main.last_acts = partial(main.last_acts, limit_s=1.0)
sys.exit(main.main(sys.argv[1:]))
"""
NODE = """
import threading
from user_comm import run
from user_comm.lifecycle import LifecycleNode
from user_core.config import Config
from user_core.reasons import Reason

class EndsItself(LifecycleNode):
    Config = Config

    def __init__(self, name):
        super().__init__(name)
        self.create_timer(0.1, self.has_enough)

    def has_enough(self):
        self.end(Reason("worn_out", "it has had enough"), final=True)

run.limited = partial(run.limited, limit_s=1.0)
sys.exit(run.run(EndsItself, "ends_itself", threads=1))
"""
#: A thread that is at work in C++ while the interpreter is taken down ends the process by SIGABRT, almost always.
AT_WORK = """
import atexit, sys, threading
from functools import partial

import torch

torch.set_num_threads(1)
begun = threading.Event()

def work():
    matrix = torch.ones(2000, 2000)
    while True:
        matrix = matrix @ matrix * 1e-9
        begun.set()

threading.Thread(target=work, daemon=True).start()
begun.wait()
atexit.register(print, "exit handlers are run")
"""


def ended(program: str, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", program, *words], capture_output=True, text=True, timeout=60
    )


def test_a_command_ends_with_its_output_and_its_status(ros_domain: int) -> None:
    process = ended(HANG + COMMAND, "status", "--wait", "0.5")
    assert process.returncode == 1  # nothing is heard
    assert "user status" in process.stdout
    assert "ROS_DOMAIN_ID" in process.stderr
    assert "in destroy_in_vain" in process.stderr


def test_a_command_that_asks_a_robot_says_what_it_answered(ros_domain: int) -> None:
    def go(request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        response.success, response.message = True, "it moves"
        return response

    with spinning(partial(rclpy.create_node, "robot")) as (robot,):
        robot.create_service(Trigger, "/robot0/actor/go", go)
        process = ended(HANG + COMMAND, "go")
    assert (process.returncode, process.stdout) == (0, "/robot0/actor: it moves\n")
    assert "in destroy_in_vain" in process.stderr


def test_a_node_ends_with_its_last_words_and_its_status(
    ros_domain: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("USER_LAST_WORDS", str(tmp_path / "last"))
    process = ended(HANG + NODE)
    assert process.returncode == 3, process.stderr
    assert "in destroy_in_vain" in process.stderr
    assert json.loads((tmp_path / "last").read_text())["code"] == "worn_out"


def test_a_node_ends_in_good_order_beside_a_thread_that_is_at_work(ros_domain: int) -> None:
    """As one of a large policy, of which a version is tried out."""
    process = ended(AT_WORK + NODE)
    assert process.returncode == 3, process.stderr
    assert process.stdout == "exit handlers are run\n"
    assert "terminate called" not in process.stderr


def test_a_node_has_the_time_to_end_that_its_supervisor_gives(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for said, expected_s in ((None, 8.0), ("60.0", 48.0), ("soon", 8.0), ("-1", 8.0), ("inf", 8.0)):
        monkeypatch.delenv(PATIENCE_VARIABLE, raising=False)
        if said is not None:
            monkeypatch.setenv(PATIENCE_VARIABLE, said)
        assert time_to_end_s() == pytest.approx(expected_s)
