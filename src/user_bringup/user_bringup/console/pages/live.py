"""The live page: what runs, with the buttons that judge, pause and start anew."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from fastapi import Request
from nicegui import ui

from user_bringup.console.access import Role
from user_bringup.console.pages.arm_view import ArmView
from user_bringup.console.pages.frame import Frame, Shown, camera_row
from user_bringup.console.snapshot import NodeLine, RobotCard, Snapshot
from user_bringup.running.process_board import ProcessLine
from user_comm.net.flow_table import HEAD

if TYPE_CHECKING:
    from user_bringup.console.shared import Console

_STATE_COLOURS = {
    "running": "positive",
    "training": "positive",
    "paused": "warning",
    "limited": "info",
    "silent": "negative",
}


def add_live_page(console: Console) -> None:
    """Register the page."""

    @ui.page("/")
    def live(request: Request) -> None:
        _live(console, Frame(console, request, "live"))


def _live(console: Console, frame: Frame) -> None:
    with ui.element("div").classes("tiles"):
        numbers = {}
        for name in ("success", "evaluated", "steps", "updates", "stored"):
            with ui.card().classes("q-pa-sm"):
                numbers[name] = ui.label("-").classes("big")
                ui.label(name).classes("opacity-70")
    warnings = _Warnings()
    with ui.row().classes("w-full gap-2"):
        _system_acts(console, frame)
    with ui.element("div").classes("board"):
        robots = ui.row().classes("items-stretch gap-3")
        with ui.column().classes("gap-3 items-stretch"):
            with ui.card():
                title = ui.label("learner").classes("text-lg font-bold")
                figures = _Figures()
            with ui.card():
                ui.label("nodes").classes("text-lg font-bold")
                nodes = ui.row().classes("gap-1")
                with ui.column().classes("gap-1") as of_run:
                    ui.label("processes").classes("text-lg font-bold")
                    processes = ui.row().classes("gap-1")
                of_run.set_visibility(False)
    links = _Links()
    cards: dict[str, _RobotCardView] = {}
    changed = Shown().changed

    def show(s: Snapshot) -> None:
        numbers["success"].set_text("-" if math.isnan(s.success) else f"{s.success:.0%}")
        rate = s.evaluation_rate
        numbers["evaluated"].set_text("-" if math.isnan(rate) else f"{rate:.0%}")
        for name in ("steps", "updates", "stored"):
            numbers[name].set_text(f"{s.numbers.get(name, 0):,.0f}")
        if changed("warnings", s.warnings):
            warnings.show(s.warnings)
        if changed("learner", (s.learner_state, s.learner)):
            title.set_text(f"learner: {s.learner_state or 'not heard of'}")
            figures.show(s.learner)
        if changed("nodes", s.nodes):
            nodes.clear()
            with nodes:
                for line in s.nodes:
                    _node_button(console, frame, line)
        if changed("processes", s.processes):
            of_run.set_visibility(bool(s.processes))
            processes.clear()
            with processes:
                for process in s.processes:
                    _process_button(console, frame, process)
        if changed("links", s.links):
            links.show(s.links)
        for card in s.robots:
            if card.namespace + card.name not in cards:
                with robots:
                    cards[card.namespace + card.name] = _RobotCardView(console, frame, card)
            cards[card.namespace + card.name].show(card)

    frame.on_refresh.append(show)
    show(console.snapshot())


def _system_acts(console: Console, frame: Frame) -> None:
    """What can be done to everything."""

    async def each(word: str) -> None:
        graph = console.graph
        for manager in list(graph.managers) if graph else []:
            await frame.act(word, manager, f"{manager}/{word}", Role.DRIVE)

    async def checkpoint() -> None:
        graph = console.graph
        for learner, service in list(graph.learners.items()) if graph else []:
            await frame.act("checkpoint", learner, service, Role.LABEL)

    if console.graph is not None:
        frame.act_button(
            "pause all", Role.DRIVE, lambda: each("pause"), icon="pause", color="warning"
        ).props("text-color=black")
        frame.act_button("resume all", Role.DRIVE, lambda: each("resume"), icon="play_arrow")
        frame.act_button("checkpoint now", Role.LABEL, checkpoint, icon="save")


def _node_button(console: Console, frame: Frame, line: NodeLine) -> None:
    """A node and its state; who may drive can start it anew."""

    async def restart() -> None:
        if await _is_sure(
            f"Start {line.name} anew?",
            "It lets go of what it has, reads its parameters and begins again; what depends on it waits. "
            "A robot that it drives stands still meanwhile.",
        ):
            _tell(line.name, await console.restart(frame.visitor, line.node))

    text = line.name if line.state == "active" else f"{line.name} {line.state}"
    colour = ("positive", "warning", "negative", "negative")[min(line.level, 3)]
    may = frame.visitor.role >= Role.DRIVE and console.graph is not None and bool(line.node)
    failed = f", failed {line.failures} times lately" if line.failures not in ("", "0") else ""
    tip = (line.why or line.state) + failed
    _badge(text, colour, tip, f'data-node="{line.name}"', restart if may else None)


async def _is_sure(question: str, what_happens: str) -> bool:
    with ui.dialog() as dialog, ui.card():
        ui.label(question).classes("text-lg")
        ui.label(what_happens)
        with ui.row():
            ui.button("yes", on_click=lambda: dialog.submit(True)).props("data-testid=restart")
            ui.button("no", on_click=lambda: dialog.submit(False)).props("flat")
    return bool(await dialog)


def _process_button(console: Console, frame: Frame, line: ProcessLine) -> None:
    """A process of `user up`, and its state; who may drive can start it anew."""

    async def restart() -> None:
        if await _is_sure(
            f"Start the process {line.name} anew?",
            "It ends in order, and is started again with the parameters that it had; a robot that it drives stands "
            "still meanwhile. For a node that hangs; else starting the node anew takes less time.",
        ):
            _tell(line.name, await console.restart_process(frame.visitor, line.name))

    runs = line.state == "running"
    colour = "negative" if line.trouble else "positive" if runs else "grey-7"
    may = frame.visitor.role >= Role.DRIVE and not line.is_over
    text = line.name if runs else f"{line.name} {line.state}"
    again = f", started again {line.restarts} times" if line.restarts else ""
    tip = (line.trouble or line.state) + (f", pid {line.pid}" if line.pid else "") + again
    _badge(text, colour, tip, f'data-process="{line.name}"', restart if may else None)


def _badge(
    text: str, colour: str, tip: str, mark: str, restart: Callable[[], Awaitable[None]] | None
) -> None:
    """What runs, by its state; a click starts it anew where that may be."""
    with ui.badge(text, color=colour) as badge:
        ui.tooltip(tip + ("; click: start anew" if restart else ""))
    badge.classes("text-base").props(mark)
    if restart:
        badge.classes("cursor-pointer").on("click", restart)


def _tell(name: str, came: tuple[bool, str]) -> None:
    """What came of starting it anew."""
    ok, text = came
    ui.notify(f"start {name} anew: {text}", type="positive" if ok else "negative")


class _Warnings:
    """What a person should look at, folded into one line: robots must not be pushed out of a phone's view."""

    def __init__(self) -> None:
        self._fold = ui.element("details").classes("warnings w-full rounded bg-amber-3 text-black")
        with self._fold:
            with ui.element("summary").classes("text-lg q-pa-sm"):
                self._count = ui.label("").classes("font-bold inline q-mr-sm")
                self._first = ui.label("").classes("inline first")
            self._all = ui.column().classes("gap-1 q-pa-sm")
        self._fold.props("data-testid=warnings")

    def show(self, warnings: tuple[str, ...]) -> None:
        """Show these; the first is seen without opening it."""
        self._fold.set_visibility(bool(warnings))
        if not warnings:
            return
        self._count.set_text(f"{len(warnings)} to look at:")
        self._first.set_text(warnings[0])
        self._all.clear()
        with self._all:
            for text in warnings:
                ui.label(text)


class _Links:
    """Links to other hosts, and what goes over them: what `user net top` and the table of `user up` show."""

    def __init__(self) -> None:
        with ui.card().classes("w-full") as self._card:
            ui.label("links").classes("text-lg font-bold")
            self._table = ui.table(columns=[], rows=[], row_key="id").classes("w-full")
            self._table.props("flat dense hide-pagination data-testid=links")
        self._card.set_visibility(False)

    def show(self, links: tuple[tuple[str, ...], ...]) -> None:
        """Show these; those of flows that carry nothing still say so."""
        self._card.set_visibility(bool(links))
        used = [i for i in range(len(HEAD)) if any(row[i] for row in links)]
        used.sort(key=lambda i: i > 1 and HEAD[i] != "state")  # a phone shows the first columns
        self._table.columns = [
            {"name": HEAD[i], "label": HEAD[i], "field": HEAD[i], "align": "left"} for i in used
        ]
        self._table.rows = [
            {"id": f"{row[0]} {row[1]}", **{HEAD[i]: row[i] for i in used}} for row in links
        ]


class _Figures:
    """Names and values, two columns. Only the texts that have changed are sent to the page."""

    def __init__(self) -> None:
        self._grid = ui.element("div").classes("figures")
        self._names: list[str] = []
        self._values: list[Any] = []

    def show(self, figures: tuple[tuple[str, str], ...]) -> None:
        """Show these."""
        names = [name for name, _ in figures]
        if names != self._names:
            self._names = names
            self._grid.clear()
            with self._grid:
                self._values = [(ui.label(name), ui.label(value))[1] for name, value in figures]
        for label, (_, value) in zip(self._values, figures, strict=True):
            label.set_text(value)


class _RobotCardView:
    """One robot on the live page."""

    def __init__(self, console: Console, frame: Frame, card: RobotCard) -> None:
        self._console, self._frame, self._card = console, frame, card
        self._shown: Any = None
        with ui.card().classes("grow min-w-64 max-w-4xl").props(f'data-robot="{card.name}"'):
            with ui.row().classes("w-full items-center"):
                ui.label(card.name).classes("text-2xl font-bold")
                self._state = ui.badge("").classes("text-2xl")
                self._safety = ui.badge("").classes("text-2xl")
                self._driver = ui.badge("", color="primary").classes("text-2xl")
            self._why = ui.label("").classes("text-lg")
            with ui.row().classes("gap-1"):
                for label, icon in (
                    ("success", "check"),
                    ("failure", "close"),
                    ("abort", "skip_next"),
                ):
                    text = "next episode" if label == "abort" else label
                    frame.act_button(
                        text, Role.LABEL, partial(self._judge, label), icon=icon
                    ).props(f"data-testid={label}")
                frame.act_button("go", Role.DRIVE, lambda: self._call("go"), icon="play_arrow")
                frame.act_button(
                    "evaluate next", Role.LABEL, lambda: self._call("evaluate"), icon="quiz"
                )
                if frame.visitor.role >= Role.DRIVE and console.graph is not None:
                    ui.link("drive", f"/drive_robot?robot={quote(card.namespace)}").classes(
                        "q-px-sm"
                    )
            self._cameras = ui.row().classes("w-full gap-2 no-wrap")
            self._figures = _Figures()
            if console.graph is not None and card.namespace:
                ArmView(console, card.namespace)
        self._camera_names: tuple[str, ...] = ()

    def show(self, card: RobotCard) -> None:
        """Show what has changed."""
        self._show_cameras()
        driver = self._console.seats.driver(card.namespace)
        self._driver.set_text(f"{driver} has the controls" if driver else "")
        self._driver.set_visibility(bool(driver))
        if card == self._shown:
            return
        self._shown = self._card = card
        self._state.set_text(card.state)
        self._state.props(f"color={_STATE_COLOURS.get(card.state, 'grey')}")
        self._safety.set_text(card.safety)
        self._safety.props(f"color={'negative' if card.stopped else 'grey-7'}")
        self._why.set_text(f"{card.why} [{card.code}]" if card.code else card.why)
        acts = _STATE_COLOURS.get(card.state) == "positive"
        self._why.classes(
            add="opacity-70" if acts else "warn", remove="warn" if acts else "opacity-70"
        )
        self._figures.show(card.figures)

    def _show_cameras(self) -> None:
        graph = self._console.graph
        view = graph.robots.get(self._card.namespace) if graph else None
        cameras = dict(sorted(view.cameras.items())) if view is not None else {}
        if tuple(cameras) == self._camera_names:
            return
        self._camera_names = tuple(cameras)
        self._cameras.clear()
        with self._cameras:
            camera_row(cameras)

    async def _judge(self, label: str) -> None:
        ok, text = await self._console.judge(self._frame.visitor, self._card.namespace, label)
        ui.notify(f"{label}: {text}", type="positive" if ok else "negative")

    async def _call(self, word: str) -> None:
        graph = self._console.graph
        view = graph.robots.get(self._card.namespace) if graph else None
        service = view.services.get(word) if view is not None else None
        if service is None:
            ui.notify(f"{self._card.name} offers no {word}", type="negative")
            return
        await self._frame.act(
            word, self._card.namespace, service, Role.DRIVE if word == "go" else Role.LABEL
        )
