"""Cameras on pages: each image is coded once, however many look, no oftener than it is shown, and none that is not
drawn."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import struct
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import cv2
import numpy as np
from starlette.websockets import WebSocket, WebSocketDisconnect

from user_bringup.console.config import ConsoleConfig
from user_bringup.console.guard import REFUSED
from user_bringup.console.precedence import CoreWait, give_way_here
from user_bringup.console.shared import Graph

_log = logging.getLogger(__name__)
#: When nothing newer has come for this long, that is shown: a camera that has stopped must not look alive.
STALE_S = 2.0
#: Bundles that are under way to a page, at most: more than one, or a link of 300 ms would carry three a second.
IN_FLIGHT = 3
#: On a full machine, pages from which nobody drives get this share of the images; not before this time after they last did
#: not: cameras are subscribed to anew, so that no more images are made than are shown.
_SHARE_WHEN_FULL, _FULL_AGAIN_S = 0.4, 10.0
#: Cameras that one page may ask for.
_MOST = 64
#: After a page has said what it shows, it is heard again this much later: subscriptions come and go in the loop that
#: drives, too, and a page that changes its mind without end must not hold that.
_SHOW_S = 0.1


class WatchedCamera:
    """A camera that pages look at.

    Attributes:
        view: The graph's subscription to it.
        watchers: How many pages look.
        number: Of the newest image; each has another one. 0 before the first.
        jpeg: The newest image.
    """

    def __init__(self, view: Any) -> None:
        self.view, self.watchers = view, 0
        self.number, self.jpeg = 0, b""
        self._image: bytes | None = None  # the newest of the camera itself
        self._began_s = time.monotonic()
        self._is_marked = False

    def look_by(self, view: Any) -> None:
        """Go on with another subscription."""
        self.view, self._began_s = view, time.monotonic()

    def is_due(self, graph: Graph) -> bool:
        """Whether there is something new to code; takes what has come."""
        if graph.take_image(self.view):
            self._is_marked = False
            return True
        return not self._is_marked and self._is_stale()

    def code(self, graph: Graph, quality: int) -> None:
        """Code the newest image; or, where none comes any more, mark the last one. Any thread."""
        if self._is_stale():
            self._is_marked = True
            jpeg: bytes | None = stopped(self._image)
        else:
            jpeg = self._image = graph.jpeg(self.view, quality)
        if jpeg is not None:
            self.jpeg = jpeg
            self.number += 1

    def _is_stale(self) -> bool:
        newest_s = self._began_s if self.view.data is None else self.view.received_s
        return time.monotonic() - float(newest_s) >= STALE_S


class CameraFeed:
    """The images of all cameras that somebody looks at, for all pages. In one event loop.

    A thread that interrupts nobody takes images, and codes them, ``camera_rate_hz`` times a second at most, and only
    while a page waits for some: a page that has not drawn what it has, because its link is slow or nobody sees it,
    costs nothing. The loop is woken once for all cameras.

    Args:
        config: Rate and quality.
        graph: Subscribes to a camera while a page looks at it.
        gives_way: Whether four of ten images will do now, where the machine is full: nobody drives by them.
    """

    def __init__(
        self,
        config: ConsoleConfig,
        graph: Graph,
        gives_way: Callable[[], bool] = lambda: False,
    ) -> None:
        self._gives_way, self._core = gives_way, CoreWait()
        self._rate_hz, self._quality = config.camera_rate_hz, config.jpeg_quality
        self._rate_now_hz, self._changed_s = self._rate_hz, -_FULL_AGAIN_S
        self._graph = graph
        self._cameras: dict[str, WatchedCamera] = {}
        self._waiting: dict[CameraPage, None] = {}
        self._task: asyncio.Task[None] | None = None
        self._next_s = 0.0
        self._thread = ThreadPoolExecutor(1, "cameras", initializer=give_way_here)

    def watch(self, topic: str) -> WatchedCamera:
        """A page looks at a camera."""
        if topic not in self._cameras:
            self._cameras[topic] = WatchedCamera(self._graph.watch_camera(topic, self._rate_now_hz))
        shown = self._cameras[topic]
        shown.watchers += 1
        return shown

    def leave(self, topic: str) -> None:
        """It looks no more."""
        shown = self._cameras[topic]
        shown.watchers -= 1
        if not shown.watchers:
            del self._cameras[topic]
            self._graph.leave_camera(shown.view)

    def wait(self, page: CameraPage) -> None:
        """Look for images of the cameras of a page until it takes some."""
        self._waiting[page] = None
        if self._task is None:
            self._task = asyncio.create_task(self._look())

    def wait_no_more(self, page: CameraPage) -> None:
        """The page has gone, or shows nothing."""
        self._waiting.pop(page, None)

    async def _look(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            while True:
                self._hand_out()  # what was coded now, or for another page already
                if not self._waiting:
                    return
                wanted = {camera for page in self._waiting for camera in page.cameras}
                full = await loop.run_in_executor(self._thread, self._code, wanted)
                self._set_rate(full and self._gives_way())
        finally:
            self._task = None

    def _set_rate(self, slower: bool) -> None:
        rate_hz = self._rate_hz * _SHARE_WHEN_FULL if slower else self._rate_hz
        now_s = time.monotonic()
        if rate_hz == self._rate_now_hz or (slower and now_s - self._changed_s < _FULL_AGAIN_S):
            return
        self._rate_now_hz, self._changed_s = rate_hz, now_s
        for topic, camera in self._cameras.items():
            before = camera.view
            camera.look_by(self._graph.watch_camera(topic, rate_hz))
            self._graph.leave_camera(before)

    def _code(self, wanted: Iterable[WatchedCamera]) -> bool:
        """Take and code what is new, when it is time to; whether the machine is full."""
        time.sleep(max(0.0, self._next_s - time.monotonic()))
        self._next_s = time.monotonic() + 1.0 / self._rate_now_hz
        for camera in wanted:
            try:
                if camera.is_due(self._graph):
                    camera.code(self._graph, self._quality)
            except Exception:  # pages must still get the others, and the next
                _log.exception("an image of %s cannot be shown", camera.view.topic)
        return self._core.look()

    def _hand_out(self) -> None:
        for page in list(self._waiting):
            if page.takes():
                self._waiting.pop(page, None)


class CameraPage:
    """The cameras of one page. It says what it shows, and how many bundles it has drawn::

        {"show": ["/robot0/camera/front/image", ...]}     {"drawn": 1}

    It gets bundles of what is newer than what it has, see :func:`bundle`; while it has not drawn some of them it gets
    no more, and what comes meanwhile is dropped. A page that is not seen shows nothing.

    Args:
        feed: Where the images are from.
        known: Topics of the cameras that there are now.
        send: Sends a bundle.
    """

    def __init__(
        self,
        feed: CameraFeed,
        known: Callable[[], set[str]],
        send: Callable[[bytes], Awaitable[None]],
    ) -> None:
        self._feed, self._known, self._send = feed, known, send
        self._shown: dict[str, WatchedCamera] = {}
        self._sent: dict[str, int] = {}
        self._under_way = 0
        self._ready = asyncio.Event()

    def hear(self, said: Mapping[str, Any]) -> None:
        """What the page says. Raises ValueError for what no page of ours says."""
        if "show" in said:
            self._show(said["show"])
        drawn = said.get("drawn", 0)
        if not isinstance(drawn, int) or not 0 <= drawn <= self._under_way:
            raise ValueError(f"drawn: got {drawn!r}, expected what was sent, {self._under_way}")
        self._under_way -= drawn
        self._want()

    def _show(self, topics: Any) -> None:
        if not isinstance(topics, list) or len(topics) > _MOST:
            raise ValueError(f"show: expected at most {_MOST} topics")
        wanted = {topic for topic in topics if isinstance(topic, str)} & self._known()
        for topic in self._shown.keys() - wanted:
            self._feed.leave(topic)
            del self._shown[topic]
            self._sent.pop(topic, None)
        for topic in wanted - self._shown.keys():
            self._shown[topic] = self._feed.watch(topic)

    def _want(self) -> None:
        """Wait for images where some may be sent."""
        if not self._shown:
            self._feed.wait_no_more(self)
        elif self._under_way < IN_FLIGHT and not self._ready.is_set():
            self._feed.wait(self)

    def _newer(self) -> dict[str, WatchedCamera]:
        return {t: s for t, s in self._shown.items() if s.number and s.number != self._sent.get(t)}

    @property
    def cameras(self) -> Iterable[WatchedCamera]:
        """Those that it shows."""
        return self._shown.values()

    def takes(self) -> bool:
        """Whether there is something new for it, which it will send."""
        if self._newer():
            self._ready.set()
        return self._ready.is_set()

    async def run(self) -> None:
        """Send what is new, until it is cancelled."""
        while True:
            await self._ready.wait()
            newer = self._newer()
            self._ready.clear()
            if newer:
                self._sent.update({topic: shown.number for topic, shown in newer.items()})
                self._under_way += 1
                await self._send(bundle({topic: shown.jpeg for topic, shown in newer.items()}))
            self._want()

    def close(self) -> None:
        """The page has gone."""
        self._feed.wait_no_more(self)
        for topic in self._shown:
            self._feed.leave(topic)
        self._shown.clear()


def bundle(images: Mapping[str, bytes]) -> bytes:
    """Images for a page: four bytes (big-endian) with the length of what follows them, JSON with topic and size of
    each image, and the images, JPEG."""
    head = json.dumps([[topic, len(jpeg)] for topic, jpeg in images.items()]).encode()
    return b"".join((struct.pack(">I", len(head)), head, *images.values()))


async def show_cameras(
    feed: CameraFeed,
    known: Callable[[], set[str]],
    websocket: WebSocket,
    may: Callable[[], bool] = lambda: True,
) -> None:
    """Serve the cameras of a page until it goes, or may not look any more."""
    await websocket.accept()
    page = CameraPage(feed, known, websocket.send_bytes)
    sending = asyncio.create_task(page.run())
    try:
        while not sending.done():
            said = await websocket.receive_json()
            if not may():
                raise ValueError("your token was taken back")
            page.hear(said)
            if "show" in said:
                await asyncio.sleep(_SHOW_S)
    except (ValueError, TypeError, AttributeError, KeyError) as error:
        with contextlib.suppress(Exception):
            await websocket.close(REFUSED, str(error)[:100])
    except (WebSocketDisconnect, RuntimeError):  # the browser is gone
        return
    finally:
        sending.cancel()
        page.close()
        await asyncio.gather(sending, return_exceptions=True)


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
