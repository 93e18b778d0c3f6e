import json
import subprocess
import sys

import pytest


def run(folder, kills, seed):
    command = [sys.executable, "-m", "user_testing.programs.outbox_crashes"]
    command += ["--kills", str(kills), "--seed", str(seed)]
    done = subprocess.run(
        [*command, "--folder", str(folder)], capture_output=True, text=True, timeout=1200,
        check=False,
    )  # fmt: skip
    assert done.stdout, done.stderr
    seen = json.loads(done.stdout)
    assert seen["problems"] == [], done.stderr
    assert seen["lives_that_committed"] > kills / 10, "most were killed before they did anything"
    return seen


def test_no_committed_step_is_lost_or_doubled_by_kill_9(tmp_path):
    run(tmp_path, 150, seed=0)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
def test_nor_by_thousands(tmp_path, seed):
    seen = run(tmp_path, 2000, seed)
    assert seen["rows_committed"] > 10_000
