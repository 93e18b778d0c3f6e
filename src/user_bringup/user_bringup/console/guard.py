"""What stands before every page: who comes, from where, and how much."""

from __future__ import annotations

import asyncio
import html
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from contextlib import contextmanager
from typing import Any
from urllib.parse import parse_qs

from user_bringup.console.access import COOKIE, Access, RateLimit, Role

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
#: Messages of one websocket a second, and at once: a page sends 40 while it drives.
MESSAGES_PER_S, MESSAGES_AT_ONCE = 200.0, 400.0
#: Websockets of one visitor that are open together, by what they are for: a live page has one for what it shows and one
#: for its cameras, a driving page one more.
_SOCKETS = {"/drive": 8, "/cameras": 32, "": 64}
#: New ones of one visitor and kind a second, and at once: who is cut off does not come back at once without end.
_SOCKETS_PER_S, _SOCKETS_AT_ONCE = 5.0, 40.0
#: One that was cut off because too much came counts as this many of them.
_SOCKETS_OF_FLOOD = 20.0
#: Requests of one visitor a second, and at once: for whole pages, which are made anew for each, and for what they show
#: (pictures of an episode, scripts).
_PAGES_PER_S, _PAGES_AT_ONCE = 2.0, 20.0
_FILES_PER_S, _FILES_AT_ONCE = 200.0, 2000.0
_FILES = ("/_nicegui", "/console_static", "/picture", "/robot_mesh")
#: Connections of one address a second, at once, and open together: what is more is cut off before it is read. A browser
#: takes six, and two or three for each page that is open.
_PEER_PER_S, _PEER_AT_ONCE, _PEER_OPEN = 30.0, 60.0, 400
#: Behind a proxy, this many times as many a second: all people have its address, and it may connect anew for each
#: request.
_PROXY_TIMES = 10.0
#: How often those that were closed are forgotten, all together: each keeps buffers, of TLS some ten kilobytes.
_FORGET_S = 10.0
#: Addresses that are remembered.
_PEERS = 4096
#: What is never refused for its number.
STOP_PATH = "/emergency_stop"
#: Wrong tokens of one address a second, and at once; what is more is not read, and its connection ends. A right one
#: gets in whatever others guess there: tokens have 192 bits, so that it is the cost of guessing that is limited.
_GUESSES_PER_S, _GUESSES_AT_ONCE = 1.0, 10.0
#: Closing codes of a websocket (RFC 6455): policy violation.
REFUSED = 1008
_ENTRY = """<!doctype html><meta name="viewport" content="width=device-width"><title>USER console</title>
<style>body{font:1.1em system-ui;display:grid;place-content:center;height:90vh;gap:1em;
color-scheme:light dark}input,button{font:inherit;padding:.5em}</style>
<form method="post" action="/enter"><p>%s</p><input name="token" type="password" autofocus
placeholder="token" aria-label="token"> <button>Enter</button></form>"""
_HEADERS = [
    (b"content-type", b"text/html; charset=utf-8"),
    (b"cache-control", b"no-store"),
    (b"x-frame-options", b"DENY"),
]


class Gate:
    """How many connections each address makes: cut off before they cost more than that. In one event loop.

    Args:
        proxied: Whether people come by a proxy.
    """

    def __init__(self, proxied: bool = False) -> None:
        self._times = _PROXY_TIMES if proxied else 1.0
        self._rates: dict[str, RateLimit] = {}
        self._open: dict[str, list[asyncio.BaseTransport]] = {}
        self._forgot_s = time.monotonic()
        self.cut_off = 0

    def lets_in(self, transport: asyncio.BaseTransport) -> bool:
        """Whether a new connection may be read."""
        address = transport.get_extra_info("peername")
        peer = str(address[0]) if isinstance(address, tuple) else ""
        if peer not in self._rates and len(self._rates) >= _PEERS:
            self._rates.clear()
        if time.monotonic() - self._forgot_s > _FORGET_S:
            self._forgot_s = time.monotonic()
            self._open = {p: there for p, of in self._open.items() if (there := _still_open(of))}
        limit = RateLimit(self._times * _PEER_PER_S, self._times * _PEER_AT_ONCE)
        rate = self._rates.setdefault(peer, limit)
        mine = self._open.setdefault(peer, [])
        if len(mine) >= _PEER_OPEN:
            mine[:] = _still_open(mine)
        if len(mine) >= _PEER_OPEN or not rate.take():
            self.cut_off += 1
            return False
        mine.append(transport)
        return True


def _still_open(transports: list[asyncio.BaseTransport]) -> list[asyncio.BaseTransport]:
    return [transport for transport in transports if not transport.is_closing()]


class _Crowd:
    """How much each visitor wants at once. The names of visitors are those of tokens: there are few.

    Pages of one person share his name: what one of them takes too much of, the others lack, and nobody else.
    """

    def __init__(self) -> None:
        self._open: dict[tuple[str, str], int] = defaultdict(int)
        self._rates: dict[tuple[str, str], RateLimit] = {}
        self._pages: dict[str, asyncio.Lock] = {}

    def page(self, name: str) -> asyncio.Lock:
        """Held while a page is made, which takes some hundredths of a second of the loop in which robots are driven: a
        visitor who wants several gets one after the other. Not while it is sent: a browser that does not read would
        shut him out."""
        return self._pages.setdefault(name, asyncio.Lock())

    def takes_request(self, name: str, path: str) -> bool:
        """Whether one more request may pass."""
        if path == STOP_PATH:
            return True
        if path.startswith(_FILES):
            return self._rate(name, "files", _FILES_PER_S, _FILES_AT_ONCE).take()
        return self._rate(name, "pages", _PAGES_PER_S, _PAGES_AT_ONCE).take()

    @contextmanager
    def websocket(self, name: str, path: str) -> Iterator[RateLimit | None]:
        """One more websocket is open while the block lasts; gives how often more may come, or None for one too many."""
        kind = next(kind for kind in _SOCKETS if path.startswith(kind))
        key = name, kind
        more = self._rate(name, f"websockets {kind}", _SOCKETS_PER_S, _SOCKETS_AT_ONCE)
        if self._open[key] >= _SOCKETS[kind] or not more.take():
            yield None
            return
        self._open[key] += 1
        try:
            yield more
        finally:
            self._open[key] -= 1

    def _rate(self, name: str, what: str, per_s: float, at_once: float) -> RateLimit:
        return self._rates.setdefault((name, what), RateLimit(per_s, at_once))


class Guard:
    """An ASGI application around another one, which only sees requests that may be.

    Args:
        app: The pages.
        access: Who may what.
        secure: Whether browsers come by TLS: cookies then travel by it alone.
        proxied: Whether they come by a proxy.
        on_page: Called when somebody who may asks for a page, before it is made; must not wait.

    Attributes:
        refused: Requests and websockets that were refused.
        flooded: Websockets that were closed because too much came.
        crowded: Requests and websockets that were refused because one visitor wanted too many.
        gate: What connections come through, before there is anything to ask of them.
    """

    def __init__(
        self,
        app: Any,
        access: Access,
        secure: bool,
        proxied: bool = False,
        on_page: Callable[[], None] = lambda: None,
    ) -> None:
        self._on_page = on_page
        self._app, self._access, self._secure = app, access, secure
        self._guesses: dict[str, RateLimit] = {}
        self._crowd, self.gate = _Crowd(), Gate(proxied)
        self.refused = self.flooded = self.crowded = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        if why := self._access.refusal(scope):
            self.refused += 1
            await _refuse(scope, send, 403, html.escape(why))
        elif scope["path"] == "/enter":
            await self._enter(scope, receive, send)
        elif (visitor := self._access.visitor(scope)) is None:
            await _refuse(scope, send, 401, _ENTRY % "Who are you?", page=True)
        elif (
            scope["path"].startswith("/drive")
            and visitor.role < Role.DRIVE
            and scope["type"] == "websocket"
        ):
            self.refused += 1
            await _refuse(scope, send, 403, "this token does not let you drive")
        else:
            scope["visitor"] = visitor
            await self._pass(scope, receive, send, visitor.name)

    async def _pass(self, scope: Scope, receive: Receive, send: Send, name: str) -> None:
        """Let it through, unless its visitor wants too much."""
        if scope["type"] == "http":
            path = scope["path"]
            if self._crowd.takes_request(name, path):
                alone = path != STOP_PATH and not path.startswith(_FILES)
                if alone:
                    self._on_page()
                    await _one_by_one(self._crowd.page(name), self._app, scope, receive, send)
                else:
                    await self._app(scope, receive, send)
            else:
                self.crowded += 1
                await _refuse(
                    scope, send, 429, f"Too many requests of {html.escape(name)}: wait a little."
                )
            return
        with self._crowd.websocket(name, scope["path"]) as more:
            if more is not None:
                await self._app(scope, self._counted(receive, more), send)
            else:
                self.crowded += 1
                await _refuse(scope, send, 429, f"too many pages of {name} are open")

    def _counted(self, receive: Receive, more: RateLimit) -> Receive:
        """What a websocket brings, until it is too much; then fewer of them may follow."""
        limit = RateLimit(MESSAGES_PER_S, MESSAGES_AT_ONCE)

        async def counted() -> MutableMapping[str, Any]:
            event = await receive()
            if event["type"] == "websocket.receive" and not limit.take():
                self.flooded += 1
                more.charge(_SOCKETS_OF_FLOOD)
                return {
                    "type": "websocket.disconnect",
                    "code": REFUSED,
                    "reason": "too many messages",
                }
            return event

        return counted

    def _may_guess(self, scope: Scope) -> bool:
        """Whether one more wrong token of this address is answered as such."""
        address = str((scope.get("client") or ("",))[0])
        if address not in self._guesses and len(self._guesses) >= _PEERS:
            self._guesses.clear()
        limit = RateLimit(_GUESSES_PER_S, _GUESSES_AT_ONCE)
        return self._guesses.setdefault(address, limit).take()

    async def _enter(self, scope: Scope, receive: Receive, send: Send) -> None:
        """A token comes in the body of a form, or in a link that an administrator gave away."""
        if scope["type"] != "http":
            await _refuse(scope, send, 403, "")
            return
        text = scope.get("query_string", b"").decode("latin-1")
        if scope["method"] == "POST":
            text = (await _body(receive)).decode("latin-1")
        token = parse_qs(text).get("token", [""])[0]
        if not token:
            await _refuse(scope, send, 200, _ENTRY % "Who are you?", page=True)
            return
        if self._access.tokens.visitor(token) is None:
            self.refused += 1
            if not self._may_guess(scope):
                await _refuse(scope, send, 429, _ENTRY % "Too many attempts: wait a little.", page=True, last=True)  # fmt: skip
                return
            await _refuse(
                scope, send, 401, _ENTRY % "This token does not count (any more).", page=True
            )
            return
        cookie = f"{COOKIE}={token}; Path=/; HttpOnly; SameSite=Strict"
        if self._secure:
            cookie += "; Secure"
        headers = [(b"location", b"/"), (b"set-cookie", cookie.encode())]
        await send({"type": "http.response.start", "status": 303, "headers": headers})
        await send({"type": "http.response.body", "body": b""})


async def _body(receive: Receive, most: int = 4096) -> bytes:
    """The body of a small form; what is longer is cut."""
    body = b""
    while len(body) < most:
        event = await receive()
        body += event.get("body", b"")
        if event["type"] != "http.request" or not event.get("more_body"):
            break
    return body[:most]


async def _one_by_one(
    turn: asyncio.Lock, app: Any, scope: Scope, receive: Receive, send: Send
) -> None:
    """Let an application answer in its turn, which is over with the first that it sends."""
    await turn.acquire()
    is_mine = True

    def give_up() -> None:
        nonlocal is_mine
        if is_mine:
            is_mine = False
            turn.release()

    async def made(event: MutableMapping[str, Any]) -> None:
        give_up()
        await send(event)

    try:
        await app(scope, receive, made)
    finally:
        give_up()


async def _refuse(
    scope: Scope, send: Send, status: int, text: str, page: bool = False, last: bool = False
) -> None:
    """Say no; with ``last`` the connection ends, and coming back is counted by the gate."""
    if scope["type"] == "websocket":
        await send(
            {"type": "websocket.close", "code": REFUSED, "reason": text[:120] if not page else ""}
        )
        return
    headers = [*_HEADERS, (b"connection", b"close")] if last else _HEADERS
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": text.encode()})
