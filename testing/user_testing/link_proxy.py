"""A bad link without root: a proxy for TCP in user space, with delay, rate and cuts.

Poorer than :mod:`link_emulator`: it shapes bytes, not packets, so nothing is lost and nothing is
sent twice; a cut ends its connections and takes no new ones. Same methods as ``Link``.

By hand, a link of 20 Mbit/s and 80 ms between a robot's bridge and the router of `user up`::

    tools/run python -m user_testing.link_proxy 7458 7457 --rate 20 --delay 40
    user up remote_inference robot_router:=tcp/127.0.0.1:7458
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from typing import Any

from user_core.command_line import Parser
from user_testing.link_emulator import LinkQuality, Traffic

_CHUNK = 16 * 1024


class LinkProxy:
    """Takes connections on one port of 127.0.0.1 and carries them to another.

    Args:
        listen_port: Where clients connect to.
        target_port: Where the server listens.
        quality: Rate, delay and longest queue; loss is ignored.
    """

    def __init__(self, listen_port: int, target_port: int, quality: LinkQuality) -> None:
        self._listen_port, self._target_port, self.quality = listen_port, target_port, quality
        self._is_cut = False
        self._bytes = [0, 0]
        self._free_s = [0.0, 0.0]
        self._writers: set[asyncio.StreamWriter] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._server: Any = self._call(asyncio.start_server(self._serve, "127.0.0.1", listen_port))

    def __enter__(self) -> LinkProxy:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def cut(self) -> None:
        """End all connections and take no new ones."""
        self._is_cut = True
        self._call(self._drop())

    def restore(self) -> None:
        """Take connections again."""
        self._is_cut = False

    def traffic(self) -> tuple[Traffic, Traffic]:
        """What was carried: to the clients, from the clients."""
        return Traffic(self._bytes[1], 0, 0), Traffic(self._bytes[0], 0, 0)

    def close(self) -> None:
        """End it."""
        self._server.close()
        self._call(self._drop())
        self._call(self._cancel_all())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(60)

    def _call(self, task: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(task, self._loop).result(60)

    async def _drop(self) -> None:
        for writer in self._writers:
            writer.transport.abort()
        self._writers.clear()

    async def _cancel_all(self) -> None:
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._is_cut:
            writer.transport.abort()
            return
        try:
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._target_port)
        except OSError:
            writer.transport.abort()
            return
        ends = {writer, far_writer}
        self._writers |= ends
        await asyncio.gather(self._carry(0, reader, far_writer), self._carry(1, far_reader, writer))
        self._writers -= ends

    async def _carry(
        self, way: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        """Each chunk takes its turn on the link and arrives after the delay, in order."""
        under_way: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()
        delivering = asyncio.create_task(self._deliver(way, under_way, writer))
        with contextlib.suppress(OSError):
            while data := await reader.read(_CHUNK):
                now_s = time.monotonic()
                rate_s = len(data) * 8 / (self.quality.rate_mbit_s * 1e6)
                self._free_s[way] = max(self._free_s[way], now_s) + rate_s
                under_way.put_nowait((self._free_s[way] + self.quality.delay_ms / 1e3, data))
                queued_s = self._free_s[way] - now_s - self.quality.queue_ms / 1e3
                if queued_s > 0:  # the sender's own queue grows, as behind a full link
                    await asyncio.sleep(queued_s)
        under_way.put_nowait((0.0, b""))
        await delivering

    async def _deliver(
        self, way: int, under_way: asyncio.Queue[tuple[float, bytes]], writer: asyncio.StreamWriter
    ) -> None:
        with contextlib.suppress(OSError):
            while True:
                due_s, data = await under_way.get()
                if not data:
                    break
                await asyncio.sleep(max(0.0, due_s - time.monotonic()))
                self._bytes[way] += len(data)
                writer.write(data)
                await writer.drain()
        writer.close()


def main() -> None:
    """A link until Ctrl-C."""
    parser = Parser(description=main.__doc__)
    parser.add_argument("listen_port", type=int)
    parser.add_argument("target_port", type=int)
    parser.add_argument("--rate", type=float, default=20.0, help="Mbit/s")
    parser.add_argument("--delay", type=float, default=40.0, help="one way, milliseconds")
    given = parser.parse_args()
    quality = LinkQuality(given.rate, given.delay)
    with LinkProxy(given.listen_port, given.target_port, quality) as link:
        print("c: cut, r: restore, t: traffic, Ctrl-C: end")
        with contextlib.suppress(KeyboardInterrupt, EOFError):
            while True:
                word = input()
                if word == "c":
                    link.cut()
                elif word == "r":
                    link.restore()
                print(*link.traffic(), sep="\n")


if __name__ == "__main__":
    main()
