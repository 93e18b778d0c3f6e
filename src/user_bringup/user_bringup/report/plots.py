"""The plots of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from user_bringup.monitor.state import EVALUATION, ONLINE
from user_bringup.report.series import Curve, RunSeries

_ONLINE, _EVALUATION, _THIRD = "#1f77b4", "#d62728", "#2ca02c"


def draw_plots(series: RunSeries, folder: Path) -> dict[str, Path]:
    """Draw all plots into ``folder``; returns title and file of each that has data."""
    folder.mkdir(parents=True, exist_ok=True)
    plots = {
        "Learning": (_learning, "learning.png"),
        "Rates": (_rates, "rates.png"),
        "Staleness": (_staleness, "staleness.png"),
        "Metrics of the algorithm": (_metrics, "metrics.png"),
    }
    drawn = {}
    for title, (draw, name) in plots.items():
        figure = draw(series)
        if figure is None:
            continue
        figure.savefig(folder / name, dpi=110)
        plt.close(figure)
        drawn[title] = folder / name
    return drawn


def _learning(series: RunSeries) -> Any:
    online, evaluation = series.success(ONLINE), series.success(EVALUATION)
    if not len(online) and not len(evaluation):
        return None
    figure, axes = plt.subplots(2, 2, figsize=(11, 6.4), layout="constrained")
    rows = (
        ("success rate, last 20", online, evaluation),
        ("return, mean of last 20", series.returns(ONLINE), series.returns(EVALUATION)),
    )
    for row, (label, first, second) in zip(axes, rows, strict=True):
        for axis, name, unit in zip(
            row, ("steps", "minutes"), ("environment steps", "minutes"), strict=True
        ):
            for curve, colour, who in (
                (first, _ONLINE, "while collecting"),
                (second, _EVALUATION, "evaluation"),
            ):
                if len(curve):
                    axis.plot(getattr(curve, name), curve.values, color=colour, label=who)
            axis.set_xlabel(unit)
            axis.set_ylabel(label)
            if label.startswith("success"):
                axis.set_ylim(-0.03, 1.03)
            axis.grid(alpha=0.3)
    axes[0][0].legend(loc="upper left")
    return figure


def _rates(series: RunSeries) -> Any:
    panels = [
        ("control steps per second", [("", series.state("actor_rate_hz"), _ONLINE)]),
        ("updates per second", [("", series.state("updates_per_s"), _EVALUATION)]),
        ("updates per environment step", [("", series.state("utd_ratio"), _THIRD)]),
    ]
    return _panels(panels)


def _staleness(series: RunSeries) -> Any:
    panels = [
        ("age of the acting policy, s", [("", series.state("policy_age_s"), _ONLINE)]),
        (
            "policy version",
            [
                ("learner", series.state("policy_version"), _EVALUATION),
                ("actor", series.state("actor_version"), _ONLINE),
            ],
        ),
        ("lateness of the control loop, p99, ms", [("", series.state("lateness_p99_ms"), _THIRD)]),
    ]
    return _panels(panels)


def _metrics(series: RunSeries) -> Any:
    names = series.metric_names()[:9]
    return _panels([(name, [("", series.metric(name), _ONLINE)]) for name in names])


def _panels(panels: list[tuple[str, list[tuple[str, Curve, str]]]]) -> Any:
    panels = [panel for panel in panels if any(len(curve) for _, curve, _ in panel[1])]
    if not panels:
        return None
    columns = min(3, len(panels))
    rows = -(-len(panels) // columns)
    figure, axes = plt.subplots(
        rows, columns, figsize=(3.8 * columns, 2.9 * rows), layout="constrained", squeeze=False
    )
    for axis in axes.flat[len(panels) :]:
        axis.set_visible(False)
    for axis, (label, curves) in zip(axes.flat, panels, strict=False):
        for who, curve, colour in curves:
            axis.plot(curve.minutes, curve.values, color=colour, label=who or None)
        axis.set_xlabel("minutes")
        axis.set_ylabel(label)
        axis.grid(alpha=0.3)
        if any(who for who, _, _ in curves):
            axis.legend()
    return figure
