"""What is no page: cameras as a row of images, and the websocket by which a person drives."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from pathlib import Path

from fastapi import FastAPI, Response, WebSocket
from fastapi.responses import StreamingResponse
from fastapi.staticfiles import StaticFiles
from starlette.websockets import WebSocketDisconnect

from user_bringup.console.access import Role, Visitor
from user_bringup.console.guard import REFUSED
from user_bringup.console.shared import Console, Graph
from user_core.errors import SpecError, SuiteError
from user_hal.teleops.browser import BrowserInput

_STATIC = Path(__file__).parent / "static"
#: An image that is older is not shown: a camera that has stopped must not look alive.
STALE_S = 2.0


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

    async def drive(websocket: WebSocket, robot: str) -> None:
        await _drive(console, websocket, robot)

    app.add_api_route("/camera", camera, methods=["GET"], response_model=None)
    app.add_api_websocket_route("/drive", drive)
    return app


async def _images(console: Console, graph: Graph, topic: str) -> AsyncIterator[bytes]:
    """A camera as a row of JPEG images. Sending waits for the browser, and what comes meanwhile is dropped."""
    view = graph.watch_camera(topic)
    period_s = 1.0 / console.config.camera_rate_hz
    sent = -1
    try:
        while True:
            started_s = time.monotonic()
            count, age_s = view.count, started_s - view.received_s
            if count != sent and view.data is not None and age_s < STALE_S:
                image = await asyncio.to_thread(graph.jpeg, view, console.config.jpeg_quality)
                sent = count
                if image is not None:
                    head = f"--image\r\nContent-Type: image/jpeg\r\nContent-Length: {len(image)}\r\n\r\n"
                    yield head.encode() + image + b"\r\n"
            await asyncio.sleep(max(0.005, period_s - (time.monotonic() - started_s)))
    finally:
        graph.leave_camera(view)


async def _drive(console: Console, websocket: WebSocket, robot: str) -> None:
    """One page drives one robot, until either goes."""
    visitor: Visitor = websocket.scope["visitor"]
    await websocket.accept()
    graph = console.graph
    if graph is None or not console.may(visitor, Role.DRIVE):
        await websocket.close(
            REFUSED, "nothing runs" if graph is None else "your token does not let you drive"
        )
        return
    page = object()
    if holder := console.seats.sit(robot, visitor.name, page):
        await websocket.close(REFUSED, f"{holder} drives this robot already")
        return
    device = f"browser {visitor.name}"
    try:
        place = await asyncio.to_thread(graph.drive, robot, console.config.drive, device)
    except SuiteError as error:
        console.seats.leave(robot, page)
        await websocket.close(REFUSED, str(error)[:120])
        return
    console.acts.add(visitor.name, "takes the controls", robot)
    engaged, wrong = False, ""
    try:
        while True:
            try:
                said = BrowserInput.read(await websocket.receive_json())
            except (SpecError, ValueError) as error:  # a page of ours sends no such thing
                wrong = str(error)
                await websocket.close(REFUSED, wrong[:120])
                break
            place.teleop.take(said)
            if place.engaged != engaged:
                engaged = place.engaged
                console.acts.add(visitor.name, "drives" if engaged else "lets go", robot)
            if not console.may(visitor, Role.DRIVE):
                wrong = "your token was taken back"
                await websocket.close(REFUSED, wrong)
                break
            await websocket.send_json(
                {"sent_ms": said.sent_ms, "engaged": engaged, "sent": place.sent}
            )
    except (WebSocketDisconnect, RuntimeError):  # the browser is gone
        wrong = wrong or "the page has gone"
    finally:
        with contextlib.suppress(Exception):
            await asyncio.to_thread(place.close)
        console.seats.leave(robot, page)
        console.acts.add(visitor.name, "leaves the controls", robot, wrong)
