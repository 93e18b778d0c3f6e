"""What stands before every page: who comes, from where, and how much."""

from __future__ import annotations

import html
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any
from urllib.parse import parse_qs

from user_bringup.console.access import COOKIE, Access, RateLimit, Role

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
#: Messages of one websocket a second, and at once: a page sends 40 while it drives.
MESSAGES_PER_S, MESSAGES_AT_ONCE = 200.0, 400.0
#: Wrong tokens of all browsers together a second, and at once: guessing gets nowhere, and costs nothing.
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


class Guard:
    """An ASGI application around another one, which only sees requests that may be.

    Args:
        app: The pages.
        access: Who may what.
        secure: Whether browsers come by TLS: cookies then travel by it alone.

    Attributes:
        refused: Requests and websockets that were refused.
        flooded: Websockets that were closed because too much came.
    """

    def __init__(self, app: Any, access: Access, secure: bool) -> None:
        self._app, self._access, self._secure = app, access, secure
        self._guesses = RateLimit(_GUESSES_PER_S, _GUESSES_AT_ONCE)
        self.refused = self.flooded = 0

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
            await self._app(
                scope, self._counted(receive) if scope["type"] == "websocket" else receive, send
            )

    def _counted(self, receive: Receive) -> Receive:
        """What a websocket brings, until it is too much."""
        limit = RateLimit(MESSAGES_PER_S, MESSAGES_AT_ONCE)

        async def counted() -> MutableMapping[str, Any]:
            event = await receive()
            if event["type"] == "websocket.receive" and not limit.take():
                self.flooded += 1
                return {
                    "type": "websocket.disconnect",
                    "code": REFUSED,
                    "reason": "too many messages",
                }
            return event

        return counted

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
        if not self._guesses.take():
            await _refuse(scope, send, 429, _ENTRY % "Too many attempts: wait a little.", page=True)
            return
        if self._access.tokens.visitor(token) is None:
            self.refused += 1
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


async def _refuse(scope: Scope, send: Send, status: int, text: str, page: bool = False) -> None:
    if scope["type"] == "websocket":
        await send(
            {"type": "websocket.close", "code": REFUSED, "reason": text[:120] if not page else ""}
        )
        return
    await send({"type": "http.response.start", "status": status, "headers": _HEADERS})
    await send({"type": "http.response.body", "body": text.encode()})
