"""The report of a run: plots and figures from its history, as a page of Markdown."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import numpy.typing as npt

from user_bringup.monitor.history import read_history
from user_bringup.monitor.shares import (
    Corrected,
    Corrections,
    Evaluations,
    Share,
    named,
    success_of,
)
from user_bringup.monitor.state import EVALUATION, ONLINE
from user_bringup.monitor.table import number, percent, size
from user_core.command_line import many
from user_core.errors import SuiteError
from user_core.types import Outcome

Line = Mapping[str, Any]
_GB = 1e-9
#: Kinds of processes whose memory is shown apart.
_KINDS = 4


@dataclass(frozen=True)
class Curve:
    """Values over time and over environment steps.

    Attributes:
        minutes: Since the first line of the history, (n,).
        steps: Environment steps in the store at that time, (n,).
        values: (n,).
    """

    minutes: npt.NDArray[np.float64]
    steps: npt.NDArray[np.float64]
    values: npt.NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.values)

    def times(self, factor: float) -> Curve:
        """The same in another unit."""
        return Curve(self.minutes, self.steps, self.values * factor)


class RunSeries:
    """The history of one run as curves."""

    def __init__(self, lines: Sequence[Line]) -> None:
        self.states = [line for line in lines if line["kind"] == "state"]
        self.ends = [line for line in lines if line["kind"] == "ended"]
        self.episodes = [line for line in lines if line["kind"] == "episode"]
        self.trials = [line for line in lines if line["kind"] == "trial"]
        self._start_s = min((line["t"] for line in lines), default=0.0)
        known = [s for s in self.states if "environment_steps" in s]
        self._clock_s = np.array([s["t"] for s in known] or [self._start_s], float)
        self._steps = np.array([s["environment_steps"] for s in known] or [0], float)

    def state(self, name: str) -> Curve:
        """One number of the system's state; lines without it are left out."""
        rows = [(s["t"], s[name]) for s in self.states if _is_number(s.get(name))]
        return self._curve([t for t, _ in rows], [v for _, v in rows])

    def metric(self, name: str) -> Curve:
        """One metric of the algorithm."""
        rows = [
            (s["t"], s["metrics"][name])
            for s in self.states
            if _is_number(s.get("metrics", {}).get(name))
        ]
        return self._curve([t for t, _ in rows], [v for _, v in rows])

    def metric_names(self) -> list[str]:
        """Names of all metrics that occur."""
        return sorted({name for s in self.states for name in s.get("metrics", {})})

    def success(self, source: int, window: int = 20) -> Curve:
        """Share of successes over the last ``window`` episodes of a source."""
        judged = [e for e in self.episodes if success_of(e["outcome"], e["source"]) is not None]
        return self._running(
            source, lambda e: float(e["outcome"] == Outcome.SUCCESS), window, judged
        )

    @property
    def robots(self) -> list[str]:
        """Names of all robots that have been heard of."""
        told = {name for s in self.states for name in s.get("robots", {})}
        return sorted(told | {str(e["robot"]) for e in self.episodes if e.get("robot")})

    def of_robot(self, robot: str, name: str) -> Curve:
        """One number of one robot; the time in which it was silent is left out."""
        said = [(s["t"], s.get("robots", {}).get(robot, {}).get(name)) for s in self.states]
        rows = [(t, value) for t, value in said if _is_number(value)]
        return self._curve([t for t, _ in rows], [v for _, v in rows])

    @property
    def kinds(self) -> list[str]:
        """Kinds of processes whose memory was looked at, the largest first."""
        most: dict[str, int] = {}
        for state in self.states:
            for kind, held in state.get("memory", {}).items():
                most[kind] = max(held, most.get(kind, 0))
        return sorted(most, key=lambda kind: -most[kind])

    @property
    def gpus(self) -> int:
        """GPUs whose memory was looked at."""
        return max((len(state.get("gpu_memory", [])) for state in self.states), default=0)

    def memory(self, *kinds: str) -> Curve:
        """Of all processes of these kinds together, GB."""
        rows = [
            (s["t"], sum(held.get(kind, 0) for kind in kinds) * _GB)
            for s in self.states
            if set(held := s.get("memory", {})) & set(kinds)
        ]
        return self._curve([t for t, _ in rows], [v for _, v in rows])

    def gpu_memory(self, number: int) -> Curve:
        """In use of a GPU, by whatever program, GB."""
        rows = [
            (s["t"], s["gpu_memory"][number] * _GB)
            for s in self.states
            if number < len(s.get("gpu_memory", []))
        ]
        return self._curve([t for t, _ in rows], [v for _, v in rows])

    def success_of(self, robot: str, window: int = 20) -> Curve:
        """Share of successes over the last ``window`` collecting episodes of one robot."""
        mine = [
            e
            for e in self.episodes
            if e.get("robot") == robot and success_of(e["outcome"], e["source"]) is not None
        ]
        return self._running(ONLINE, lambda e: float(e["outcome"] == Outcome.SUCCESS), window, mine)

    def returns(self, source: int, window: int = 20) -> Curve:
        """Mean return over the last ``window`` episodes of a source."""
        return self._running(source, lambda e: float(e["episode_return"]), window)

    @property
    def corrections(self) -> Corrections:
        """How much people corrected the policy while data were collected."""
        found = Corrections()
        for episode in self.episodes:
            if episode["source"] == ONLINE:
                found.add(Corrected.of(episode))
        return found

    def takeovers(self, window: int = 20) -> Curve:
        """How often a person took over, an episode, over the last ``window`` collecting episodes."""
        return self._running(ONLINE, lambda e: float(Corrected.of(e).takeovers), window)

    def person_share(self, window: int = 20) -> Curve:
        """Share of the steps that a person decided, over the last ``window`` collecting episodes."""
        rows = [e for e in self.episodes if e["source"] == ONLINE]
        each = [Corrected.of(e) for e in rows]
        shares = [
            sum(each[max(0, i + 1 - window) : i + 1], Corrected()).share for i in range(len(each))
        ]
        return self._curve([e["t"] for e in rows], shares)

    def _running(
        self, source: int, value: Any, window: int, episodes: Sequence[Line] | None = None
    ) -> Curve:
        among = self.episodes if episodes is None else episodes
        rows = [e for e in among if e["source"] == source]
        values = [value(e) for e in rows]
        means = [float(np.mean(values[max(0, i + 1 - window) : i + 1])) for i in range(len(rows))]
        return self._curve([e["t"] for e in rows], means)

    def _curve(self, times_s: Sequence[float], values: Sequence[float]) -> Curve:
        at_s = np.array(times_s, float)
        return Curve(
            (at_s - self._start_s) / 60,
            np.interp(at_s, self._clock_s, self._steps),
            np.array(values, float),
        )


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value)


matplotlib.use("Agg")  # files only, no window
_ONLINE, _EVALUATION, _THIRD = "#1f77b4", "#d62728", "#2ca02c"


def draw_plots(series: RunSeries, folder: Path) -> dict[str, Path]:
    """Draw all plots into ``folder``; returns title and file of each that has data."""
    folder.mkdir(parents=True, exist_ok=True)
    plots = {
        "Learning": (_learning, "learning.png"),
        "Training from data": (_training, "training.png"),
        "Corrections by a person": (_corrections, "corrections.png"),
        "Rates": (_rates, "rates.png"),
        "Staleness": (_staleness, "staleness.png"),
        "Memory": (_memory, "memory.png"),
        "Each robot": (_each_robot, "robots.png"),
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


def _training(series: RunSeries) -> Any:
    """Success of the policies that were tried, and the loss, over updates; none of a run with robots."""
    if not series.trials:
        return None
    losses = sorted(series.metric_names(), key=lambda name: "loss" not in name)[:1]
    figure, axes = plt.subplots(
        1,
        1 + len(losses),
        figsize=(5.4 * (1 + len(losses)), 3.4),
        layout="constrained",
        squeeze=False,
    )
    shares = [Share(t["successes"], t["episodes"]) for t in series.trials]
    updates = [t["update"] for t in series.trials]
    axes[0][0].plot(updates, [share.rate for share in shares], "o-", color=_EVALUATION)
    low, high = zip(*(share.interval for share in shares), strict=True)
    axes[0][0].fill_between(updates, low, high, color=_EVALUATION, alpha=0.15, label="95 %")
    axes[0][0].set_ylim(-0.03, 1.03)
    axes[0][0].set_ylabel("success")
    axes[0][0].legend(loc="upper left")
    for axis, name in zip(axes[0][1:], losses, strict=True):
        rows = [
            (s["update"], s["metrics"][name])
            for s in series.states
            if _is_number(s.get("metrics", {}).get(name))
        ]
        axis.plot(*zip(*rows, strict=True), color=_ONLINE)
        axis.set_ylabel(name)
    for axis in axes[0]:
        axis.set_xlabel("gradient updates")
        axis.grid(alpha=0.3)
    return figure


def _corrections(series: RunSeries) -> Any:
    """Whether the policy needs a person less and less; none where nobody corrected it."""
    if not series.corrections.total.takeovers:
        return None
    panels = [
        ("corrections an episode, last 20", [("", series.takeovers(), _ONLINE)]),
        ("steps by a person, last 20", [("", series.person_share(), _THIRD)]),
        ("success while collecting, last 20", [("", series.success(ONLINE), _EVALUATION)]),
    ]
    return _panels(panels, "steps")


def _rates(series: RunSeries) -> Any:
    panels = [
        ("control steps per second", [("", series.state("actor_rate_hz"), _ONLINE)]),
        ("updates per second", [("", series.state("updates_per_s"), _EVALUATION)]),
        ("updates per environment step", [("", series.state("utd_ratio"), _THIRD)]),
    ]
    return _panels(panels)


def _staleness(series: RunSeries) -> Any:
    """How old the policy is that acts; none of a training without robots."""
    if not len(series.state("actor_version")):
        return None
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


def _memory(series: RunSeries) -> Any:
    """What processes and GPUs hold, and what has been stored; none of a run that did not look."""
    large, small = series.kinds[:_KINDS], series.kinds[_KINDS:]
    lines = [(kind, series.memory(kind), f"C{i}") for i, kind in enumerate(large)]
    if small:
        lines.append(("the rest", series.memory(*small), "0.6"))
    panels = [
        ("memory of processes, GB", lines),
        (
            "memory of GPUs in use, GB",
            [(f"GPU {i}", series.gpu_memory(i), f"C{i % 10}") for i in range(series.gpus)],
        ),
        ("data on disk, MB", [("", series.state("store_bytes").times(1e-6), _THIRD)]),
    ]
    return _panels(panels) if series.kinds else None


def _each_robot(series: RunSeries) -> Any:
    """Success and staleness of each robot apart; none where there is only one."""
    robots = series.robots
    if len(robots) < 2:
        return None
    colours = [f"C{number % 10}" for number in range(len(robots))]
    panels = [
        (
            "success rate while collecting, last 20",
            [(r, series.success_of(r), c) for r, c in zip(robots, colours)],
        ),
        (
            "age of its acting policy, s",
            [(r, series.of_robot(r, "age_s"), c) for r, c in zip(robots, colours)],
        ),
        ("its steps", [(r, series.of_robot(r, "steps"), c) for r, c in zip(robots, colours)]),
    ]
    return _panels(panels)


def _metrics(series: RunSeries) -> Any:
    names = series.metric_names()[:9]
    return _panels([(name, [("", series.metric(name), _ONLINE)]) for name in names])


def _panels(panels: list[tuple[str, list[tuple[str, Curve, str]]]], over: str = "minutes") -> Any:
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
            axis.plot(getattr(curve, over), curve.values, color=colour, label=who or None)
        axis.set_xlabel("minutes" if over == "minutes" else "environment steps")
        axis.set_ylabel(label)
        axis.grid(alpha=0.3)
        if any(who for who, _, _ in curves):
            axis.legend()
    return figure


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
    offline = (run_dir / "train.yaml").exists()
    parts = [
        f"# Run {run_dir.name}", _end_of(series),
        _training_of(series) if offline else _summary_of(series), _evaluation_of(run_dir),
        _robots_of(series),
    ]  # fmt: skip
    if (run_dir / "policy.gif").exists():
        parts.append("## The final policy\n\n![the final policy at work](policy.gif)")
    for title, plot in plots.items():
        parts.append(f"## {title}\n\n![{title}]({plot.relative_to(run_dir).as_posix()})")
    if offline:
        parts.append("The exact configuration is in [`train.yaml`](train.yaml).")
    else:
        parts.append(
            "The exact configuration is in [`deployment.yaml`](deployment.yaml) and `config/`; "
            "what each process said is in `logs/`."
        )
    report = run_dir / "report.md"
    report.write_text("\n\n".join(part for part in parts if part) + "\n", encoding="utf-8")
    return report


def _summary_of(series: RunSeries) -> str:
    online = series.success(ONLINE)
    collected = sum(e["source"] == ONLINE for e in series.episodes)
    evaluated = sum(e["source"] == EVALUATION for e in series.episodes)
    evaluations = Evaluations.of(series.episodes)
    version, newest = evaluations.newest
    share, versions = evaluations.shown
    unknown = f", {evaluations.unknown} that nobody could judge" if evaluations.unknown else ""
    rows = [
        ("duration", f"{_last(series.state('actor_rate_hz').minutes):.1f} min"),
        ("episodes while collecting", f"{collected}, success of the last 20 {_share(online)}"),
        ("evaluation episodes", f"{evaluated}{unknown}"),
    ]
    if versions:
        rows += [
            (f"success of policy version {version}, evaluated last", str(newest)),
            (
                "success of the newest policy versions, as many as tell",
                f"{share} of {named(versions)}",
            ),
        ]
    rows += [
        ("environment steps", f"{_last(series.state('environment_steps').values):.0f}"),
        ("gradient updates", f"{_last(series.state('update').values):.0f}"),
        ("updates per step", number(_last(series.state("utd_ratio").values), 2)),
        ("policy versions", f"{_last(series.state('policy_version').values):.0f}"),
        ("store", size(_last(series.state("store_bytes").values))),
    ]
    corrections = series.corrections
    if corrections.total.takeovers:
        first = Corrections()
        for episode in [e for e in series.episodes if e["source"] == ONLINE][:20]:
            first.add(Corrected.of(episode))
        for name, some in (("first", first.lately), ("last", corrections.lately)):
            rows.append((f"corrections, {name} {many(some.episodes, 'episode')}", str(some)))
    if len(standbys := series.state("standbys").values):
        memory = size(_last(series.state("standby_bytes").values))
        rows.append(("standbys, and their memory", f"{_last(standbys):.0f}, {memory}"))
    return _table(rows)


def _training_of(series: RunSeries) -> str:
    """A training from data: how far it got, and how the policies did that were tried."""
    rows = [
        ("gradient updates", f"{_last(series.state('update').values):.0f}"),
        ("updates per second", number(_last(series.state("updates_per_s").values), 1)),
    ]
    rows += [
        (
            f"success after {trial['update']} updates",
            str(Share(trial["successes"], trial["episodes"])),
        )
        for trial in series.trials
    ]
    return _table(rows)


def _table(rows: Sequence[tuple[str, str]]) -> str:
    """Names and values in Markdown."""
    return "| | |\n|---|---|\n" + "\n".join(f"| {name} | {value} |" for name, value in rows)


def _robots_of(series: RunSeries) -> str:
    """Each robot apart, where there are several, and whose data looked wrong."""
    flags = dict.fromkeys(flag for state in series.states for flag in state.get("flags", ()))
    parts = []
    if len(series.robots) > 1:
        rows = [
            "| robot | episodes | success of the last 20 | steps | policy | its age, median and 95 % |",
            "|---|---|---|---|---|---|",
        ]
        for robot in series.robots:
            mine = [e for e in series.episodes if e.get("robot") == robot and e["source"] == ONLINE]
            judged = [s for e in mine if (s := success_of(e["outcome"], e["source"])) is not None]
            share = Share(sum(judged[-20:]), len(judged[-20:]))
            age = series.of_robot(robot, "age_s").values
            told = f"{np.median(age):.1f} s, {np.quantile(age, 0.95):.1f} s" if len(age) else "-"
            steps = sum(int(e["length"]) for e in mine)
            version = int(_last(series.of_robot(robot, "version").values))
            rows.append(f"| {robot} | {len(mine)} | {share} | {steps} | v{version} | {told} |")
        parts.append("## Robots\n\n" + "\n".join(rows))
    if flags:
        parts.append("**Data looked wrong:**\n\n" + "\n".join(f"- {flag}" for flag in flags))
    returns = dict.fromkeys(text for state in series.states for text in state.get("returns", ()))
    if returns:
        told = "\n".join(f"- {text}" for text in returns)
        parts.append("**The learner went back to an earlier policy:**\n\n" + told)
    return "\n\n".join(parts)


def _end_of(series: RunSeries) -> str:
    """What went wrong, if it did not end well."""
    if not series.ends:
        return ""
    end = series.ends[-1]
    causes = [f"- `{name}`: {cause}" for name, cause in end["causes"].items()]
    return "\n".join([f"**It did not end well**: {end['why']}", "", *causes])


def _evaluation_of(run_dir: Path) -> str:
    file = run_dir / "evaluation.json"
    if not file.exists():
        return ""
    result: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    judged = result["episodes"] - result.get("aborted", 0) - result.get("unknown", 0)
    return (
        f"**Final evaluation:** success {Share(result['successes'], judged)}; {result['successes']} of {many(result['episodes'], 'episode')} succeed, "
        f"mean return {result['mean_return']:.2f}, policy version {result['policy_version']}."
    )


def _last(values: Any) -> float:
    return float(values[-1]) if len(values) else 0.0


def _share(curve: Any) -> str:
    return percent(float(curve.values[-1])) if len(curve) else "-"
