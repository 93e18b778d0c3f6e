"""The example that introduces everything runs, with a real algorithm."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parents[1] / "examples/single_process.py"


@pytest.mark.parametrize("algorithm", ["sac", "rwr"])
def test_it_collects_learns_and_swaps(algorithm):
    command = [sys.executable, str(EXAMPLE), "--steps", "80", "--algorithm", algorithm]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=150,
        env={**os.environ, "OMP_NUM_THREADS": "1"}, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    lines = re.findall(r"(\d+) steps, version +(\d+): return +(-[\d.]+)", done.stdout)
    assert int(lines[0][0]) == 0
    assert int(lines[-1][0]) >= 80
    assert int(lines[-1][1]) > 0  # the actor took new versions
    assert lines[0][2] != lines[-1][2]  # which act otherwise


def test_it_stays_short_enough_to_be_an_introduction():
    assert len(EXAMPLE.read_text().splitlines()) < 100
