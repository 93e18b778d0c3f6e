"""Hindsight relabelling learns, with store, sampler and algorithm of a running system."""

import json
import os
import subprocess
import sys
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[1]
#: sac_goals, for a task of seconds.
SMALL = {
    "algorithm": {
        "plugin": "sac",
        "params": {
            "critic_hidden": [64, 64], "actor_learning_rate": 3e-3, "critic_learning_rate": 3e-3,
            "initial_temperature": 0.05, "entropy_in_target": False, "value_min": -10.0,
            "value_max": 0.0,
        },
    },
    "policy": {"plugin": "tanh_gaussian", "params": {"hidden": [64, 64]}},
    "sampler": {"gamma": 0.9, "n_step": 2, "hindsight": {"strategy": "future"}},
    "training": {"batch_size": 64, "threads": 1, "utd": {"target": 1.0, "learning_starts": 300}},
}  # fmt: skip


def test_a_point_finds_goals_whose_reward_it_hardly_ever_sees(tmp_path):
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(SMALL))
    command = [
        sys.executable, str(ROOT / "benchmarks/learning/hindsight.py"),
        "--environment", "user_testing.worlds.goals:GoalPlane-v0", "--environment-reward",
        "--algorithm", str(tmp_path / "small.yaml"), "--steps", "1500", "--every", "1500",
        "--out", str(tmp_path / "lines.jsonl"),
    ]  # fmt: skip
    path = os.pathsep.join([str(ROOT / "testing"), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=170, check=False,
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    line = json.loads((tmp_path / "lines.jsonl").read_text().splitlines()[-1])
    assert line["success"] >= 0.8, line
    assert "hindsight_reward" not in done.stdout, "the environment's reward is the store's"
