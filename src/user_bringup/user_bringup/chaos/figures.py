"""Recovery times as a table and as a plot."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from user_bringup.chaos.trial import Blow

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
