"""What is on every page: where one can go, and the emergency stop above everything."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fastapi import Request
from nicegui import ui

from user_bringup.console.access import Role, Visitor
from user_bringup.console.shared import Console
from user_bringup.console.snapshot import Snapshot

#: What runs says how it is once a second.
_REFRESH_S = 1.0
#: A page that nobody sees is told nothing.
_SEEN = """<script>
document.addEventListener("visibilitychange", () => window.emitEvent && emitEvent("console_seen", !document.hidden));
</script><script src="/console_static/stop.js"></script><script src="/console_static/cameras.js" defer></script>"""
#: Text and lines of charts, readable on light and on dark.
INK, LINES = "#7b818a", {"lineStyle": {"color": "#8a8f9855"}}
_STYLE = """
:root { color-scheme: light dark; }
.body--light { background: #f4f5f7; } .body--dark { background: #14171a; }
.warn { color: #b45309; } .body--dark .warn { color: #ffb300; }
@media (max-width: 600px) { /* a table whose rows are shown as paragraphs */
  .stacked thead { display: none; } .stacked tbody tr { display: block; padding: .4rem .7rem; border-bottom: 1px solid #8884; }
  .stacked tbody td { display: inline; padding: 0 .5rem 0 0 !important; border: 0; height: auto; white-space: normal; }
  .stacked td:first-child { opacity: .7; } .stacked td:nth-child(3) { display: block; font-weight: 600; } }
.place { font-size: 1.125rem; padding: 0 8px; }
@media (max-width: 600px) { .place { font-size: 1rem; padding: 0 2px; } .q-header { column-gap: 6px; } }
.tiles { display: grid; grid-template-columns: repeat(5, 1fr); gap: .75rem; width: 100%; }
.board { display: grid; gap: .75rem; width: 100%; align-items: start; }
.board > * { min-width: 0; }
@media (min-width: 1000px) { .board { grid-template-columns: minmax(0, 1fr) 24rem; } .board .figures { font-size: 1.2rem; }
  [data-robot] .figures { width: 100%; grid-template-columns: auto 1fr auto 1fr; } }
@media (max-width: 600px) { .tiles { grid-template-columns: repeat(3, 1fr); gap: .4rem; } .tiles .q-card { padding: .3rem .6rem; gap: 0; }
  .tiles .big { font-size: 1.6rem; } }
.warnings summary { overflow: hidden; text-overflow: ellipsis; white-space: nowrap; cursor: pointer; }
.warnings[open] .first { visibility: hidden; }
.figures { display: grid; grid-template-columns: auto 1fr; gap: .1rem .8rem; font-variant-numeric: tabular-nums; }
.figures > :nth-child(odd) { opacity: .65; }
.big { font-size: 2.2rem; line-height: 1.1; font-weight: 600; font-variant-numeric: tabular-nums; }
user-camera { display: block; width: 100%; aspect-ratio: 1; max-height: 55vh; background: #0004; border-radius: .4rem; contain: strict; }
user-camera canvas { display: block; width: 100%; height: 100%; object-fit: contain; }
user-camera[data-lost] canvas { opacity: .3; }
.stop { font-size: 1.7rem !important; font-weight: 700; min-height: 3.8rem; }
@media (max-width: 600px) { .stop { font-size: 1.5rem !important; width: 100%; } }
.cockpit { display: grid; width: 100%; gap: 1rem; align-items: center; justify-items: center;
  grid-template: "left view right" "left arm right" / auto minmax(0, 48rem) auto; justify-content: center; }
@media (max-width: 800px) { .cockpit { grid-template: "view view" "left right" "arm arm" / 1fr 1fr; } }
.pad { width: min(42vw, 15rem); aspect-ratio: 1; border-radius: 50%; background: #8884; touch-action: none; display: grid;
  place-content: center; user-select: none; position: relative; border: 2px solid #8888; }
.pad[data-down] { border-color: #2e7d32; background: #2e7d3233; }
.pad .knob { width: 4rem; height: 4rem; border-radius: 50%; background: #888c; pointer-events: none; display: grid; place-content: center; }
#drive-status { font-size: 1.3rem; font-weight: 600; padding: .5rem .8rem; border-radius: .4rem; background: #8883; }
#drive-status[data-engaged=true] { background: #2e7d32; color: white; }
.plain { font: inherit; padding: .5rem .8rem; border-radius: .3rem; background: #1976d2; color: white; }
[hidden] { display: none !important; }
.axis { --v: 0; height: .6rem; width: 8rem; background: #8884; border-radius: .3rem; position: relative; overflow: hidden; }
.axis::after { content: ""; position: absolute; inset: 0 auto 0 50%; width: 2px; background: #1976d2;
  transform: scaleX(calc(1 + abs(var(--v)) * 30)) translateX(calc(var(--v) * 50%)); }
"""


class Shown:
    """What a page shows already, part by part: what has not changed is not sent again."""

    def __init__(self) -> None:
        self._values: dict[str, object] = {}

    def changed(self, what: str, value: object) -> bool:
        """Whether a part must be shown anew."""
        if self._values.get(what) == value:
            return False
        self._values[what] = value
        return True


class Frame:
    """What is on every page: where one can go, and the emergency stop.

    Args:
        console: What the pages share.
        request: Who asks for it.
        here: Name of the page.
    """

    def __init__(self, console: Console, request: Request, here: str) -> None:
        self.console = console
        self.visitor: Visitor = request.scope["visitor"]
        for prepare in console.on_visit:
            prepare()
        ui.add_css(_STYLE)
        ui.colors(primary="#1565c0", negative="#c62828", positive="#2e7d32")
        places = [
            ("live", "/"),
            ("episodes", "/episodes"),
            ("curves", "/curves"),
            ("fleet", "/fleet"),
            ("acts", "/acts"),
        ]
        if self.visitor.role >= Role.DRIVE and console.graph is not None:
            places.insert(1, ("drive", "/drive_robot"))
        with ui.header(elevated=True).classes("items-center gap-2 q-py-xs"):
            for name, path in places:
                link = ui.link(name, path).classes("text-white no-underline place")
                if name == here:
                    link.classes("font-bold underline")
            ui.space()
            ui.label(f"{self.visitor.name}: {self.visitor.role.name.lower()}").classes(
                "opacity-70 max-sm:hidden"
            )
            self._stop = ui.button("EMERGENCY STOP", color="negative")
            self._stop.on("click", js_handler="() => userEmergencyStop()")
            self._stop.classes("stop").props("unelevated data-testid=stop")
            self._reset = ui.button(
                "reset emergency stop", color="warning", on_click=self._on_reset
            )
            self._reset.classes("stop").props(
                "unelevated text-color=black data-testid=reset"
            ).set_visibility(False)
        if console.graph is None:
            self._stop.set_visibility(False)
        self.on_refresh: list[Callable[[Snapshot], None]] = [self._show_stop]
        self._timer = ui.timer(_REFRESH_S, self._refresh)
        ui.add_head_html(_SEEN)
        ui.on("console_seen", self._on_seen)
        ui.on("console_stop", self._on_stop)

    def _refresh(self) -> None:
        if not self.console.may(self.visitor, Role.LOOK):
            self._timer.active = False
            ui.notify("Your token was taken back: nothing is shown here any more.", type="negative", timeout=0)  # fmt: skip
            return
        snapshot = self.console.snapshot()
        if self.console.graph is not None:
            self.console.precedence.look()
        for show in self.on_refresh:
            show(snapshot)

    def _on_seen(self, event: Any) -> None:
        """The page is in front again, or behind another one."""
        self._timer.active = bool(event.args)
        if event.args:
            self._refresh()

    def _show_stop(self, snapshot: Snapshot) -> None:
        stopped = any(robot.emergency for robot in snapshot.robots)
        self._reset.set_visibility(stopped and self.visitor.role >= Role.DRIVE)

    async def _on_stop(self) -> None:
        """Where its request of its own did not get through (stop.js)."""
        ok, text = await self.console.emergency_stop(self.visitor)
        ui.notify(f"emergency stop: {text}", type="warning" if ok else "negative", timeout=10_000)

    async def _on_reset(self) -> None:
        with ui.dialog() as dialog, ui.card():
            ui.label("Is everybody away from the robots?").classes("text-lg")
            with ui.row():
                ui.button("yes, they may move again", on_click=lambda: dialog.submit(True)).props(
                    "data-testid=sure"
                )
                ui.button("no", on_click=lambda: dialog.submit(False)).props("flat")
        if not await dialog:
            return
        graph = self.console.graph
        for namespace, view in list(graph.robots.items()) if graph else []:
            if service := view.services.get("reset_emergency_stop"):
                await self.act("reset emergency stop", namespace, service, Role.DRIVE)

    async def act(self, what: str, whom: str, service: str, role: Role) -> None:
        """Call a service, and say what came of it."""
        ok, text = await self.console.act(self.visitor, what, whom, service, role)
        ui.notify(f"{what} {whom.strip('/')}: {text}", type="positive" if ok else "negative")

    def act_button(self, text: str, role: Role, does: Callable[[], Any], **options: Any) -> Any:
        """A button that only those see who may press it."""
        button = ui.button(text, on_click=does, **options).props("dense no-caps")
        button.set_visibility(self.visitor.role >= role)
        return button


def camera_row(cameras: dict[str, str]) -> None:
    """Live images of cameras, by name; drawn by cameras.js."""
    for name, topic in cameras.items():
        with ui.column().classes("grow basis-0 gap-0"):
            camera = ui.element("user-camera").props(f'role=img aria-label="camera {name}"')
            camera.props["data-camera"], camera.props["data-topic"] = name, topic
            ui.label(name).classes("opacity-70")
