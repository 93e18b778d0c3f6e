"""The pages of what was recorded: episodes and their pictures, and the curves of runs."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from fastapi import FastAPI, Request, Response
from nicegui import ui

from user_bringup.console.access import Role
from user_bringup.console.pages.episode_list import (
    EpisodeList,
    image_columns,
    key_text,
    marks,
    picture,
    row_of,
    traces,
)
from user_bringup.console.pages.frame import INK, LINES, Frame
from user_bringup.console.pages.run_curves import curves_of, known_runs
from user_core.command_line import many
from user_core.errors import SuiteError
from user_core.specs import Arrays
from user_core.types import EpisodeSource, Outcome
from user_learner.edits.entries import Edit, label
from user_learner.edits.listing import EpisodeFilter
from user_learner.replay.reader import EpisodeInfo

if TYPE_CHECKING:
    from user_bringup.console.shared import Console

_COLUMNS = (
    "start", "robot", "task", "source", "outcome", "steps", "return", "interventions", "version",
    "tags", "findings",
)  # fmt: skip
#: What a phone has no room for.
_ON_WIDE, _WIDE = ("robot", "task", "source", "version"), "max-sm:hidden"
_STRIP = 8
_FILTERS = {
    "failed": "failures and time-outs",
    "intervened": "a person overruled the policy",
    "gate_limited": "the safety gate changed actions of the policy",
    "low_success": "of robots that succeed clearly less often than all together",
    "anomalous": "frozen or black camera, constant elements, jumps, gaps, outliers: as `user data check` finds them",
    "excluded": "only those that edits exclude",
}
_PLAY_S = 0.1
_COLOURS = {
    "person": "#2e7d3233",
    "script": "#1565c033",
    "fallback": "#6a1b9a33",
    "changed by the gate, or too late": "#ef6c0044",
}


def add_episode_pages(console: Console, app: FastAPI) -> None:
    """Register them."""
    store = Path(console.config.store) if console.config.store else None
    episodes = EpisodeList(store, console.seats.any_taken) if store is not None else None
    if episodes is not None:
        console.on_visit.append(episodes.read_ahead)

    @ui.page("/episodes")
    async def listing(request: Request) -> None:
        Frame(console, request, "episodes")
        if episodes is None:
            ui.label("No store is known: user console RUN")
            return
        await _listing(episodes)

    @ui.page("/episode")
    async def one(request: Request, key: str = "") -> None:
        frame = Frame(console, request, "episodes")
        if episodes is not None:
            await _episode(console, frame, episodes, key)

    @ui.page("/curves")
    async def curves(request: Request) -> None:
        Frame(console, request, "curves")
        await _curves(console)

    async def image(key: str, name: str, row: int) -> Response:
        if episodes is None:
            return Response(status_code=404)
        try:
            _, columns = await asyncio.to_thread(episodes.episode, key)
        except SuiteError as error:
            return Response(str(error), status_code=404, media_type="text/plain")
        found = picture(columns, name, row)
        if found is None:
            return Response(status_code=404)
        return Response(found, media_type="image/jpeg", headers={"cache-control": "max-age=600"})

    app.add_api_route("/picture", image, methods=["GET"], response_model=None)


async def _listing(episodes: EpisodeList) -> None:
    wanted: dict[str, Any] = {}
    with ui.row().classes("items-baseline gap-3"):
        count = ui.label("").classes("text-lg")
        measured = ui.label("").classes("warn").props("data-testid=measured")

    async def fill() -> None:
        asked_s = time.monotonic()
        chosen = EpisodeFilter(**{k: v for k, v in wanted.items() if v})
        try:
            found = await asyncio.to_thread(episodes.find, chosen)
        except SuiteError as error:
            count.set_text(f"{error}")
            return
        shown, quality = len(found.episodes), found.quality
        more = f", the newest {shown} shown" if found.matching > shown else ""
        count.set_text(f"{found.matching} of {many(found.total, 'episode')}{more}")
        is_measuring = chosen.needs_statistics and not quality.is_complete
        said = (
            f"measured {quality.done} of {quality.total or found.total} so far"
            if is_measuring
            else ""
        )
        measured.set_text(quality.trouble or said)
        again.active = is_measuring and not quality.trouble
        table.rows = [
            {**row, "start": _when(row["start"]), "return": _text(row["return"])}
            for row in (row_of(e, quality) for e in found.episodes)
        ]
        table.props(f'data-seconds="{time.monotonic() - asked_s:.3f}"')

    async def choose(name: str, value: Any) -> None:
        wanted[name] = value
        await fill()

    again = ui.timer(1.0, fill, active=False)
    with ui.row().classes("w-full items-end gap-3"):
        outcomes: dict[Outcome | None, str] = {
            None: "",
            **{one: one.name.lower() for one in Outcome},
        }
        ui.select(outcomes, value=None, label="outcome", on_change=lambda e: choose("outcome", e.value)).classes("min-w-32")  # fmt: skip
        sources: dict[tuple[EpisodeSource, ...], str] = {(): ""}
        sources |= {(source,): source.name.lower() for source in EpisodeSource}
        ui.select(sources, value=(), label="source", on_change=lambda e: choose("sources", e.value)).classes("min-w-32")  # fmt: skip
        robot = ui.select(
            [""], value="", label="robot", on_change=lambda e: choose("robot", e.value)
        )
        robot.classes("min-w-32")
        ui.number("steps at least", min=0, precision=0,
                  on_change=lambda e: choose("min_steps", int(e.value or 0))).classes("w-28")  # fmt: skip
        ui.input("text", on_change=lambda e: choose("text", e.value)).props(
            "debounce=200 clearable"
        )
        ui.input("tag", on_change=lambda e: choose("tags", (e.value,) if e.value else ())).props(
            "debounce=200 clearable"
        )
        for name in (
            "failed",
            "intervened",
            "gate_limited",
            "low_success",
            "anomalous",
            "excluded",
        ):
            ui.checkbox(
                name.replace("_", " "), on_change=lambda e, name=name: choose(name, e.value)
            ).tooltip(_FILTERS.get(name, "")).props(f"data-testid={name}")
    columns = [
        {
            "name": n, "label": n, "field": n, "align": "left", "sortable": True,
            **({"classes": _WIDE, "headerClasses": _WIDE} if n in _ON_WIDE else {}),
        }
        for n in _COLUMNS
    ]  # fmt: skip
    table = ui.table(columns=columns, rows=[], row_key="id", pagination=50).classes("w-full")
    table.props("dense data-testid=episodes")
    table.on("rowClick", lambda e: ui.navigate.to(f"/episode?key={quote(e.args[1]['id'])}"))
    await fill()
    robot.set_options(["", *episodes.robots()])


async def _episode(console: Console, frame: Any, episodes: EpisodeList, key: str) -> None:
    try:
        episode, columns = await asyncio.to_thread(episodes.episode, key)
    except SuiteError as error:
        ui.label(f"{error}").classes("text-lg text-negative")
        return
    info, row = episode.info, row_of(episode)
    rows = info.rows
    ui.link("all episodes", "/episodes")
    ui.label(
        f"{info.robot}, {info.task}: {row['outcome']} after {many(row['steps'], 'step')}, return {_text(row['return'])}"
    ).classes("text-xl font-bold")
    said = [_when(row["start"]), row["source"], f"policy v{row['version']}", row["reason"]]
    if info.gaps:
        said.append(f"{many(info.gaps, 'row')} never came")
    ui.label(", ".join(text for text in said if text)).classes("opacity-70")
    for damage in await asyncio.to_thread(episodes.damages, episode):
        ui.label(f"damaged, and not learned from: {damage}").classes("text-negative")
    for finding in episodes.quality.quality.findings.get(info.key, ()):
        ui.label(f"{finding.kind}: {finding.text}").classes("warn")
    _edits(console, frame, episodes, info)
    assert key == key_text(info.key)
    _replay(key, columns, rows)


def _replay(key: str, columns: Arrays, rows: int) -> None:
    """The images of an episode, a strip of them over its length, its curves, and a slider that goes through all of
    these."""
    images: dict[str, Any] = {}
    slider: Any = None
    label: Any = None
    shown = 0
    with ui.row().classes("w-full gap-3"):
        for name in image_columns(columns):
            with ui.column().classes("grow basis-0 max-w-md gap-0"):
                images[name] = (
                    ui.element("img")
                    .classes("w-full")
                    .style("image-rendering: pixelated")
                    .props(f'src="{_picture(key, name, 0)}"')
                )
                ui.label(name.partition(".")[2]).classes("opacity-70")
    for name in images:
        with ui.row().classes("w-full gap-1 no-wrap"):
            for place in range(_STRIP):
                at = round(place * (rows - 1) / (_STRIP - 1))
                ui.element("img").classes("grow basis-0 w-0 cursor-pointer").props(
                    f'src="{_picture(key, name, at)}" loading=lazy'
                ).on("click", lambda at=at: slider.set_value(at))
    _legend(columns)
    chart = (
        ui.echart(_plot(columns)).classes("w-full").style("height: 28rem").props("data-testid=plot")
    )

    def show() -> None:
        nonlocal shown
        at = int(slider.value or 0)
        if at == shown:
            return
        shown = at
        label.set_text(f"row {at} of {rows - 1}")
        for name, element in images.items():
            element.props(f'src="{_picture(key, name, at)}"')
        chart.run_chart_method(
            "dispatchAction", {"type": "showTip", "seriesIndex": 0, "dataIndex": at}
        )

    with ui.row().classes("w-full items-center no-wrap"):
        play = ui.switch("play")
        slider = ui.slider(min=0, max=max(rows - 1, 1), value=0, on_change=show).classes("grow")
        label = ui.label(f"row 0 of {rows - 1}")
    ui.timer(_PLAY_S, lambda: slider.set_value((slider.value + 1) % rows) if play.value else None)


def _legend(columns: Arrays) -> None:
    """What the coloured spans of the curves are, those that there are."""
    with ui.row().classes("w-full gap-4"):
        for name, spans in marks(columns).items():
            if spans:
                with ui.row().classes("items-center gap-1"):
                    ui.element("div").classes("w-5 h-5 rounded").style(
                        f"background: {_COLOURS[name]}"
                    )
                    ui.label(name)


def _edits(console: Console, frame: Any, episodes: EpisodeList, info: EpisodeInfo) -> None:
    """What is said of an episode beside its data, and what one may say; each entry can be undone."""
    steps = max(info.rows - 1, 1)
    said = ui.column().classes("w-full gap-0").props("data-testid=edits")

    async def show() -> None:
        entries = await asyncio.to_thread(episodes.history, info.key)
        said.clear()
        with said:
            for entry in entries:
                values = ", ".join(
                    f"{k} {v}" for k, v in entry.values.items() if v not in (None, [])
                )
                with ui.row().classes("items-center gap-2"):
                    text = f"{entry.kind.value} {values} {entry.reason}".strip()
                    ui.label(f"{text}, by {entry.author}, {_when(entry.time_ns)}")
                    undo = partial(say, Edit.undo(entry.number, author=frame.visitor.name))
                    frame.act_button("undo", Role.LABEL, undo, icon="undo").props("flat")

    async def say(edit: Edit) -> None:
        if not console.may(frame.visitor, Role.LABEL):
            ui.notify("your token does not let you label", type="negative")
            return
        try:
            done = await asyncio.to_thread(episodes.edit, edit)
        except SuiteError as error:
            ui.notify(f"{error}", type="negative")
            return
        console.acts.add(
            frame.visitor.name, done.kind.value, key_text(info.key), f"entry {done.number}"
        )
        await show()

    def about(make: Any, *arguments: Any, **options: Any) -> Any:
        options = {"author": frame.visitor.name, **options}
        return lambda: say(make([info.key], *arguments, **options))

    with ui.row().classes("w-full items-center gap-2"):
        for text, does, icon in (
            ("exclude", about(Edit.exclude), "block"),
            ("include", about(Edit.include), "add_circle"),
            (
                "relabel success",
                about(Edit.relabel, Outcome.SUCCESS, *label(Outcome.SUCCESS)),
                "check",
            ),
            (
                "relabel failure",
                about(Edit.relabel, Outcome.FAILURE, *label(Outcome.FAILURE)),
                "close",
            ),
        ):
            frame.act_button(text, Role.LABEL, does, icon=icon).props(f'data-testid="{text}"')
        tag = ui.input("tag").classes("w-32")
        frame.act_button(
            "tag", Role.LABEL,
            lambda: say(Edit.tag([info.key], add=[tag.value], author=frame.visitor.name)),
        )  # fmt: skip
        note = ui.input("note").classes("w-48")
        frame.act_button(
            "note", Role.LABEL, lambda: say(Edit.note([info.key], note.value, frame.visitor.name))
        )
        cut = ui.range(min=0, max=steps, value={"min": 0, "max": steps}).classes("w-48")
        cut.props("label")
        frame.act_button(
            "keep these steps", Role.LABEL,
            lambda: say(Edit.cut([info.key], cut.value["min"],
                                 cut.value["max"] if cut.value["max"] < steps else None,
                                 author=frame.visitor.name)),
            icon="content_cut",
        )  # fmt: skip
    ui.timer(0.1, show, once=True)


def _picture(key: str, name: str, row: int) -> str:
    return f"/picture?key={quote(key)}&name={quote(name)}&row={row}"


def _plot(columns: Any) -> dict[str, Any]:
    """Reward and actions over rows, with the spans in which a person acted or the gate changed something."""
    found = traces(columns)
    areas = [
        [
            {"xAxis": first, "name": name, "itemStyle": {"color": _COLOURS[name]}},
            {"xAxis": last + 1},
        ]
        for name, spans in marks(columns).items()
        for first, last in spans
    ]
    series: list[dict[str, Any]] = []
    for name, lines in found.items():
        for number, line in enumerate(lines):
            label = name if len(lines) == 1 else f"{name} {number}"
            series.append({
                "name": label, "type": "line", "data": line, "showSymbol": False,
                "xAxisIndex": 0 if name == "reward" else 1, "yAxisIndex": 0 if name == "reward" else 1,
                "lineStyle": {"type": "dashed" if name == "proposed_action" else "solid", "width": 1.5},
            })  # fmt: skip
    if series and areas:
        for one in (series[0], series[-1]):
            one["markArea"] = {"silent": True, "label": {"show": False}, "data": areas}
    rows = list(range(len(columns["reward"]))) if "reward" in columns else []
    axis = {"type": "category", "data": rows, "axisLabel": {"color": INK}}
    return {
        "animation": False,
        "textStyle": {"color": INK},
        "tooltip": {"trigger": "axis"},
        "axisPointer": {"link": [{"xAxisIndex": "all"}]},
        "legend": {"type": "scroll", "top": 0, "textStyle": {"color": INK}},
        "grid": [{"top": 56, "height": "26%"}, {"top": "52%", "height": "38%"}],
        "xAxis": [{**axis, "gridIndex": 0}, {**axis, "gridIndex": 1, "name": "row"}],
        "yAxis": [
            {"name": "reward", "gridIndex": 0, "splitLine": LINES, "axisLabel": {"color": INK}},
            {
                "name": "action",
                "gridIndex": 1,
                "scale": True,
                "splitLine": LINES,
                "axisLabel": {"color": INK},
            },
        ],
        "series": series,
    }


async def _curves(console: Console) -> None:
    run = Path(console.config.run_dir) if console.config.run_dir else None
    if run is None or not run.is_dir():
        ui.label("No run is known: user console RUN")
        return
    runs = known_runs(run)
    over = ui.toggle(["minutes", "steps"], value="steps")
    chosen = ui.select(
        list(runs), value=[run.name] if run.name in runs else [], multiple=True, label="runs"
    )
    chosen.classes("min-w-64").props("use-chips")
    charts = (
        ui.element("div")
        .classes("w-full grid gap-3")
        .style("grid-template-columns: repeat(auto-fit, minmax(22rem, 1fr))")
    )

    shown: dict[str, Any] = {}
    asked = 0

    async def draw() -> None:
        nonlocal asked
        asked += 1
        mine, axis, trouble = asked, over.value, ""
        try:
            found = await asyncio.to_thread(curves_of, {n: runs[n] for n in chosen.value}, axis)
        except (SuiteError, OSError, ValueError) as error:
            trouble = str(error)
        if mine != asked or charts.is_deleted:  # another choice since, or the page is closed
            return
        if trouble:
            ui.notify(trouble, type="negative")
            return
        for title in shown.keys() - found.keys():
            shown.pop(title).delete()
        for title, lines in found.items():
            options = _curve(title, lines, axis)
            if title not in shown:
                with charts:
                    shown[title] = ui.echart(options).style("height: 18rem")
            elif shown[title].options != options:
                shown[title].options.clear()
                shown[title].options.update(options)
                shown[title].update()

    over.on_value_change(draw)
    chosen.on_value_change(draw)
    ui.timer(10.0, draw, immediate=False)
    await draw()


def _curve(title: str, lines: Mapping[str, Any], over: str) -> dict[str, Any]:
    """A chart of one number, a line for each run."""
    ink = {"color": INK}
    legend = {"top": 20, "textStyle": ink} if len(lines) > 1 else {"show": False}
    return {
        "animation": False,
        "title": {"text": title, "textStyle": {"fontSize": 14, **ink}},
        "tooltip": {"trigger": "axis"},
        "legend": legend,
        "grid": {"left": 56, "right": 12, "top": 50, "bottom": 40},
        "xAxis": {
            "type": "value", "name": over, "nameLocation": "middle", "nameGap": 24, "min": "dataMin",
            "splitLine": LINES, "nameTextStyle": ink,
            "axisLabel": {"showMinLabel": False, "hideOverlap": True, **ink},
        },
        "yAxis": {"type": "value", "scale": True, "splitLine": LINES, "axisLabel": ink},
        "series": [
            {"name": name, "type": "line", "showSymbol": False, "data": [list(point) for point in points]}
            for name, points in lines.items()
        ],
    }  # fmt: skip


def _when(stamp_ns: int) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(stamp_ns / 1e9)) if stamp_ns else ""


def _text(value: float | None) -> str:
    return "-" if value is None else f"{value:g}"
