"""`user up gymnasium` with an environment of choices: it learns, through the whole system, what chance cannot."""

from __future__ import annotations

import os
import signal
import subprocess
from contextlib import closing

import numpy as np
import pytest

from user_bringup.nodes.monitor import Monitor
from user_learner.replay.meaning import read_meaning
from user_learner.replay.reader import StoreReader
from user_testing.ports import free_endpoint
from user_testing.worlds.fleets.deployment import DeploymentRun

pytest.importorskip("gymnasium")

pytestmark = pytest.mark.timeout(600)

#: Chance balances for 22 steps in the mean, and for a hundred hardly ever.
LONG, OFTEN = 100, 0.25


def test_cartpole_is_learned_by_choosing(tmp_path, start_process, ros_domain):
    words = [
        "user", "up", "gymnasium", "env:=CartPole-v1", "algorithm:=sac_choices", "random_steps:=500",
        f"success_return:={LONG}", "evaluate_every:=0", "learner.training.utd.learning_starts:=500",
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

        run.until(lambda: actor() and actor().policy_version >= 5, "policy versions flow")
        run.until(lambda: actor().success_rate >= OFTEN, "it learns", 480.0)
        steps = actor().steps
    run.process.send_signal(signal.SIGINT)
    assert run.process.wait(90) == 0
    meaning = read_meaning(tmp_path / "r" / "replay").spec
    assert meaning is not None and meaning.action.categorical == (0,)
    with closing(StoreReader(tmp_path / "r" / "replay")) as store:
        episodes = list(store.episodes())
        assert sum(episode.rows for episode in episodes) >= 0.9 * steps
        chosen = store.read_episode(episodes[0])["action"]
        assert chosen.dtype == np.int64 and set(np.unique(chosen)) == {0, 1}
