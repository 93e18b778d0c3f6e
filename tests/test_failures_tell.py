"""A run that cannot work ends by itself, with a status other than 0 and the cause in words."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from user_testing.ports import free_endpoint

pytestmark = pytest.mark.timeout(400)


def up(tmp_path: Path, start_process, env: str, *more: str) -> subprocess.Popen[str]:
    words = [
        "user", "up", "gymnasium", f"env:={env}", "random_steps:=100000",
        f"policy_endpoint:={free_endpoint()}", "--runs", str(tmp_path), "--run", "r", "--no-table",
        *more,
    ]  # fmt: skip
    return start_process(
        words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=dict(os.environ)
    )


@pytest.mark.parametrize(
    ("what", "words"),
    [
        ("Exit", "raised SystemExit: the vendor's SDK has had enough"),
        ("Huge", "OddHuge-v0' at episode"),
        ("Die", "by itself and without a word"),
    ],
)
def test_a_simulation_that_fails_in_the_same_way_for_ever_ends_the_run(
    tmp_path, start_process, ros_domain, what, words
):
    process = up(tmp_path, start_process, f"user_testing.odd_environments:Odd{what}-v0")
    said, _ = process.communicate(timeout=300)
    assert process.returncode == 1, said
    assert "hal was given up" in said and words in said
    # Why is told once, in a line of its own: the demo over a bad link looks for it. How the run stands may say it, too.
    (told,) = (line for line in said.splitlines() if line.startswith("hal: given up, "))
    assert "times the same" in told
    assert "hal was given up:" not in said
    report = (tmp_path / "r" / "report.md").read_text()
    assert "It did not end well" in report and words in report


def test_a_policy_that_does_not_fit_starts_nothing(tmp_path, start_process, ros_domain):
    began_s = time.monotonic()
    process = up(tmp_path, start_process, "Pendulum-v1", "algorithm:=rlpd_images")
    said, _ = process.communicate(timeout=200)
    assert process.returncode not in (0, None), said
    assert "image_front" in said and "Pendulum-v1" in said
    assert not (tmp_path / "r").exists(), f"{time.monotonic() - began_s:.0f} s"


_CTRL_C_AT_ONCE = """
import os, signal, sys
from user_bringup.cli import up
run = up._Up.run
async def interrupted(self):
    os.kill(os.getpid(), signal.SIGINT)
    return await run(self)
up._Up.run = interrupted
sys.exit(up.main(sys.argv[1:]))
"""


def test_ctrl_c_before_anything_was_started_ends_it(tmp_path, start_process, ros_domain):
    words = [
        sys.executable, "-c", _CTRL_C_AT_ONCE, "gymnasium", "env:=Pendulum-v1", "--no-table",
        f"policy_endpoint:={free_endpoint()}", "--runs", str(tmp_path),
    ]  # fmt: skip
    process = start_process(
        words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=dict(os.environ)
    )
    said, _ = process.communicate(timeout=120)
    assert "stopping: asked to stop" in said and process.returncode == 1, said
