"""Pages have an event loop of their own: what is urgent waits for none of them."""

from __future__ import annotations

import asyncio
import os
import threading
from contextlib import closing
from urllib.request import urlopen

import pytest

from user_bringup.console.config import ConsoleConfig, TlsConfig
from user_bringup.console.own_loop import BesideUrgent
from user_bringup.console.server import ConsoleServer
from user_bringup.console.shared import Console
from user_bringup.console.snapshot import Snapshot
from user_core.errors import DeviceError
from user_testing.ports import free_port


async def _urgent(scope, receive, send):
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"urgent"})


def _http(path):
    return {"type": "http", "path": path}


async def _ask(app, scope, came=()):
    sent, incoming = [], list(came)

    async def receive():
        return incoming.pop(0)

    async def send(event):
        sent.append((threading.current_thread().name, event))

    await app(scope, receive, send)
    return sent


def test_what_is_urgent_is_answered_while_a_page_is_made():
    begins, answered = threading.Event(), threading.Event()

    async def page(scope, receive, send):
        begins.set()
        assert answered.wait(60)  # a page that is made; the loop of pages does nothing else
        await send({"type": "page", "by": threading.current_thread().name})

    async def both():
        with closing(BesideUrgent(_urgent, {"/stop"}, page)) as app:
            slow = asyncio.create_task(_ask(app, _http("/")))
            await asyncio.to_thread(begins.wait, 60)
            await _ask(app, _http("/stop"))
            was_done = slow.done()
            answered.set()
            return was_done, await slow

    was_done, [(where, event)] = asyncio.run(both())
    assert not was_done
    assert (where, event["by"]) == (threading.current_thread().name, "console pages")


def test_websockets_pass_in_order_and_what_fails_or_is_cancelled_is_so_for_who_asked():
    ended = threading.Event()

    async def echo(scope, receive, send):
        if scope["path"] == "/bad":
            raise ValueError("no such page")
        try:
            while (event := await receive())["type"] == "websocket.receive":
                await send({"type": "websocket.send", "text": event["text"]})
            await asyncio.Event().wait()
        finally:
            ended.set()

    async def all_of_it():
        with closing(BesideUrgent(_urgent, (), echo)) as app:
            words = [{"type": "websocket.receive", "text": str(n)} for n in range(20)]
            heard, sends = asyncio.Queue(), []
            for word in [*words, {"type": "websocket.disconnect"}]:
                heard.put_nowait(word)

            async def send(event):
                sends.append(event["text"])

            task = asyncio.create_task(app({"type": "websocket", "path": "/"}, heard.get, send))
            while len(sends) < 20:
                await asyncio.sleep(0.01)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            assert await asyncio.to_thread(ended.wait, 60)
            try:
                await _ask(app, _http("/bad"))
            except ValueError as error:
                return sends, str(error)

    sends, error = asyncio.run(all_of_it())
    assert sends == [str(n) for n in range(20)]
    assert error == "no such page"


def test_the_thread_of_pages_interrupts_nobody():
    async def page(scope, receive, send):
        await send({"policy": os.sched_getscheduler(0)})

    async def ask():
        with closing(BesideUrgent(_urgent, (), page)) as app:
            return await _ask(app, _http("/"))

    [(_, event)] = asyncio.run(ask())
    assert event["policy"] == os.SCHED_BATCH
    assert os.sched_getscheduler(0) != os.SCHED_BATCH


def test_a_server_that_does_not_start_leaves_no_thread_and_no_socket(tmp_path):
    """The node tries again, for as long as it runs."""
    pytest.importorskip("nicegui")
    bad = tmp_path / "certificate.pem"
    bad.write_text("none")
    tls = TlsConfig(certificate=str(bad), key=str(bad))
    config = ConsoleConfig(port=0, tls=tls, run_dir=str(tmp_path))

    def left():
        return {t.name for t in threading.enumerate()}, len(os.listdir("/proc/self/fd"))

    found = []
    for _ in range(3):
        with pytest.raises(DeviceError, match="a server that starts"):
            ConsoleServer(Console(config, Snapshot)).__enter__()
        found.append(left())
    assert "console pages" not in found[-1][0]
    assert found[-1] == found[0]


def test_a_server_serves_again_in_the_same_process_and_open_pages_load_anew(tmp_path):
    """As when the console's node is started anew: NiceGUI has one application in a process."""
    pytest.importorskip("nicegui")
    from nicegui import Client

    config = ConsoleConfig(port=free_port(), run_dir=str(tmp_path))
    for _ in range(2):
        with ConsoleServer(Console(config, Snapshot)) as server:
            assert not Client.instances, "pages of before are taken for those of this server"
            with urlopen(f"{server.url}acts", timeout=30) as answer:
                assert b"What people did at this console" in answer.read()
            assert Client.instances
