"""The page of the fleet: hosts, resources and who has them, experiments and what they wait for, the timeline.

All of it comes from the file of the scheduler, as `user fleet status`, `ls` and `timeline` show it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI, Request
from nicegui import ui

from user_bringup.console.pages.frame import INK, LINES, Frame, Shown
from user_bringup.monitor.fleet import (
    FAILURES,
    QUIET_S,
    Used,
    colours_of,
    experiments_of,
    grants_since,
    resources_of,
)
from user_core.errors import SuiteError
from user_fleet.node_configs import fleet_file
from user_fleet.resources.inventory import amounts_in_words
from user_fleet.scheduling.store import FleetStore, Grant, KnownHost

if TYPE_CHECKING:
    from user_bringup.console.shared import Console

_REFRESH_S = 2.0
_HOURS = {"1 hour": 1.0, "8 hours": 8.0, "a day": 24.0, "a week": 168.0}
_STATES = {"running": "positive", "queued": "warning", "ending": "info"}


@dataclass(frozen=True)
class FleetLook:
    """What the file says at one moment.

    Attributes:
        silent_s: Since when no scheduler has said that it works, seconds.
        hosts: Hosts.
        resources: Their resources.
        experiments: As `user fleet status --json` gives them.
        grants: Of the hours that were asked for.
        begin_ns: Where a timeline of these begins.
        now_ns: When this was.
    """

    silent_s: float
    hosts: Sequence[KnownHost]
    resources: Sequence[Used]
    experiments: Sequence[dict[str, Any]]
    grants: Sequence[Grant]
    begin_ns: int
    now_ns: int


def look_at(file: Path, hours: float = 24.0) -> FleetLook:
    """Read the file of a scheduler. Raises StoreError where there is none, or it cannot be read."""
    store = FleetStore(file)
    try:
        now_ns = time.time_ns()
        grants, begin_ns = grants_since(store, hours, now_ns)
        return FleetLook(
            store.silent_s(), store.hosts(), resources_of(store), experiments_of(store),
            grants, begin_ns, now_ns,
        )  # fmt: skip
    finally:
        store.close()


def timeline(look: FleetLook) -> dict[str, Any]:
    """A chart: a row for each resource, a bar for each grant, with a cross where something failed."""
    resources = sorted({grant.resource for grant in look.grants}, reverse=True)
    colours = colours_of(look.grants)
    shortest_ms = (look.now_ns - look.begin_ns) / 1e6 / 300  # what is short is seen as well
    bars: dict[str, list[Any]] = {name: [] for name in colours}
    crosses = []
    for grant in look.grants:
        begin_ms = max(grant.begun_ns, look.begin_ns) / 1e6
        end_ms = (grant.ended_ns or look.now_ns) / 1e6
        row, shown_end_ms = resources.index(grant.resource), max(end_ms, begin_ms + shortest_ms)
        words = f"{grant.experiment} ({grant.role}), grant {grant.fencing}"
        if grant.ending:
            words += f": {grant.ending.text or grant.ending.code}"
        bars[grant.experiment].append({"value": [begin_ms, shown_end_ms, row], "name": words})
        if grant.ending.code in FAILURES:
            crosses.append({"value": [end_ms, row], "name": words})
    series: list[dict[str, Any]] = [
        {
            "type": "custom", "name": name, "data": data, "itemStyle": {"color": colours[name]},
            "encode": {"x": [0, 1], "y": 2}, ":renderItem": _BAR,
        }
        for name, data in bars.items()
    ]  # fmt: skip
    if crosses:
        series.append({
            "type": "scatter", "name": "failed", "data": crosses, "symbolSize": 14,
            "symbol": "path://M0 2L2 0L5 3L8 0L10 2L7 5L10 8L8 10L5 7L2 10L0 8L3 5Z", "itemStyle": {"color": "#c62828"}, "z": 5,
        })  # fmt: skip
    return {
        "animation": False,
        "tooltip": {"formatter": "{b}"},
        "legend": {"type": "scroll", "top": 0, "textStyle": {"color": INK}},
        "grid": {"left": 8, "right": 16, "top": 34, "bottom": 24, "containLabel": True},
        "xAxis": {
            "type": "time", "min": look.begin_ns / 1e6, "max": look.now_ns / 1e6,
            "axisLabel": {"color": INK, "hideOverlap": True}, "splitLine": LINES,
        },
        "yAxis": {"type": "category", "data": resources, "axisLabel": {"color": INK}, "axisTick": {"show": False}},
        "series": series,
    }  # fmt: skip


#: Draws a bar from begin to end in the row of its resource.
_BAR = """(params, api) => {
  const from = api.coord([api.value(0), api.value(2)]), to = api.coord([api.value(1), api.value(2)]);
  const height = Math.min(api.size([0, 1])[1] * 0.66, 26);
  return { type: 'rect', style: api.style(), shape: { x: from[0], y: from[1] - height / 2, width: to[0] - from[0], height, r: 2 } };
}"""


def add_fleet_page(console: Console, app: FastAPI) -> None:
    """Register it."""

    @ui.page("/fleet")
    async def fleet(request: Request) -> None:
        Frame(console, request, "fleet")
        await _FleetPage(fleet_file(console.config.fleet)).show()


def _badge(state: str) -> None:
    colour = _STATES.get(state, "grey")
    badge = ui.badge(state, color=colour)
    if colour == "warning":  # white on yellow cannot be read
        badge.props("text-color=black")


class _FleetPage:
    """One look after another; what has not changed is not sent again."""

    def __init__(self, file: Path) -> None:
        self._file, self._hours, self._changed = file, 24.0, Shown().changed
        self._said = ui.label("").classes("text-lg warn")
        with ui.column().classes("w-full gap-3") as self._body:
            with ui.card().classes("w-full"):
                with ui.row().classes("w-full items-center"):
                    ui.label("timeline").classes("text-lg font-bold grow")
                    ui.toggle(list(_HOURS), value="a day", on_change=self._choose).props(
                        "dense no-caps"
                    )
                self._chart = ui.echart({}).classes("w-full").props("data-testid=timeline")
                self._nobody = ui.label("Nobody had anything in this time.").classes("opacity-70")
            with ui.row().classes("w-full items-stretch gap-3"):
                with ui.card().classes("grow basis-96"):
                    ui.label("experiments").classes("text-lg font-bold")
                    self._experiments = (
                        ui.column().classes("w-full gap-2").props("data-testid=experiments")
                    )
                with ui.card().classes("grow basis-96"):
                    ui.label("hosts and resources").classes("text-lg font-bold")
                    self._hosts = ui.column().classes("w-full gap-2").props("data-testid=hosts")
        ui.timer(_REFRESH_S, self.show)

    async def _choose(self, event: Any) -> None:
        self._hours = _HOURS[event.value]
        await self.show()

    async def show(self) -> None:
        """Look, and show what has changed."""
        if not self._file.is_file():
            self._body.set_visibility(False)
            self._said.set_text(
                f"There is no scheduler's file {str(self._file)!r}: the console shows the fleet on the scheduler's host "
                "(console.fleet:=FILE names another file)."
            )
            return
        try:
            look = await asyncio.to_thread(look_at, self._file, self._hours)
        except SuiteError as error:
            self._said.set_text(str(error))
            return
        self._body.set_visibility(True)
        quiet = (
            f"No scheduler has worked for {look.silent_s:.0f} s." if look.silent_s > QUIET_S else ""
        )
        self._said.set_text(quiet)
        self._timeline(look)
        if self._changed("experiments", list(look.experiments)):
            self._show_experiments(look)
        if self._changed("hosts", (list(look.hosts), list(look.resources))):
            self._show_hosts(look)

    def _timeline(self, look: FleetLook) -> None:
        rows = len({grant.resource for grant in look.grants})
        self._chart.set_visibility(rows > 0)
        self._nobody.set_visibility(rows == 0)
        if rows:
            self._chart.style(f"height: {5 + 2 * rows}rem")
            self._chart.options.clear()
            self._chart.options.update(timeline(look))
            self._chart.update()

    def _show_experiments(self, look: FleetLook) -> None:
        self._experiments.clear()
        with self._experiments:
            if not look.experiments:
                ui.label("none: user fleet submit FILE").classes("opacity-70")
            for row in look.experiments:
                with ui.column().classes("w-full gap-0"):
                    with ui.row().classes("items-center gap-2"):
                        ui.label(row["name"]).classes("font-bold")
                        _badge(row["state"])
                        if row["priority"]:
                            ui.label(f"priority {row['priority']}").classes("opacity-70")
                    if row["text"]:
                        ui.label(f"{row['text']} [{row['code']}]").classes("warn")
                    for role, has in row["roles"].items():
                        grants = ", ".join(
                            f"{g['resource']}, grant {g['fencing']}"
                            + (", asked back" if g["asked_back"] else "")
                            for g in has["grants"]
                        )
                        ui.label(f"{role}: {grants or 'nothing yet'}").classes("opacity-70")

    def _show_hosts(self, look: FleetLook) -> None:
        self._hosts.clear()
        with self._hosts:
            if not look.hosts:
                ui.label("none has said anything yet").classes("opacity-70")
            for host in look.hosts:
                here = host.state == "here"
                with ui.row().classes("items-center gap-2"):
                    ui.label(host.name).classes("font-bold")
                    ui.badge(host.state, color="positive" if here else "negative")
                    if not here:
                        ui.label(host.text).classes("warn")
                mine = [
                    one
                    for one in look.resources
                    if one.item.host == host.name and not one.is_hidden
                ]
                for one in mine:
                    with ui.row().classes("w-full items-center gap-2 q-pl-md"):
                        colour = "positive" if one.now == "ready" else "negative"
                        ui.icon("circle", color=colour, size="xs")
                        ui.label(one.item.id.removeprefix(f"{host.name}/")).classes("font-mono")
                        ui.label(amounts_in_words(one.item)).classes("opacity-70")
                        if one.use:
                            ui.badge(one.use, color="primary")
                        if one.now != "ready":
                            ui.label(one.now).classes("warn")
