"""The web server of the console, in threads of its own."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import socket
import sys
import threading
import time
from typing import Any

from user_bringup.console.guard import Gate, Guard
from user_bringup.console.own_loop import BesideUrgent
from user_bringup.console.shared import Console
from user_core.errors import DeviceError, PluginError

_START_S = 30.0
#: How long who makes a page may keep the interpreter from who drives; CPython's own choice is 5 ms.
_SWITCH_S = 0.001
#: Who has connected says something within this.
_FIRST_WORD_S = 10.0


class ConsoleServer:
    """Runs the pages in a thread of its own. A context manager.

    Args:
        console: What the pages share.

    Attributes:
        url: Where the page is, once it runs.

    Raises:
        PluginError: On entering: NiceGUI is not installed.
        DeviceError: On entering: the port is in use.
    """

    def __init__(self, console: Console) -> None:
        self.console = console
        self.url = ""
        self.guard: Guard | None = None
        self._server: Any = None
        self._app: BesideUrgent | None = None
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    def __enter__(self) -> ConsoleServer:
        config = self.console.config
        try:
            import uvicorn
            from nicegui import ui  # noqa: F401 - whether it is there
        except ImportError as error:
            raise PluginError(
                "the console needs the Python package nicegui", got=str(error),
                hint="pip install -r requirements/extra_console.txt",
            ) from error  # fmt: skip
        listening = _listen(config.host, config.port)
        port = listening.getsockname()[1]
        secure = bool(config.tls.certificate)
        sys.setswitchinterval(min(_SWITCH_S, sys.getswitchinterval()))
        app = self._app = _application(self.console)
        # On a full machine a page of what runs takes long to make and load, for who gives way to others.
        looks = self.console.precedence.look if self.console.graph is not None else lambda: None
        self.guard = Guard(app, self.console.access, secure, config.plain, looks)
        options: Any = uvicorn.Config(
            self.guard,
            http=_gated(self.guard.gate),
            log_level="warning",
            ws_max_size=64 * 1024,
            ws_ping_interval=5.0,
            ws_ping_timeout=5.0,
            timeout_graceful_shutdown=1,
            server_header=False,
            date_header=False,
            ws_per_message_deflate=False,  # most of what is sent is JPEG, and the rest little
            ssl_certfile=config.tls.certificate or None,
            ssl_keyfile=config.tls.key or None,
        )
        # NiceGUI asks all servers of this process for it, also one that has failed before it had one.
        options.loaded_app = None
        self._server = _waiting(uvicorn.Server)(options)
        self._thread = threading.Thread(
            target=self._serve, args=(listening,), name="console server", daemon=True
        )
        self._thread.start()
        end_s = time.monotonic() + _START_S
        while not self._server.started and self._thread.is_alive() and time.monotonic() < end_s:
            time.sleep(0.02)
        if not self._server.started:
            self.__exit__()  # the node tries again, and leaves nothing of this attempt
            listening.close()
            raise DeviceError("console", got=repr(self._error), expected="a server that starts")
        shown = "localhost" if self.console.access.is_here else socket.gethostname()
        self.url = f"{'https' if secure else 'http'}://{shown}:{port}/"
        return self

    def __exit__(self, *ended: object) -> None:
        if self._server is not None and self._thread is not None:
            self._server.end()
            self._thread.join(5)
        if self._app is not None:
            self._app.close()

    def _serve(self, listening: socket.socket) -> None:
        try:
            self._server.run(sockets=[listening])
        except BaseException as error:
            self._error = error


def _waiting(server: type[Any]) -> type[Any]:
    """A server of uvicorn that waits to be told to end, where its own looks ten times a second."""

    class Waiting(server):  # type: ignore[misc]
        _loop: asyncio.AbstractEventLoop | None = None

        async def main_loop(self) -> None:
            self._over, self._loop = asyncio.Event(), asyncio.get_running_loop()
            if not await self.on_tick(0):
                await self._over.wait()

        def end(self) -> None:
            """From any thread."""
            self.should_exit = True
            if self._loop is not None:
                with contextlib.suppress(RuntimeError):  # it has ended already
                    self._loop.call_soon_threadsafe(self._over.set)

    return Waiting


def _gated(gate: Gate) -> type[Any]:
    """The protocol of uvicorn, behind a gate; who says nothing for some seconds is cut off, too."""
    from uvicorn.protocols.http.auto import AutoHTTPProtocol

    class Gated(AutoHTTPProtocol):  # type: ignore[misc, valid-type]
        _let_in = _heard = False

        def connection_made(self, transport: asyncio.Transport) -> None:
            self._let_in = gate.lets_in(transport)
            if not self._let_in:
                transport.abort()
                return
            super().connection_made(transport)
            self.loop.call_later(_FIRST_WORD_S, self._expect_word)

        def data_received(self, data: bytes) -> None:
            self._heard = True
            if self._let_in:
                super().data_received(data)

        def _expect_word(self) -> None:
            if not self._heard:
                self.transport.abort()

        def connection_lost(self, exc: Exception | None) -> None:
            if self._let_in:
                super().connection_lost(exc)

    return Gated


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host, port))
    except OSError as error:
        listening.close()
        raise DeviceError(
            f"console at {host}:{port}", got=error.strerror, expected="a free port",
            hint="Choose another one: console_port:=7461",
        ) from error  # fmt: skip
    listening.listen(64)
    return listening


def _application(console: Console) -> BesideUrgent:
    """The pages, and what is no page."""
    from nicegui import Client, core, ui

    from user_bringup.console.pages.acts import add_acts_page
    from user_bringup.console.pages.driving import add_driving_page
    from user_bringup.console.pages.episodes import add_episode_pages
    from user_bringup.console.pages.fleet import add_fleet_page
    from user_bringup.console.pages.live import add_live_page
    from user_bringup.console.routes import URGENT, make_app, make_urgent_app

    # NiceGUI's application is one in a process, and takes no more once it has served: a node that is started anew
    # serves again. Pages that are still open load anew, as after the process: who kept them up to date went with its
    # loop.
    core.app.user_middleware.clear()
    core.app.middleware_stack = None
    Client.instances.clear()
    app = make_app(console)
    for add in (add_live_page, add_driving_page, add_acts_page):
        add(console)
    add_episode_pages(console, app)
    add_fleet_page(console, app)
    ui.run_with(
        app, title="USER console", dark=None, storage_secret=secrets.token_hex(16),
        show_welcome_message=False, reconnect_timeout=10.0,
    )  # fmt: skip
    return BesideUrgent(make_urgent_app(console), URGENT, app)
