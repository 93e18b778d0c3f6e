"""`user fleet timeline`: who had which resource when, as text, as data, and as a picture."""

from __future__ import annotations

import argparse
import datetime
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape

from user_bringup.monitor.fleet import COLOURS, FAILURES, colours_of, grants_since
from user_core.errors import ConfigError
from user_fleet.scheduling.store import FleetStore, Grant

_WIDTH = 60


def show_timeline(arguments: argparse.Namespace, console: Console, store: FleetStore) -> int:
    """Print it, or draw it into a file."""
    now_ns = time.time_ns()
    grants, begin_ns = grants_since(store, arguments.hours, now_ns)
    if arguments.json:
        rows = [
            {
                "fencing": g.fencing, "resource": g.resource, "experiment": g.experiment,
                "role": g.role, "begun_ns": g.begun_ns, "ended_ns": g.ended_ns,
                "code": g.ending.code, "text": g.ending.text,
            }
            for g in grants
        ]  # fmt: skip
        print(json.dumps(rows, indent=2))
        return 0
    if not grants:
        console.print("Nobody had anything in this time.")
        return 0
    if arguments.picture is not None:
        console.print(f"picture: {draw(grants, begin_ns, now_ns, arguments.picture)}")
        return 0
    names = list(dict.fromkeys(g.experiment for g in grants))
    letters = {name: chr(ord("A") + number % 26) for number, name in enumerate(names)}
    console.print(f"{moment(begin_ns)} to {moment(now_ns)}")
    width = max(len(g.resource) for g in grants)
    for resource in sorted({g.resource for g in grants}):
        line = in_letters([g for g in grants if g.resource == resource], letters, begin_ns, now_ns)
        console.print(escape(f"{resource:<{width}} |{line}|"), soft_wrap=True, highlight=False)
    for name, letter in letters.items():
        console.print(escape(f"{letter}  {name}"))
    return 0


def in_letters(grants: Sequence[Grant], letters: dict[str, str], begin_ns: int, end_ns: int) -> str:
    """One line of a timeline: a letter where an experiment had it, a dot where nobody had."""
    cells = ["."] * _WIDTH
    span_ns = max(1, end_ns - begin_ns)
    for grant in grants:
        first = int((max(grant.begun_ns, begin_ns) - begin_ns) * _WIDTH / span_ns)
        last = int(((grant.ended_ns or end_ns) - begin_ns) * _WIDTH / span_ns)
        for cell in range(min(first, _WIDTH - 1), min(max(last, first + 1), _WIDTH)):
            cells[cell] = letters[grant.experiment]
    return "".join(cells)


def draw(grants: Sequence[Grant], begin_ns: int, end_ns: int, file: Path) -> Path:
    """Draw it: a row for each resource, a bar for each grant, ending with a cross where something failed.

    Raises:
        ConfigError: The kind of file is unknown, or it cannot be written.
    """
    from matplotlib import dates
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    resources = sorted({g.resource for g in grants}, reverse=True)
    colours = colours_of(grants)
    hatches = {name: "" if number < len(COLOURS) else "//" for number, name in enumerate(colours)}
    figure = Figure(figsize=(9, 1.4 + 0.36 * len(resources)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    begin, end = _day(begin_ns), _day(end_ns)
    for grant in grants:
        row = resources.index(grant.resource)
        left, right = max(_day(grant.begun_ns), begin), _day(grant.ended_ns or end_ns)
        bar = max(right - left, (end - begin) / 400)  # what is short is seen as well
        axes.barh(
            row, bar, left=left, height=0.66, color=colours[grant.experiment],
            hatch=hatches[grant.experiment], edgecolor="white", linewidth=0.8,
        )  # fmt: skip
        if grant.ending.code in FAILURES:
            axes.plot(right, row, marker="X", color="black", markersize=7, clip_on=False)
    axes.set_yticks(range(len(resources)), resources)
    axes.set_ylim(-0.6, len(resources) - 0.4)
    axes.set_xlim(begin, end)
    locator = dates.AutoDateLocator(minticks=3, maxticks=8)
    zone = datetime.datetime.now().astimezone().tzinfo
    axes.xaxis.set_major_locator(locator)
    axes.xaxis.set_major_formatter(dates.ConciseDateFormatter(locator, tz=zone))
    axes.grid(axis="x", color="#dddddd", linewidth=0.8)
    axes.set_axisbelow(True)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.tick_params(axis="y", length=0)
    handles: list[Any] = [
        Patch(facecolor=colours[n], hatch=hatches[n], edgecolor="white", label=n) for n in colours
    ]
    if any(g.ending.code in FAILURES for g in grants):
        from matplotlib.lines import Line2D

        handles.append(Line2D([], [], marker="X", color="black", linestyle="", label="failed"))
    figure.legend(handles=handles, loc="outside upper left", ncols=5, frameon=False)
    try:
        figure.savefig(file, dpi=130)
    except (OSError, ValueError) as error:
        raise ConfigError(f"picture {str(file)!r}", got=str(error), expected="FILE.png, .svg or .pdf") from error  # fmt: skip
    return file


def _day(wall_ns: int) -> float:
    """A moment in matplotlib's days."""
    return wall_ns / 86400e9


def moment(wall_ns: int) -> str:
    """A moment for people, in local time."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(wall_ns * 1e-9))
