"""Curves of runs from their histories, for the page: several runs over time or over steps."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from user_bringup.monitor.history import read_history
from user_bringup.monitor.state import EVALUATION, ONLINE
from user_bringup.report import Curve, RunSeries

_POINTS = 400
_NUMBERS = {
    "updates": "update",
    "updates per second": "updates_per_s",
    "updates per step": "utd_ratio",
    "policy version": "policy_version",
    "age of the policy, s": "policy_age_s",
    "steps per second": "actor_rate_hz",
    "late p99, ms": "lateness_p99_ms",
    "outbox, bytes": "outbox_bytes",
}


def known_runs(run: Path) -> dict[str, Path]:
    """The run, and those beside it, by name; the newest last."""
    files = sorted(run.parent.glob("*/history.jsonl"), key=lambda file: file.stat().st_mtime)
    return {file.parent.name: file for file in files}


def curves_of(
    runs: Mapping[str, Path], over: str = "steps"
) -> dict[str, dict[str, list[tuple[float, float]]]]:
    """Points of each curve, by what it shows and by run; at most some hundred.

    Args:
        runs: History files, by the name of the run.
        over: ``steps`` (of the environment) or ``minutes``.
    """
    found: dict[str, dict[str, list[tuple[float, float]]]] = {}
    for name, file in runs.items():
        series = RunSeries(read_history(file))
        curves = {
            "success while collecting": series.success(ONLINE),
            "success of evaluations": series.success(EVALUATION),
            **_corrections(series),
            **{title: series.state(key) for title, key in _NUMBERS.items()},
        }
        for title, curve in curves.items():
            if len(curve):
                found.setdefault(title, {})[name] = _points(curve, over)
    return found


def _corrections(series: RunSeries) -> dict[str, Curve]:
    """How much people corrected, where anybody did."""
    if not series.corrections.total.takeovers:
        return {}
    return {
        "corrections an episode": series.takeovers(),
        "share of steps by a person": series.person_share(),
    }


def _points(curve: Curve, over: str) -> list[tuple[float, float]]:
    x = curve.steps if over == "steps" else curve.minutes
    chosen = np.unique(np.linspace(0, len(x) - 1, min(len(x), _POINTS)).astype(int))
    finite = [i for i in chosen.tolist() if np.isfinite(curve.values[i]) and np.isfinite(x[i])]
    return [(round(float(x[i]), 3), round(float(curve.values[i]), 5)) for i in finite]
