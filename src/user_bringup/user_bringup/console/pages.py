"""The pages: what is seen live, driving, acts; each with the emergency stop above everything."""

from __future__ import annotations

import math
import time
from functools import partial
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from fastapi import FastAPI, Request
from nicegui import ui

from user_bringup.console.access import Role
from user_bringup.console.arm_view import ArmView
from user_bringup.console.frame import Frame, Shown
from user_bringup.console.snapshot import NodeLine, RobotCard, Snapshot

if TYPE_CHECKING:
    from user_bringup.console.shared import Console

_STATE_COLOURS = {
    "running": "positive",
    "training": "positive",
    "paused": "warning",
    "limited": "info",
    "silent": "negative",
}


def add_pages(console: Console, app: FastAPI) -> None:
    """Register all pages."""
    from user_bringup.console.episode_pages import add_episode_pages
    from user_bringup.console.fleet_page import add_fleet_page

    @ui.page("/")
    def live(request: Request) -> None:
        _live(console, Frame(console, request, "live"))

    @ui.page("/drive_robot")
    def drive(request: Request, robot: str = "") -> None:
        _drive(console, Frame(console, request, "drive"), robot)

    @ui.page("/acts")
    def acts(request: Request) -> None:
        _acts(console, Frame(console, request, "acts"))

    add_episode_pages(console, app)
    add_fleet_page(console, app)


# --- live ---


def _live(console: Console, frame: Frame) -> None:
    with ui.row().classes("w-full items-stretch gap-3"):
        numbers = {}
        for name in ("success", "evaluated", "steps", "updates", "stored"):
            with ui.card().classes("q-pa-sm grow"):
                numbers[name] = ui.label("-").classes("big")
                ui.label(name).classes("opacity-70")
    warnings = ui.column().classes("w-full gap-1")
    with ui.row().classes("w-full gap-2"):
        _system_acts(console, frame)
    robots = ui.row().classes("w-full items-stretch gap-3")
    with ui.row().classes("w-full items-stretch gap-3"):
        with ui.card().classes("grow"):
            title = ui.label("learner").classes("text-lg font-bold")
            figures = _Figures()
        with ui.card().classes("grow"):
            ui.label("nodes").classes("text-lg font-bold")
            nodes = ui.row().classes("gap-1")
    cards: dict[str, _RobotCardView] = {}
    changed = Shown().changed

    def show(s: Snapshot) -> None:
        numbers["success"].set_text("-" if math.isnan(s.success) else f"{s.success:.0%}")
        rate = s.evaluation_rate
        numbers["evaluated"].set_text("-" if math.isnan(rate) else f"{rate:.0%}")
        for name in ("steps", "updates", "stored"):
            numbers[name].set_text(f"{s.numbers.get(name, 0):,.0f}")
        if changed("warnings", s.warnings):
            warnings.clear()
            with warnings:
                for text in s.warnings[:8]:
                    ui.label(text).classes("w-full rounded q-pa-sm bg-amber-3 text-black text-lg")
        if changed("learner", (s.learner_state, s.learner)):
            title.set_text(f"learner: {s.learner_state or 'not heard of'}")
            figures.show(s.learner)
        if changed("nodes", s.nodes):
            nodes.clear()
            with nodes:
                for line in s.nodes:
                    _node_button(console, frame, line)
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
        with ui.dialog() as dialog, ui.card():
            ui.label(f"Start {line.name} anew?").classes("text-lg")
            ui.label(
                "It lets go of what it has, reads its parameters and begins again; what depends on it waits. "
                "A robot that it drives stands still meanwhile."
            )
            with ui.row():
                ui.button("yes", on_click=lambda: dialog.submit(True)).props("data-testid=restart")
                ui.button("no", on_click=lambda: dialog.submit(False)).props("flat")
        if not await dialog:
            return
        ok, text = await console.restart(frame.visitor, line.node)
        ui.notify(f"start {line.name} anew: {text}", type="positive" if ok else "negative")

    text = line.name if line.state == "active" else f"{line.name} {line.state}"
    colour = ("positive", "warning", "negative", "negative")[min(line.level, 3)]
    may = frame.visitor.role >= Role.DRIVE and console.graph is not None and bool(line.node)
    with ui.badge(text, color=colour) as badge:
        failed = f", failed {line.failures} times lately" if line.failures not in ("", "0") else ""
        ui.tooltip((line.why or line.state) + failed + ("; click: start anew" if may else ""))
    badge.props(f'data-node="{line.name}"')
    if may:
        badge.classes("cursor-pointer").on("click", restart)


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
        with ui.card().classes("grow min-w-64 max-w-xl").props(f'data-robot="{card.name}"'):
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


def camera_row(cameras: dict[str, str]) -> None:
    """Live images of cameras, by name; drawn by cameras.js."""
    for name, topic in cameras.items():
        with ui.column().classes("grow basis-0 gap-0"):
            camera = ui.element("user-camera").props(f'role=img aria-label="camera {name}"')
            camera.props["data-camera"], camera.props["data-topic"] = name, topic
            ui.label(name).classes("opacity-70")


# --- driving ---

#: Who asks for the controls of another one, and what that one answers; shown by drive.js.
_ASKING = """<button id="drive-ask" class="plain" data-testid="ask" onclick="userDrive.ask()" hidden>ask for the controls</button>
<span id="drive-asked" hidden><b id="drive-asked-by"></b>
<button class="plain" data-testid="hand-over" onclick="userDrive.handOver()">hand over</button>
<button class="plain" data-testid="keep" onclick="userDrive.keep()">keep them</button></span>"""


def _drive(console: Console, frame: Frame, robot: str) -> None:
    graph = console.graph
    if frame.visitor.role < Role.DRIVE or graph is None:
        ui.label(
            "Nothing runs that could be driven."
            if graph is None
            else "Your token does not let you drive."
        )
        return
    known = sorted(graph.robots)
    robot = robot if robot in known else (known[0] if known else "")
    if not known:
        ui.label("No robot is heard of yet.")
        ui.timer(1.0, lambda: ui.navigate.reload() if graph.robots else None)
        return
    ui.add_head_html('<script src="/console_static/drive.js" defer></script>')
    with ui.row().classes("w-full items-center gap-3"):
        choice = ui.select(known, value=robot, label="robot").classes("min-w-32")
        ui.button(
            "take the controls",
            icon="sports_esports",
            on_click=lambda: _js(f"userDrive.connect({choice.value!r})"),
        ).props("data-testid=take no-caps")
        ui.button("leave", on_click=lambda: _js("userDrive.leave()")).props(
            "flat no-caps data-testid=leave"
        )
        ui.html(
            '<div id="drive-status" data-testid="drive-status">not connected</div>', sanitize=False
        )
        ui.html(_ASKING, sanitize=False)
    view = graph.robots[robot]
    with ui.element("div").classes("cockpit"):
        ui.html(
            '<div class="pad" data-pad="0,1"><div class="knob">x y</div></div>', sanitize=False
        ).style("grid-area: left")
        with ui.row().classes("w-full no-wrap").style("grid-area: view"):
            camera_row(dict(sorted(view.cameras.items())))
            if not view.cameras:
                ui.label("this robot has no camera").classes("opacity-70")
        with ui.element("div").classes("w-full").style("grid-area: arm"):
            ArmView(console, robot, opened=not view.cameras)
        ui.html(
            '<div class="pad" data-pad="2,5"><div class="knob">z turn</div></div>', sanitize=False
        ).style("grid-area: right")
    with ui.row().classes("w-full justify-center gap-2"):
        for text, act in (
            ("gripper", "toggle"),
            ("success (1)", "success"),
            ("failure (2)", "failure"),
            ("next episode (0)", "abort"),
        ):
            ui.button(text, on_click=lambda act=act: _js(f"userDrive.act('{act}')")).props(
                "no-caps"
            )
        ui.html(
            '<button class="q-btn q-btn--standard bg-primary text-white q-pa-sm rounded-borders" data-tilt>hold to drive by tilting</button>',
            sanitize=False,
        )
        ui.button("headset", on_click=lambda: _js("userDrive.headset()")).props("no-caps")
    with ui.row().classes("w-full justify-center gap-4"):
        for number, name in enumerate(("x", "y", "z", "rx", "ry", "rz")):
            with ui.row().classes("items-center gap-1"):
                ui.label(name)
                ui.html(f'<div class="axis" data-axis="{number}"></div>', sanitize=False)
    with ui.expansion("how to drive").classes("w-full"):
        ui.markdown(
            "**Keys**: hold *space* (the dead-man switch); `w` `s` forward and back, `a` `d` left and right, `q` `e` up and down, "
            "`u` `o`, `i` `k`, `j` `l` turn; `g` gripper, `1` success, `2` failure, `0` next episode, *Esc* emergency stop.\n\n"
            "**Gamepad**: hold the right shoulder button; left stick x y, right stick z and turn; X opens, A closes, Y success, B failure.\n\n"
            "**Tablet**: touch a pad, or hold the button and tilt. **Headset**: hold the grip button; the trigger moves the gripper."
        )
    blur = "true" if console.config.stop_on_blur else "false"
    _js(
        "const wait = () => window.userDrive ? (userDrive.ready(), window.userStopOnBlur = "
        + blur
        + ") : setTimeout(wait, 50); wait()"
    )


def _js(code: str) -> None:
    ui.run_javascript(code)


# --- acts ---


def _acts(console: Console, frame: Frame) -> None:
    ui.label("What people did at this console").classes("text-xl")
    columns = [
        {"name": n, "label": n, "field": n, "align": "left"}
        for n in ("when", "who", "what", "whom", "answer")
    ]
    table = ui.table(columns=columns, rows=[], row_key="id").classes("w-full stacked")
    seen = [-1]

    def show(_: Snapshot) -> None:
        acts = list(console.acts.last)
        stamp = int(acts[-1].t * 1000) if acts else 0
        if stamp == seen[0]:
            return
        seen[0] = stamp
        table.rows = [
            {
                "id": number,
                "when": time.strftime("%m-%d %H:%M:%S", time.localtime(act.t)),
                "who": act.who,
                "what": act.what + ("" if act.ok else " (not done)"),
                "whom": act.whom.strip("/"),
                "answer": act.answer,
            }
            for number, act in enumerate(reversed(acts))
        ]

    frame.on_refresh.append(show)
    show(console.snapshot())
