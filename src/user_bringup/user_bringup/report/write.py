"""The report of a run, as a page of Markdown beside its plots."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from user_bringup.monitor.history import read_history
from user_bringup.monitor.state import EVALUATION, ONLINE
from user_bringup.monitor.table import number, percent, size
from user_bringup.report.plots import draw_plots
from user_bringup.report.series import RunSeries
from user_core.errors import SuiteError


def write_report(run_dir: Path) -> Path:
    """Draw the plots of a run and write ``report.md``; returns its path.

    Reads ``history.jsonl``, and where they are there ``evaluation.json`` (the final
    evaluation) and ``policy.gif``.

    Raises:
        SuiteError: There is no history in this folder.
    """
    file = run_dir / "history.jsonl"
    if not file.exists():
        raise SuiteError(
            f"no run in {run_dir}", expected=file.name, hint="Name the folder of a run, runs/<id>"
        )
    series = RunSeries(read_history(file))
    plots = draw_plots(series, run_dir / "plots")
    parts = [f"# Run {run_dir.name}", _summary(series), _evaluation(run_dir)]
    if (run_dir / "policy.gif").exists():
        parts.append("## The final policy\n\n![the final policy at work](policy.gif)")
    for title, plot in plots.items():
        parts.append(f"## {title}\n\n![{title}]({plot.relative_to(run_dir).as_posix()})")
    parts.append(
        "The exact configuration is in [`deployment.yaml`](deployment.yaml) and `config/`; "
        "what each process said is in `logs/`."
    )
    report = run_dir / "report.md"
    report.write_text("\n\n".join(part for part in parts if part) + "\n", encoding="utf-8")
    return report


def _summary(series: RunSeries) -> str:
    online, evaluation = series.success(ONLINE), series.success(EVALUATION)
    rows = [
        ("duration", f"{_last(series.state('actor_rate_hz').minutes):.1f} min"),
        ("episodes while collecting", f"{len(online)}, success of the last 20 {_share(online)}"),
        ("evaluation episodes", f"{len(evaluation)}, success of the last 20 {_share(evaluation)}"),
        ("environment steps", f"{_last(series.state('environment_steps').values):.0f}"),
        ("gradient updates", f"{_last(series.state('update').values):.0f}"),
        ("updates per step", number(_last(series.state("utd_ratio").values), 2)),
        ("policy versions", f"{_last(series.state('policy_version').values):.0f}"),
        ("store", size(_last(series.state("store_bytes").values))),
    ]
    return "| | |\n|---|---|\n" + "\n".join(f"| {name} | {value} |" for name, value in rows)


def _evaluation(run_dir: Path) -> str:
    file = run_dir / "evaluation.json"
    if not file.exists():
        return ""
    result: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return (
        f"**Final evaluation:** {result['successes']} of {result['episodes']} episodes succeed, "
        f"mean return {result['mean_return']:.2f}, policy version {result['policy_version']}."
    )


def _last(values: Any) -> float:
    return float(values[-1]) if len(values) else 0.0


def _share(curve: Any) -> str:
    return percent(float(curve.values[-1])) if len(curve) else "-"
