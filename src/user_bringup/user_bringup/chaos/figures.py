"""Tables and plots: recovery times, and what grew over a long run."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from user_bringup.chaos.trial import Blow
from user_bringup.monitor.history import read_history

#: Aims, seconds from a kill to working again.
AIMS_S = {
    "hal_node": 3.0, "actor_node": 3.0, "replay_node": 2.0, "learner_node": 6.0,
    "bridge_node": 2.0,
}  # fmt: skip


def by_kind(
    blows: Sequence[Blow], executables: dict[str, str]
) -> dict[tuple[str, str], list[Blow]]:
    """Blows that hit, by executable and kind of fault."""
    groups: dict[tuple[str, str], list[Blow]] = defaultdict(list)
    for blow in blows:
        if blow.hit_s is not None:
            groups[executables[blow.fault.victim], blow.fault.kind].append(blow)
    return dict(sorted(groups.items()))


def recovery_table(blows: Sequence[Blow], executables: dict[str, str]) -> str:
    """A Markdown table: how often, p50 and p95 of the recovery, alone and with others."""
    lines = [
        "| process | fault | times | alone | p50 | p95 | worst | aim |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for (executable, kind), group in by_kind(blows, executables).items():
        times = [b.recovery_s for b in group if b.recovery_s is not None]
        alone = [b.recovery_s for b in group if b.recovery_s is not None and b.alone]
        shown = alone or times
        aim = f"{AIMS_S[executable]:g} s" if executable in AIMS_S and kind == "kill" else ""
        p50, p95 = np.percentile(shown, [50, 95]) if shown else (float("nan"),) * 2
        worst = max(times, default=float("nan"))
        lines.append(
            f"| {executable} | {kind} | {len(group)} | {len(alone)} | {p50:.1f} s | {p95:.1f} s "
            f"| {worst:.1f} s | {aim} |"
        )
    return "\n".join(lines)


def draw_recovery(blows: Sequence[Blow], executables: dict[str, str], file: Path) -> None:
    """Every recovery as a point, by kind of process."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    groups = by_kind(blows, executables)
    names = sorted({executable for executable, _ in groups})
    figure, axes = plt.subplots(figsize=(9, 1.2 + 0.6 * len(names)), layout="constrained")
    colours = {
        "kill": "#d62728",
        "suspend": "#1f77b4",
        "disk": "#9467bd",
        "network": "#2ca02c",
        "memory": "#ff7f0e",
    }
    labelled: set[str] = set()
    for (executable, kind), group in groups.items():
        times = [b.recovery_s for b in group if b.recovery_s is not None]
        spread = np.linspace(-0.25, 0.25, len(times)) if len(times) > 1 else [0.0]
        label: Any = kind if kind not in labelled else None
        labelled.add(kind)
        heights = names.index(executable) + np.asarray(spread)[: len(times)]
        axes.plot(times, heights, "o", ms=4, alpha=0.6, color=colours[kind], label=label)
    for name, aim_s in AIMS_S.items():
        if name in names:
            at = names.index(name)
            axes.plot([aim_s, aim_s], [at - 0.4, at + 0.4], color="black", lw=1)
    axes.set_yticks(range(len(names)), names)
    axes.set_xlabel("seconds from the end of the fault until it works again (bar: aim for a kill)")
    axes.set_xlim(left=0)
    axes.legend(loc="upper right")
    figure.savefig(file, dpi=110)
    plt.close(figure)


_MB = 1e6


def read_resources(folder: Path) -> tuple[dict[str, list[dict[str, Any]]], list[dict[str, Any]]]:
    """Lines of each process by name, and those of the disk."""
    processes: dict[str, list[dict[str, Any]]] = defaultdict(list)
    disk = []
    for line in read_history(folder / "resources.jsonl"):
        if line["kind"] == "process":
            processes[line["name"]].append(line)
        else:
            disk.append(line)
    return dict(processes), disk


def describe_growth(folder: Path) -> str:
    """A Markdown table: means of the second and of the last tenth of the time."""
    processes, disk = read_resources(folder)
    lines = [
        "| process | own memory (MB) | resident (MB) | descriptors | threads | CPU |",
        "|---|---|---|---|---|---|",
    ]
    for name, rows in processes.items():
        cells = [
            _change(rows, "uss", _MB), _change(rows, "rss", _MB), _change(rows, "fds"),
            _change(rows, "threads"), f"{np.mean([row['cpu'] for row in rows]):.0f} %",
        ]  # fmt: skip
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    states = [line for line in read_history(folder / "history.jsonl") if line["kind"] == "state"]
    table = ["| | second tenth → last tenth of the time |", "|---|---|"]
    names = [name for name in (disk[-1] if disk else {}) if name not in ("t", "kind")]
    table += [f"| disk, {name} (MB) | {_change(disk, name, _MB)} |" for name in names]
    for name in ("actor_rate_hz", "updates_per_s", "lateness_p99_ms", "stored_steps",
                 "policy_version"):  # fmt: skip
        table.append(f"| {name} | {_change(states, name)} |")
    return "\n".join(lines) + "\n\n" + "\n".join(table)


def _change(rows: list[dict[str, Any]], name: str, unit: float = 1.0) -> str:
    values = np.array([row[name] for row in rows if row.get(name) is not None], float) / unit
    if len(values) < 10:
        return "-"
    tenth = len(values) // 10
    first, last = np.nanmean(values[tenth : 2 * tenth]), np.nanmean(values[-tenth:])
    return f"{first:.4g} → {last:.4g}"


def draw_growth(folder: Path, file: Path) -> None:
    """Six panels over time."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    processes, disk = read_resources(folder)
    states = [line for line in read_history(folder / "history.jsonl") if line["kind"] == "state"]
    start = min(line["t"] for rows in processes.values() for line in rows)
    figure, axes = plt.subplots(2, 3, figsize=(14, 7), layout="constrained")

    def draw(axis: Any, rows: list[dict[str, Any]], key: str, unit: float, label: str) -> None:
        points = [((r["t"] - start) / 60, r[key] / unit) for r in rows if r.get(key) is not None]
        if points:
            axis.plot(*zip(*points, strict=True), label=label, lw=1)

    for axis, key, unit, title in (
        (axes[0, 0], "uss", _MB, "memory of its own, MB"),
        (axes[0, 1], "fds", 1, "file descriptors"),
        (axes[0, 2], "threads", 1, "threads"),
    ):
        for name, rows in processes.items():
            draw(axis, rows, key, unit, name)
        axis.set_title(title)
    for name in disk[-1] if disk else ():
        if name not in ("t", "kind"):
            draw(axes[1, 0], disk, name, _MB, name)
    axes[1, 0].set_title("disk, MB")
    for key, label in (("actor_rate_hz", "steps/s"), ("updates_per_s", "updates/s")):
        draw(axes[1, 1], states, key, 1, label)
    axes[1, 1].set_title("rates")
    draw(axes[1, 2], states, "stored_steps", 1, "steps in the store")
    draw(axes[1, 2], states, "update", 1, "updates")
    axes[1, 2].set_title("what was done")
    for axis in axes.flat:
        axis.set_ylim(bottom=0)
        axis.set_xlabel("minutes")
        axis.legend(fontsize=8)
    figure.savefig(file, dpi=110)
    plt.close(figure)
