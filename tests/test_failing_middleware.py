"""A whole run whose middleware refuses one in fifty messages, calls and answers: no process ends by it."""

from __future__ import annotations

import os
import subprocess

import pytest

from user_bringup.chaos.verdict import count_steps
from user_testing.failing_middleware import failing_middleware
from user_testing.ports import free_endpoint

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]


def test_a_run_goes_on_whatever_the_middleware_refuses(tmp_path, start_process, ros_domain):
    words = [
        "user", "up", "sim_single", "task:=reach", f"policy_endpoint:={free_endpoint()}", "--no-table",
        "--runs", str(tmp_path), "--run", "r", "--minutes", "1",
    ]  # fmt: skip
    refusing = failing_middleware(tmp_path, messages=0.02, calls=0.02)
    process = start_process(
        words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env={**os.environ, **refusing}
    )
    output, _ = process.communicate(timeout=200)
    assert process.returncode == 0, output[-6000:]
    assert "ended with exit code" not in output, "no process had to be started again"
    logs = {log.name: log.read_text() for log in (tmp_path / "r" / "logs").glob("*.log")}
    assert not [name for name, text in logs.items() if "uncaught exception" in text]
    assert not [name for name, text in logs.items() if "state: active" not in text]
    steps = count_steps(tmp_path / "r")
    assert steps.committed == steps.stored + steps.waiting > 50
