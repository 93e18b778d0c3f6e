"""An event loop of its own for what may take long, beside the one in which robots are driven and stopped."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Collection
from typing import Any, TypeVar

from user_bringup.console.guard import Receive, Scope, Send
from user_bringup.console.precedence import interrupt_nobody

_T = TypeVar("_T")
_END_S = 2.0


class BesideUrgent:
    """An ASGI application of two: what is urgent is answered in the server's event loop, and all else in a loop and a
    thread of its own, which interrupts nobody. Making a page takes some hundredths of a second, on a full machine
    tenths; a stop, and what a driver says, wait for none of it.

    Args:
        urgent: The application that answers in the loop of the server.
        paths: Of what it answers.
        others: That of all else; startup and end (ASGI lifespan) are its own.
    """

    def __init__(self, urgent: Any, paths: Collection[str], others: Any) -> None:
        self._urgent, self._paths, self._others = urgent, paths, others
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="console pages", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End the loop of the others, once the server has ended."""
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(_END_S)

    def _run(self) -> None:
        interrupt_nobody()
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_forever()
        finally:
            for task in asyncio.all_tasks(self._loop):
                task.cancel()
            self._loop.run_until_complete(asyncio.sleep(0))
            self._loop.close()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "lifespan" and scope["path"] in self._paths:
            await self._urgent(scope, receive, send)
            return
        here = asyncio.get_running_loop()

        async def receive_here() -> Any:
            return await _elsewhere(receive(), here)

        async def send_here(event: Any) -> None:
            await _elsewhere(send(event), here)

        await _elsewhere(self._others(scope, receive_here, send_here), self._loop)


async def _elsewhere(work: Awaitable[_T], loop: asyncio.AbstractEventLoop) -> _T:
    """Wait for what another event loop does; it is cancelled with who waits."""
    return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(_done(work), loop))


async def _done(work: Awaitable[_T]) -> _T:
    return await work
