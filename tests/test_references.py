"""The benchmark beside reference implementations: its figures, and our side of it."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks" / "learning"


@pytest.fixture
def references(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import references as module

    return module


def curve(side, seed, returns, algorithm="sac", of=None):
    steps = [10 * (i + 1) for i in range(len(returns))]
    return [
        {
            "env": "E", "algorithm": algorithm, "side": side, "seed": seed, "steps": at,
            "of": of or steps[-1], "return": value, "wall_s": 1.0,
        }
        for at, value in zip(steps, returns, strict=True)
    ]  # fmt: skip


def test_ratios_are_of_means_over_seeds_with_their_error(references):
    lines = [
        *curve("synchronous", 0, [10, 20, 30, 40, 50]), *curve("synchronous", 1, [10, 20, 30, 40, 70]),
        *curve("sb3", 0, [20, 20, 20, 20, 40]), *curve("sb3", 1, [20, 20, 20, 20, 40]),
        *curve("synchronous", 2, [900, 900], of=50),  # broken off: left out
    ]  # fmt: skip
    ours, theirs = references.summary(lines)[::-1]
    assert (ours["side"], ours["seeds"], ours["beside"]) == ("synchronous", 2, "sb3")
    assert ours["final_return"] == pytest.approx((60, 10)) and theirs["final_return"] == (40, 0)
    assert ours["mean_return"] == pytest.approx((32, 2))
    assert ours["final_ratio"] == pytest.approx((1.5, 0.25))


def test_an_algorithm_without_a_reference_of_its_own_is_beside_that_of_sac(references):
    lines = [*curve("synchronous", 0, [30], "rlpd"), *curve("sb3", 0, [60])]
    row = next(row for row in references.summary(lines) if row["algorithm"] == "rlpd")
    assert row["beside"] == "sb3" and row["final_ratio"][0] == 0.5
    assert math.isnan(row["final_ratio"][1])  # one seed has no spread


def test_no_ratio_of_returns_that_are_not_positive(references):
    assert references.ratio((-5.0, 1.0), (3.0, 1.0)) is None
    assert references.ratio((5.0, 1.0), (0.0, 1.0)) is None


def test_curves_that_stopped_early_count_up_to_a_step_that_they_reached(references):
    lines = [*curve("synchronous", 0, [1, 2], of=50), *curve("sb3", 0, [1, 2, 3, 4, 5])]
    assert "synchronous" not in references.curves(lines, "E", "sac", 0)
    sides = references.curves(lines, "E", "sac", 20)
    assert [line["return"] for line in sides["sb3"][0]] == [1, 2]


def test_our_side_learns_from_the_store_and_missing_packages_are_named(tmp_path):
    out = tmp_path / "lines.jsonl"
    command = [
        sys.executable, str(BENCHMARKS / "references.py"), "--env", "CartPole-v1",
        "--algorithm", "discrete_sac", "--sides", "synchronous", "tianshou", "--seeds", "3",
        "--steps", "300", "--every", "150", "--episodes", "1", "--starts", "100",
        "--batch", "16", "--hidden", "16", "--out", str(out),
    ]  # fmt: skip
    blocked = tmp_path / "sitecustomize.py"
    blocked.write_text("import sys\nsys.modules['tianshou'] = None\n")
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=170, check=False,
        env={**os.environ, "PYTHONPATH": path},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "tianshou is left out" in done.stdout
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    assert [line["steps"] for line in lines] == [150, 300]
    assert all(line["return"] >= 1 for line in lines)
