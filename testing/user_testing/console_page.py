"""The live page of the console without a browser: it says and hears over the network what the page does, and draws
nothing.

As on another device, where what a browser computes costs this one nothing::

    python -m user_testing.console_page http://127.0.0.1:7460/ --seconds 20 [--token TOKEN]

It enters with the token, gets the page, opens both of its websockets, acknowledges updates as NiceGUI's script does
and images as ``cameras.js`` does, and prints what came and went, as JSON. At SIGUSR1 it shows no cameras any more, as
behind another page, and at SIGUSR2 it does again.
"""

from __future__ import annotations

import ast
import asyncio
import html
import json
import re
import signal
import struct
import time
import urllib.error
import urllib.request
import uuid
from dataclasses import asdict, dataclass, field
from typing import Any
from urllib.parse import urlencode, urlsplit

from websockets.asyncio.client import ClientConnection, connect

from user_core.command_line import Parser

#: NiceGUI's script acknowledges what came this often, and a browser draws this often.
_ACK_S, _FRAME_S = 3.0, 1 / 60


@dataclass
class Traffic:
    """What one websocket brought (messages, and their size in bytes without what the protocol adds) and took."""

    messages: int = 0
    size: int = 0
    said: int = 0

    def heard(self, data: str | bytes) -> None:
        """Count a message from the console."""
        self.messages += 1
        self.size += len(data.encode() if isinstance(data, str) else data)


@dataclass
class Seen:
    """What a page got.

    Attributes:
        seconds: How long it was counted.
        updates: The websocket of NiceGUI.
        cameras: That of the cameras.
        images: Images in it.
    """

    seconds: float = 0.0
    updates: Traffic = field(default_factory=Traffic)
    cameras: Traffic = field(default_factory=Traffic)
    images: int = 0


class LightPage:
    """One page.

    Args:
        url: Of the live page.
        token: Of who looks; empty where the console lets everybody in.

    Attributes:
        seen: What it got so far.
        is_accepted: Whether NiceGUI has taken it for the page that it served.
    """

    def __init__(self, url: str, token: str = "") -> None:
        self._url, self._place = url, urlsplit(url)
        self._cookie = self._enter(token) if token else ""
        self._topics: set[str] = set()
        self._is_hidden = False
        self._changed = asyncio.Event()
        self._next_id = 0
        self._acked = -1
        self.seen = Seen()
        self.is_accepted = False

    def hide(self, hidden: bool = True) -> None:
        """Show no cameras, or show them again. In the event loop."""
        self._is_hidden = hidden
        self._changed.set()

    async def look(self, seconds: float, patience_s: float = 60.0) -> Seen:
        """Look at the page, and count from its first images on."""
        text = await asyncio.to_thread(self._get)
        elements = re.search(r"parseElements\(String\.raw`(.*?)`\)", text, re.S)
        query = re.search(r"^\s*query: (\{.*\}),$", text, re.M)
        if elements is None or query is None:
            raise RuntimeError(f"{self._url} is no page of NiceGUI: {text[:200]}")
        for element in json.loads(html.unescape(elements[1])).values():
            self._note(element)
        options = ast.literal_eval(html.unescape(query[1]))  # written by Python
        jobs = [self._updates(options), self._cameras()]
        tasks = [asyncio.create_task(job) for job in jobs]
        try:
            end_s = time.monotonic() + patience_s
            while not self.seen.images:
                if time.monotonic() > end_s:
                    raise RuntimeError(f"no image came within {patience_s:g} s")
                done, _ = await asyncio.wait(tasks, timeout=0.1)
                for task in done:
                    task.result()
            self.seen, began_s = Seen(), time.monotonic()
            done, _ = await asyncio.wait(
                tasks, timeout=seconds, return_when=asyncio.FIRST_COMPLETED
            )
            for task in done:
                task.result()
            self.seen.seconds = time.monotonic() - began_s
            return self.seen
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def _enter(self, token: str) -> str:
        class Stay(urllib.request.HTTPRedirectHandler):
            def redirect_request(self, *_: Any) -> None:
                return None

        body = urlencode({"token": token}).encode()
        try:
            urllib.request.build_opener(Stay).open(f"{self._origin}/enter", body)
        except urllib.error.HTTPError as answer:
            if answer.code == 303:
                return str(answer.headers["set-cookie"]).partition(";")[0]
            raise
        raise RuntimeError("the token was not taken")

    @property
    def _origin(self) -> str:
        return f"{self._place.scheme}://{self._place.netloc}"

    def _headers(self) -> dict[str, str]:
        return {"Cookie": self._cookie} if self._cookie else {}

    def _get(self) -> str:
        request = urllib.request.Request(self._url, headers=self._headers())
        with urllib.request.urlopen(request, timeout=60) as answer:
            return str(answer.read().decode())

    def _connect(self, path: str) -> Any:
        scheme = "wss" if self._place.scheme == "https" else "ws"
        return connect(
            f"{scheme}://{self._place.netloc}{path}", origin=self._origin,  # type: ignore[arg-type]
            additional_headers=self._headers(), max_size=None,
        )  # fmt: skip

    def _note(self, element: Any) -> None:
        """Cameras that the page shows from now on."""
        topic = ((element or {}).get("props") or {}).get("data-topic")
        if topic and topic not in self._topics:
            self._topics.add(topic)
            self._changed.set()

    async def _updates(self, query: dict[str, Any]) -> None:
        """Socket.IO over Engine.IO 4, as NiceGUI uses it."""
        self._next_id = int(query["next_message_id"])
        query |= {
            "tab_id": str(uuid.uuid4()),
            "document_id": str(uuid.uuid4()),
            "old_tab_id": "null",
        }
        known = {n: "true" if v is True else "false" if v is False else v for n, v in query.items()}
        path = f"/_nicegui_ws/socket.io/?{urlencode({**known, 'EIO': 4, 'transport': 'websocket'})}"
        async with self._connect(path) as socket:
            acking = asyncio.create_task(self._acknowledge(socket, str(query["client_id"])))
            try:
                async for data in socket:
                    self.seen.updates.heard(data)
                    if data.startswith("0"):
                        await self._say(socket, "40")
                    elif data.startswith("40"):
                        self.is_accepted = True
                    elif data == "2":
                        await self._say(socket, "3")
                    elif data.startswith("42"):
                        self._take(*json.loads(data[2:]))
            finally:
                acking.cancel()
        raise RuntimeError("the console has closed the page's websocket")

    def _take(self, event: str, message: dict[str, Any]) -> None:
        self._next_id = max(self._next_id, int(message.pop("_id", -1)) + 1)
        if event == "update":
            for element in message.values():
                self._note(element)

    async def _acknowledge(self, socket: ClientConnection, client: str) -> None:
        while True:
            await asyncio.sleep(_ACK_S)
            if self._acked < self._next_id:
                self._acked = self._next_id
                said = ["ack", {"client_id": client, "next_message_id": self._next_id}]
                await self._say(socket, "42" + json.dumps(said))

    async def _say(self, socket: ClientConnection, text: str) -> None:
        self.seen.updates.said += 1
        await socket.send(text)

    async def _cameras(self) -> None:
        await self._changed.wait()
        async with self._connect("/cameras") as socket:
            showing = asyncio.create_task(self._show(socket))
            try:
                async for data in socket:
                    self.seen.cameras.heard(data)
                    (length,) = struct.unpack(">I", data[:4])
                    self.seen.images += len(json.loads(data[4 : 4 + length]))
                    await asyncio.sleep(_FRAME_S)
                    self.seen.cameras.said += 1
                    await socket.send('{"drawn":1}')
            finally:
                showing.cancel()
        raise RuntimeError("the console has closed the websocket of the cameras")

    async def _show(self, socket: ClientConnection) -> None:
        while True:
            await self._changed.wait()
            self._changed.clear()
            self.seen.cameras.said += 1
            shown = [] if self._is_hidden else sorted(self._topics)
            await socket.send(json.dumps({"show": shown}))


def main() -> None:
    """Look at a page, and print what came."""
    parser = Parser(description=main.__doc__)
    parser.add_argument("url")
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--token", default="")
    arguments = parser.parse_args()

    async def look() -> Seen:
        page, loop = LightPage(arguments.url, arguments.token), asyncio.get_running_loop()
        for number, hidden in ((signal.SIGUSR1, True), (signal.SIGUSR2, False)):
            loop.add_signal_handler(number, page.hide, hidden)
        return await page.look(arguments.seconds)

    print(json.dumps(asdict(asyncio.run(look()))))


if __name__ == "__main__":
    main()
