"""`user up gymnasium`: neither side runs away, also while the learner stands still."""

from __future__ import annotations

import os
import signal
import subprocess

import pytest

from user_bringup.nodes.monitor import Monitor
from user_testing.ports import free_endpoint
from user_testing.worlds.fleets.deployment import DeploymentRun

pytest.importorskip("gymnasium")

pytestmark = pytest.mark.timeout(600)

#: Steps that may come on top of the limit: what is under way from the loop to the learner.
UNDER_WAY = 400
STARTS, BACKLOG = 200, 100


def test_a_simulation_waits_for_its_learner(tmp_path, start_process, ros_domain):
    words = [
        "user", "up", "gymnasium", f"backlog:={BACKLOG}", f"random_steps:={STARTS}",
        "evaluate_every:=0", "algorithm:=sac_small", f"learner.training.utd.learning_starts:={STARTS}",
        f"policy_endpoint:={free_endpoint()}", "--runs", str(tmp_path), "--run", "r", "--no-table",
    ]  # fmt: skip
    process = start_process(words, stdout=subprocess.DEVNULL, env=dict(os.environ))
    run = DeploymentRun(tmp_path / "r", process)
    with Monitor() as monitor:

        def newest(kind):
            with monitor.lock:
                return next((latest.message for latest in kind.values()), None)

        def actor():
            return newest(monitor.state.actors)

        def updates():
            learner = newest(monitor.state.learners)
            return learner.update if learner else 0

        run.until(lambda: updates() >= 300, "it learns")
        pid = run.pid("learner")
        steps = actor().steps
        os.kill(pid, signal.SIGSTOP)
        try:
            run.until(lambda: "not heard" in actor().detail, "the actor says that it waits")
            held = actor().steps
            assert held <= steps + BACKLOG + UNDER_WAY
            stamp = actor().header.stamp.sec
            run.until(lambda: actor().header.stamp.sec > stamp + 1, "it goes on saying so")
            assert actor().steps == held
        finally:
            os.kill(pid, signal.SIGCONT)
        done = updates()
        run.until(lambda: updates() >= done + 300 and actor().steps > held, "both go on")
        learner = newest(monitor.state.learners)
        behind = learner.environment_steps - STARTS - learner.update
        assert -40 <= behind <= BACKLOG + UNDER_WAY
    run.process.send_signal(signal.SIGINT)
    assert run.process.wait(90) == 0
