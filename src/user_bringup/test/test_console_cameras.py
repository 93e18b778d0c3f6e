"""What a page gets of a camera: newest images, those between left out, and that it has stopped."""

from __future__ import annotations

import asyncio
import time
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from user_bringup.console.config import ConsoleConfig

routes = pytest.importorskip("user_bringup.console.routes", reason="nicegui is not installed")


class Camera:
    """A graph with one camera; the test says what came of it."""

    def __init__(self):
        self.view = SimpleNamespace(data=None, received_s=0.0, count=0)
        self.left = 0

    def comes(self, grey):
        self.view.data, self.view.count = grey, self.view.count + 1
        self.view.received_s = time.monotonic()

    def watch_camera(self, topic):
        return self.view

    def leave_camera(self, view):
        self.left += 1

    def jpeg(self, view, quality):
        return cv2.imencode(".jpg", np.full((32, 48, 3), view.data, np.uint8))[1].tobytes()


def shown(part):
    """What a browser shows of it at once: only what the header of the next part ends."""
    assert part.endswith(b"\r\n--image\r\nContent-Type: image/jpeg\r\n\r\n")
    return cv2.imdecode(np.frombuffer(part[part.index(b"\xff\xd8") :], np.uint8), cv2.IMREAD_COLOR)


def test_the_newest_image_is_sent_and_a_camera_that_stops_is_crossed_out_until_it_is_back(
    monkeypatch,
):
    monkeypatch.setattr(routes, "STALE_S", 0.2)
    camera = Camera()
    console = SimpleNamespace(config=ConsoleConfig(camera_rate_hz=60.0))

    async def look():
        stream = routes._images(console, camera, "/camera")
        for grey in (10, 200):  # the first is overtaken
            camera.comes(grey)
        assert abs(int(shown(await anext(stream)).mean()) - 200) < 3
        crossed = shown(await anext(stream))
        assert crossed.shape == (32, 48, 3)
        assert crossed.mean() < 110, "it looks alive"
        assert crossed.max() > 150, "nothing says why"
        camera.comes(90)
        assert abs(int(shown(await anext(stream)).mean()) - 90) < 3
        await stream.aclose()
        assert camera.left == 1

    asyncio.run(look())


@pytest.mark.parametrize("long_ago", [False, True])
def test_a_camera_from_which_nothing_came_or_only_long_ago_is_said_so(monkeypatch, long_ago):
    monkeypatch.setattr(routes, "STALE_S", 0.1)
    console, camera = SimpleNamespace(config=ConsoleConfig()), Camera()
    if long_ago:  # another page has watched it
        camera.comes(10)
        camera.view.received_s -= 1.0

    async def look():
        stream = routes._images(console, camera, "/camera")
        assert shown(await anext(stream)).max() > 150
        await stream.aclose()

    asyncio.run(look())
