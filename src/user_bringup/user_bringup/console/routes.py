"""What is no page: meshes; and what must wait for no page: emergency stops, and the websockets by which cameras come
and a person drives."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request, Response, WebSocket
from fastapi.staticfiles import StaticFiles
from starlette.websockets import WebSocketDisconnect

from user_bringup.console.access import Role, Visitor
from user_bringup.console.arm_model import ArmModel, mesh_as_glb
from user_bringup.console.camera_stream import CameraFeed, show_cameras
from user_bringup.console.guard import REFUSED, STOP_PATH
from user_bringup.console.shared import Console, Graph
from user_core.errors import SpecError, SuiteError
from user_hal.teleops.browser import BrowserInput

_STATIC = Path(__file__).parent / "static"
#: A page that says nothing for this long has lost its seat; it does not drive long before.
SILENT_S = 3.0
#: Code by which the websocket of a driver is closed while another one drives; the page offers to ask for the controls.
SEAT_TAKEN = 4409
#: How long a browser may keep a mesh.
MESH_S = 600


def make_app(console: Console) -> FastAPI:
    """An application with meshes and scripts, to which the pages are added."""
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    app.mount("/console_static", StaticFiles(directory=_STATIC), name="console_static")
    converting = asyncio.Semaphore(1)  # one at a time: other pages need the threads, too

    async def mesh(robot: str, number: int) -> Response:
        try:
            async with converting:
                found = await asyncio.to_thread(_mesh, console, robot, number)
        except SuiteError as error:
            return Response(str(error), status_code=404, media_type="text/plain")
        kept = {"Cache-Control": f"private, max-age={MESH_S}"}
        return Response(found, media_type="model/gltf-binary", headers=kept)

    app.add_api_route("/robot_mesh", mesh, methods=["GET"], response_model=None)
    return app


def make_urgent_app(console: Console) -> FastAPI:
    """An application with what must wait for no page."""
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    feed: CameraFeed | None = None  # one for all pages

    async def show(websocket: WebSocket) -> None:
        nonlocal feed
        graph = console.graph
        if graph is None:
            await websocket.close(REFUSED, "nothing runs")
            return

        def known() -> set[str]:
            return {
                topic for view in list(graph.robots.values()) for topic in view.cameras.values()
            }

        feed = feed or CameraFeed(console.config, graph, lambda: not console.seats.any_taken())
        visitor: Visitor = websocket.scope["visitor"]
        await show_cameras(feed, known, websocket, lambda: console.may(visitor, Role.LOOK))

    async def drive(websocket: WebSocket, robot: str, ask: bool = False) -> None:
        await _Driving(console, websocket, robot).run(ask)

    async def stop(request: Request) -> dict[str, Any]:
        ok, text = await console.emergency_stop(request.scope["visitor"])
        return {"ok": ok, "text": text}

    app.add_api_route(STOP_PATH, stop, methods=["POST"], response_model=None)
    app.add_api_websocket_route("/cameras", show)
    app.add_api_websocket_route("/drive", drive)
    return app


#: What an urgent application has; all else is of pages.
URGENT = frozenset((STOP_PATH, "/cameras", "/drive"))


def _mesh(console: Console, robot: str, number: int) -> bytes:
    """A mesh of a robot that is shown, by its place in the URDF. Raises SuiteError where there is none."""
    graph = console.graph
    if graph is None or robot not in graph.robots:
        raise SpecError("robot", got=robot, expected="one that runs")
    visuals = ArmModel(graph.arm(robot).urdf).visuals
    if not 0 <= number < len(visuals) or visuals[number].kind != "mesh":
        raise SpecError("mesh", got=number, expected="the number of a mesh of its URDF")
    return mesh_as_glb(visuals[number])


class _Driving:
    """One page drives one robot, until either goes."""

    def __init__(self, console: Console, websocket: WebSocket, robot: str) -> None:
        self._console, self._websocket, self._robot = console, websocket, robot
        self._visitor: Visitor = websocket.scope["visitor"]
        self._seats, self._page = console.seats, object()

    async def run(self, ask: bool) -> None:
        """Take the seat and drive.

        Args:
            ask: Wait for the seat when another one has it; else go.
        """
        console, robot, name = self._console, self._robot, self._visitor.name
        await self._websocket.accept()
        try:
            if console.graph is None:
                raise _Ended("nothing runs")
            if not console.may(self._visitor, Role.DRIVE):
                raise _Ended("your token does not let you drive")
            if holder := self._seats.sit(robot, name, self._page):
                if not ask:
                    raise _Ended(f"{holder} drives this robot already", SEAT_TAKEN)
                await self._wait_for(holder)
            await self._drive(console.graph)
        except _Ended as end:
            with contextlib.suppress(Exception):
                reason = str(end).encode()[:120].decode(errors="ignore")  # at most 123 bytes
                await self._websocket.close(end.code, reason)
        except (WebSocketDisconnect, RuntimeError):  # the browser is gone
            return
        finally:
            self._seats.leave(robot, self._page)

    async def _hear(self) -> dict[str, Any]:
        """What the page says; it says something thirty times a second."""
        try:
            said = await asyncio.wait_for(self._websocket.receive_json(), SILENT_S)
        except asyncio.TimeoutError:
            raise _Ended(f"nothing was heard of your page for {SILENT_S:g} s") from None
        except ValueError as error:
            raise _Ended(str(error)) from error
        if not isinstance(said, dict):
            raise _Ended("a message of a page is an object")
        if not self._console.may(self._visitor, Role.DRIVE):
            raise _Ended("your token was taken back")
        return said

    async def _wait_for(self, holder: str) -> None:
        """Wait until the seat is ours. Raises _Ended when its holder keeps it."""
        console, robot, name = self._console, self._robot, self._visitor.name
        self._seats.ask(robot, name, self._page)
        console.acts.add(name, "asks for the controls", robot, f"{holder} has them")
        while not self._seats.has(robot, self._page):
            if not self._seats.asks(robot, self._page):
                raise _Ended(f"{holder} keeps the controls")
            said = await self._hear()
            await self._websocket.send_json(
                {"sent_ms": said.get("sent_ms"), "engaged": False, "waiting_for": self._seats.driver(robot)}
            )  # fmt: skip

    async def _drive(self, graph: Graph) -> None:
        console, robot, name = self._console, self._robot, self._visitor.name
        device = f"browser {name}"
        try:
            place = await asyncio.to_thread(graph.drive, robot, console.config.drive, device)
        except SuiteError as error:
            raise _Ended(str(error)) from error
        console.acts.add(name, "takes the controls", robot)
        why = "the page has gone"
        try:
            async with console.precedence.driving():
                await self._take_and_answer(place)
        except _Ended as end:
            why = str(end)
            raise
        finally:  # the seat is another one's only when nothing of ours can move the robot any more
            with contextlib.suppress(Exception):
                await asyncio.to_thread(place.close)
            console.acts.add(name, "leaves the controls", robot, why)

    async def _take_and_answer(self, place: Any) -> None:
        robot, name, engaged = self._robot, self._visitor.name, False
        while True:
            message = await self._hear()
            asked_by = self._seats.asked_by(robot)
            if message.pop("hand_over", False) and asked_by:
                raise _Ended(f"you gave the controls to {asked_by}")
            if message.pop("keep", False):
                self._seats.refuse(robot, self._page)
            try:
                said = BrowserInput.read(message)
            except SpecError as error:  # a page of ours sends no such thing
                raise _Ended(str(error)) from error
            place.take(said)
            if place.engaged != engaged:
                engaged = place.engaged
                self._console.acts.add(name, "drives" if engaged else "lets go", robot)
            await self._websocket.send_json(
                {
                    "sent_ms": said.sent_ms,
                    "engaged": engaged,
                    "sent": place.sent,
                    "late": place.teleop.late,
                    "must_release": place.teleop.must_release,
                    "asked_by": asked_by,
                }
            )


class _Ended(Exception):
    """Driving ends, for what it says; ``code`` closes the websocket."""

    def __init__(self, why: str, code: int = REFUSED) -> None:
        super().__init__(why)
        self.code = code
