"""The page from which a person drives a robot; drive.js does the driving."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fastapi import Request
from nicegui import ui

from user_bringup.console.access import Role
from user_bringup.console.pages.arm_view import ArmView
from user_bringup.console.pages.frame import Frame, camera_row

if TYPE_CHECKING:
    from user_bringup.console.shared import Console

#: Who asks for the controls of another one, and what that one answers; shown by drive.js.
_ASKING = """<button id="drive-ask" class="plain" data-testid="ask" onclick="userDrive.ask()" hidden>ask for the controls</button>
<span id="drive-asked" hidden><b id="drive-asked-by"></b>
<button class="plain" data-testid="hand-over" onclick="userDrive.handOver()">hand over</button>
<button class="plain" data-testid="keep" onclick="userDrive.keep()">keep them</button></span>"""
_HOW_TO_DRIVE = (
    "**Keys**: hold *space* (the dead-man switch); `w` `s` forward and back, `a` `d` left and right, `q` `e` up and down, "
    "`u` `o`, `i` `k`, `j` `l` turn; `g` gripper, `1` success, `2` failure, `0` next episode, *Esc* emergency stop.\n\n"
    "**Gamepad**: hold the right shoulder button; left stick x y, right stick z and turn; X opens, A closes, Y success, B failure.\n\n"
    "**Tablet**: touch a pad, or hold the button and tilt. **Headset**: hold the grip button; the trigger moves the gripper; A or X success, B or Y failure, stick pressed next episode."
)


def add_driving_page(console: Console) -> None:
    """Register the page."""

    @ui.page("/drive_robot")
    def drive(request: Request, robot: str = "") -> None:
        _drive(console, Frame(console, request, "drive"), robot)


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
    _controls(known, robot)
    _cockpit(console, graph.robots[robot], robot)
    _buttons()
    _axes()
    with ui.expansion("how to drive").classes("w-full"):
        ui.markdown(_HOW_TO_DRIVE)
    blur = "true" if console.config.stop_on_blur else "false"
    _js(
        "const wait = () => window.userDrive ? (userDrive.ready(), window.userStopOnBlur = "
        + blur
        + ") : setTimeout(wait, 50); wait()"
    )


def _controls(known: list[str], robot: str) -> None:
    """Which robot, and taking and leaving it."""
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


def _cockpit(console: Console, view: Any, robot: str) -> None:
    """What the robot sees and where its arm is, between the two pads for thumbs."""
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


def _buttons() -> None:
    """What ends an episode, the gripper, and other ways to drive."""
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


def _axes() -> None:
    """How far each axis is deflected now."""
    with ui.row().classes("w-full justify-center gap-4"):
        for number, name in enumerate(("x", "y", "z", "rx", "ry", "rz")):
            with ui.row().classes("items-center gap-1"):
                ui.label(name)
                ui.html(f'<div class="axis" data-axis="{number}"></div>', sanitize=False)


def _js(code: str) -> None:
    ui.run_javascript(code)
