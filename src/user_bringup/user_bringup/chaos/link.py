"""The network between two hosts of one machine, which can be cut without anybody being told."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Coroutine
from types import TracebackType
from typing import Any

#: Name of the link where a process is expected: in plans and tables.
LINK = "link"
_CHUNK = 64 * 1024


class Link:
    """Carries TCP connections from a port of 127.0.0.1 to another address; needs no root.

    While it is cut, connections stay open and nothing moves over them, neither data nor their
    end, as where a cable is pulled: both sides find out by their own time-outs. New ones are
    taken (by the kernel, before us) and get no answer. What was under way arrives after the
    cut, as TCP sees to it.

    Args:
        host: Where to.
        port: Its port.
    """

    def __init__(self, host: str, port: int) -> None:
        self._target = host, port
        self._loop = asyncio.new_event_loop()
        self._open = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._thread = threading.Thread(target=self._loop.run_forever, name="link", daemon=True)
        self._carried = 0

    def __enter__(self) -> Link:
        self._thread.start()
        self._server = self._call(self._listen())
        self.port: int = self._server.sockets[0].getsockname()[1]
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._call(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5.0)
        self._loop.close()

    @property
    def is_cut(self) -> bool:
        """Whether nothing moves."""
        return not self._open.is_set()

    @property
    def carried(self) -> int:
        """Bytes that have crossed, both ways."""
        return self._carried

    def cut(self) -> None:
        """From now on nothing moves."""
        self._loop.call_soon_threadsafe(self._open.clear)

    def restore(self) -> None:
        """It moves again."""
        self._loop.call_soon_threadsafe(self._open.set)

    def _call(self, work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(10.0)

    async def _listen(self) -> asyncio.Server:
        self._open.set()
        return await asyncio.start_server(self._serve, "127.0.0.1", 0)

    async def _end(self) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            await self._open.wait()
            with contextlib.suppress(OSError):
                far_reader, far_writer = await asyncio.open_connection(*self._target)
                try:
                    await asyncio.gather(
                        self._carry(reader, far_writer), self._carry(far_reader, writer)
                    )
                finally:
                    far_writer.transport.abort()
        finally:
            writer.transport.abort()
            self._tasks.discard(task)

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One way, until its end, which the other side is told as well."""
        try:
            while data := await reader.read(_CHUNK):
                await self._open.wait()
                self._carried += len(data)
                writer.write(data)
                await writer.drain()
        finally:
            await self._open.wait()
            writer.close()
