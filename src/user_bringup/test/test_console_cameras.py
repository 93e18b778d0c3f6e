"""What a page gets of cameras: newest images, those between left out, coded once for all, and that one has stopped."""

from __future__ import annotations

import asyncio
import contextlib
import json
import struct
import time
from contextlib import asynccontextmanager
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

pytest.importorskip("nicegui", reason="nicegui is not installed")

from user_bringup.console import camera_stream
from user_bringup.console.camera_stream import IN_FLIGHT, CameraFeed, CameraPage
from user_bringup.console.config import ConsoleConfig

A, B = "/r/camera/a/image", "/r/camera/b/image"


class Cameras:
    """A graph with two cameras; the test says what comes of them."""

    def __init__(self):
        self.views = {}
        self.watched, self.left, self.coded, self.looks = [], [], 0, 0
        self.rates_hz = []

    def comes(self, topic, grey, age_s=0.0):
        view = self.views[topic]
        view.waits, view.data, view.received_s = True, grey, time.monotonic() - age_s

    def watch_camera(self, topic, rate_hz):
        self.watched.append(topic)
        self.rates_hz.append(rate_hz)
        self.views[topic] = SimpleNamespace(topic=topic, data=None, received_s=0.0, waits=False)
        return self.views[topic]

    def leave_camera(self, view):
        self.left.append(view.topic)

    def take_image(self, view):
        self.looks += 1
        came, view.waits = view.waits, False
        return came

    def jpeg(self, view, quality):
        self.coded += 1
        if view.data is None:
            return None
        if view.data == "bad":
            raise cv2.error("no image")
        return cv2.imencode(".jpg", np.full((32, 48, 3), view.data, np.uint8))[1].tobytes()


def opened(data):
    """Images of a bundle by topic, read as a page does."""
    (length,) = struct.unpack(">I", data[:4])
    found, at = {}, 4 + length
    for topic, size in json.loads(data[4:at]):
        found[topic] = cv2.imdecode(np.frombuffer(data[at : at + size], np.uint8), cv2.IMREAD_COLOR)
        at += size
    assert at == len(data)
    return found


@pytest.fixture
def graph():
    return Cameras()


@pytest.fixture
def feed(graph):
    return CameraFeed(ConsoleConfig(camera_rate_hz=60.0), graph)


@asynccontextmanager
async def a_page(feed, known=(A, B)):
    """A page, and the bundles that it got; it has drawn none of them."""
    got = asyncio.Queue()
    page = CameraPage(feed, lambda: set(known), got.put)
    running = asyncio.create_task(page.run())
    try:
        yield page, lambda: asyncio.wait_for(got.get(), 60), got
    finally:
        running.cancel()
        page.close()


def test_the_newest_images_are_sent_together_and_a_camera_that_stops_is_crossed_out_until_it_is_back(
    monkeypatch, graph, feed
):
    monkeypatch.setattr(camera_stream, "STALE_S", 0.3)

    async def look():
        async with a_page(feed) as (page, gets, _):
            page.hear({"show": [A, B, "/r/camera/unknown/image"]})
            assert sorted(graph.watched) == [A, B]
            graph.comes(A, 10)  # it is overtaken
            graph.comes(A, 200)
            graph.comes(B, 60)
            shown = opened(await gets())
            assert {t: round(i.mean() / 10) for t, i in shown.items()} == {A: 20, B: 6}
            page.hear({"drawn": 1})
            crossed = {}
            while len(crossed) < 2:
                crossed |= opened(await gets())
                page.hear({"drawn": 1})
            assert crossed[A].shape == (32, 48, 3)
            assert crossed[A].mean() < 110, "it looks alive"
            assert crossed[A].max() > 150, "nothing says why"
            graph.comes(A, 90)
            assert abs(int(opened(await gets())[A].mean()) - 90) < 3
        assert sorted(graph.left) == [A, B]

    asyncio.run(look())


def test_each_image_is_coded_once_for_all_pages_and_a_page_gets_what_another_one_has(graph, feed):
    async def look():
        async with a_page(feed) as (one, one_gets, _), a_page(feed) as (two, two_gets, _):
            one.hear({"show": [A]})
            two.hear({"show": [A]})
            graph.comes(A, 50)
            assert await one_gets() == await two_gets()
            async with a_page(feed) as (late, late_gets, _):
                late.hear({"show": [A]})
                assert opened(await late_gets()).keys() == {A}, "of a camera that is slow, too"
            assert graph.coded == 1
            assert graph.watched == [A]
            one.hear({"show": []})
            assert not graph.left
        assert graph.left == [A]

    asyncio.run(look())


def test_an_image_that_cannot_be_coded_keeps_nothing_else_back(graph, feed):
    async def look():
        async with a_page(feed) as (page, gets, _):
            page.hear({"show": [A, B]})
            graph.comes(A, "bad")
            graph.comes(B, 60)
            assert opened(await gets()).keys() == {B}
            graph.comes(A, 90)
            assert opened(await gets()).keys() == {A}

    asyncio.run(look())


def test_a_page_that_does_not_draw_gets_no_more_and_then_the_newest(graph, feed):
    async def look():
        async with a_page(feed) as (page, gets, got):
            page.hear({"show": [A]})
            for grey in range(20, 20 + IN_FLIGHT):
                graph.comes(A, grey)
                await gets()
            looks = graph.looks
            for grey in (100, 150, 220):
                graph.comes(A, grey)
                await asyncio.sleep(0.1)
            assert got.empty()
            assert graph.looks - looks <= 1, "nobody waits, and it looks"
            page.hear({"drawn": 1})
            assert abs(int(opened(await gets())[A].mean()) - 220) < 3

    asyncio.run(look())


@pytest.mark.parametrize(
    "said", [{"drawn": 1}, {"drawn": -1}, {"drawn": "x"}, {"show": 3}, {"show": [A] * 99}]
)
def test_what_no_page_of_ours_says_is_refused(feed, said):
    async def look():
        async with a_page(feed) as (page, _, _):
            with pytest.raises(ValueError, match="expected"):
                page.hear(said)

    asyncio.run(look())


@pytest.mark.parametrize("long_ago", [False, True])
def test_a_camera_from_which_nothing_came_or_only_long_ago_is_said_so(
    monkeypatch, graph, feed, long_ago
):
    monkeypatch.setattr(camera_stream, "STALE_S", 0.1)

    async def look():
        async with a_page(feed) as (page, gets, _):
            page.hear({"show": [A]})
            if long_ago:  # it waited in the middleware
                graph.comes(A, 10, age_s=1.0)
            assert opened(await gets())[A].max() > 150

    asyncio.run(look())


def test_a_page_that_shows_nothing_any_more_is_not_waited_for(graph, feed):
    async def look():
        before = len(asyncio.all_tasks())
        async with a_page(feed) as (page, _, _):
            page.hear({"show": [A]})
            page.hear({"show": []})
            end_s = time.monotonic() + 60
            while len(asyncio.all_tasks()) > before + 1:  # that of the page itself
                assert time.monotonic() < end_s, "it still looks for images"
                await asyncio.sleep(0.01)

    asyncio.run(look())


class Socket:
    """A websocket whose page shows cameras, and none, in turns and without end."""

    said, closed = 0, ()

    async def accept(self):
        pass

    async def send_bytes(self, data):
        pass

    async def receive_json(self):
        self.said += 1
        return {"show": [A, B] if self.said % 2 else []}

    async def close(self, *why):
        self.closed = why


def test_a_page_that_changes_its_mind_without_end_does_not_hold_the_loop(graph, feed):
    async def look():
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(camera_stream.show_cameras(feed, lambda: {A, B}, Socket()), 0.5)
        assert 1 < len(graph.watched) <= 6
        assert sorted(graph.left) == sorted(graph.watched)

    asyncio.run(look())


def test_a_page_whose_token_is_taken_back_gets_no_more_images(graph, feed):
    socket = Socket()
    serve = camera_stream.show_cameras(feed, lambda: {A}, socket, lambda: socket.said < 2)
    asyncio.run(asyncio.wait_for(serve, 60))
    assert socket.closed[1] == "your token was taken back"
    assert graph.watched == graph.left == [A]


def test_on_a_full_machine_pages_from_which_nobody_drives_get_four_of_ten_images(
    monkeypatch, graph
):
    """By subscriptions that say so; whoever takes the controls has all of them at once."""
    full, drives = [False], [False]
    monkeypatch.setattr(camera_stream.CoreWait, "look", lambda self: full[0])
    monkeypatch.setattr(camera_stream, "_FULL_AGAIN_S", 0.3)
    feed = CameraFeed(ConsoleConfig(camera_rate_hz=40.0), graph, lambda: not drives[0])

    async def look():
        async with a_page(feed, known=(A,)) as (page, gets, _):

            async def rate_hz():
                began_s = time.monotonic()
                for _ in range(5):
                    graph.comes(A, 50)
                    await gets()
                    page.hear({"drawn": 1})
                return 5 / (time.monotonic() - began_s)

            page.hear({"show": [A]})
            assert graph.rates_hz == [40.0]
            full[0] = True
            await rate_hz()
            assert graph.rates_hz == [40.0, 16.0]
            assert graph.left == [A]
            assert await rate_hz() < 20.0
            drives[0] = True
            await rate_hz()
            assert graph.rates_hz == [40.0, 16.0, 40.0]
            drives[0] = False
            began_s = time.monotonic()
            while len(graph.rates_hz) < 4:
                await rate_hz()
            assert time.monotonic() - began_s > 0.1, "it changes to and fro"
        assert graph.left == [A] * 4

    asyncio.run(look())
