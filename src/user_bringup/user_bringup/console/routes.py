"""What is no page: cameras as a row of images, and the websocket by which a person drives."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from fastapi import FastAPI, Response, WebSocket
from fastapi.responses import StreamingResponse
from fastapi.staticfiles import StaticFiles
from starlette.websockets import WebSocketDisconnect

from user_bringup.console.access import Role, Visitor
from user_bringup.console.arm_model import ArmModel, mesh_as_glb
from user_bringup.console.guard import REFUSED
from user_bringup.console.shared import Console, Graph
from user_core.errors import SpecError, SuiteError
from user_hal.teleops.browser import BrowserInput

_STATIC = Path(__file__).parent / "static"
#: When nothing newer has come for this long, that is shown: a camera that has stopped must not look alive.
STALE_S = 2.0
#: A page that says nothing for this long has lost its seat; it does not drive long before.
SILENT_S = 3.0
#: Code by which the websocket of a driver is closed while another one drives; the page offers to ask for the controls.
SEAT_TAKEN = 4409
#: How long a browser may keep a mesh.
MESH_S = 600


def make_app(console: Console) -> FastAPI:
    """An application with these, to which the pages are added."""
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    app.mount("/console_static", StaticFiles(directory=_STATIC), name="console_static")

    async def camera(topic: str) -> Response:
        graph = console.graph
        known = (
            {t for view in graph.robots.values() for t in view.cameras.values()} if graph else set()
        )
        if graph is None or topic not in known:
            return Response(f"no camera {topic}", status_code=404, media_type="text/plain")
        kind = "multipart/x-mixed-replace; boundary=image"
        return StreamingResponse(_images(console, graph, topic), media_type=kind)

    async def drive(websocket: WebSocket, robot: str, ask: bool = False) -> None:
        await _Driving(console, websocket, robot).run(ask)

    converting = asyncio.Semaphore(1)  # one at a time: cameras and who drives need the threads, too

    async def mesh(robot: str, number: int) -> Response:
        try:
            async with converting:
                found = await asyncio.to_thread(_mesh, console, robot, number)
        except SuiteError as error:
            return Response(str(error), status_code=404, media_type="text/plain")
        kept = {"Cache-Control": f"private, max-age={MESH_S}"}
        return Response(found, media_type="model/gltf-binary", headers=kept)

    app.add_api_route("/robot_mesh", mesh, methods=["GET"], response_model=None)
    app.add_api_route("/camera", camera, methods=["GET"], response_model=None)
    app.add_api_websocket_route("/drive", drive)
    return app


async def _images(console: Console, graph: Graph, topic: str) -> AsyncIterator[bytes]:
    """A camera as a row of JPEG images. Sending waits for the browser, and what comes meanwhile is dropped.

    Each image is followed by the boundary and the header of the next: Chromium shows an image when it has read those,
    whatever length was said. With both before each image it was one image late, and a camera that had stopped looked
    alive for ever.
    """
    view = graph.watch_camera(topic)
    period_s = 1.0 / console.config.camera_rate_hz
    began_s, sent, shown, is_marked = time.monotonic(), -1, None, False
    begins = b"--image\r\nContent-Type: image/jpeg\r\n\r\n"
    opening = begins
    try:
        while True:
            started_s = time.monotonic()
            count, age_s = view.count, started_s - max(view.received_s, began_s)
            is_new = started_s - view.received_s < STALE_S  # others may have watched it long ago
            image = None
            if count != sent and view.data is not None and is_new:
                shown = image = await asyncio.to_thread(
                    graph.jpeg, view, console.config.jpeg_quality
                )
                sent, is_marked = count, False
            elif age_s >= STALE_S and not is_marked:
                image, is_marked = stopped(shown), True
            if image is not None:
                yield opening + image + b"\r\n" + begins
                opening = b""
            await asyncio.sleep(max(0.005, period_s - (time.monotonic() - started_s)))
    finally:
        graph.leave_camera(view)


def stopped(newest: bytes | None) -> bytes:
    """What is shown of a camera from which nothing comes: its newest image, dark and crossed out, as JPEG."""
    image = None
    if newest is not None:
        image = cv2.imdecode(np.frombuffer(newest, np.uint8), cv2.IMREAD_COLOR)
    image = np.zeros((128, 128, 3), np.uint8) if image is None else image // 3
    height, width = image.shape[:2]
    thick = max(1, min(height, width) // 64)
    for start, end in (((0, 0), (width, height)), ((0, height), (width, 0))):
        cv2.line(image, start, end, (60, 60, 220), thick, cv2.LINE_AA)
    size = max(0.3, width / 320)
    cv2.putText(image, "no image", (width // 10, height // 2), cv2.FONT_HERSHEY_SIMPLEX, size, (255, 255, 255), thick, cv2.LINE_AA)  # fmt: skip
    coded: bytes = cv2.imencode(".jpg", image)[1].tobytes()
    return coded


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
