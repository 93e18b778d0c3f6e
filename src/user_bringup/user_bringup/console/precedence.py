"""How far the console gives way to what drives robots and learns, but not while a person drives through it."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from user_fleet.supervisor.niceness import set_session_niceness

#: A little more than the 5 of a learner: on a full machine the emergency stop must still come through.
NICENESS = 6


def give_way() -> None:
    """Let this process give way, now that it serves pages: its threads, and its session where that is its own.

    Before, it does not: on a full machine seconds of importing would become minutes without an emergency stop.
    """
    with suppress(OSError):
        for thread in map(int, os.listdir("/proc/self/task")):
            with suppress(OSError):  # that has ended
                before = os.getpriority(os.PRIO_PROCESS, thread)
                os.setpriority(os.PRIO_PROCESS, thread, max(before, NICENESS))
    if _leads():
        asyncio.run(set_session_niceness(os.getpid(), NICENESS))


class Precedence:
    """Takes the session out of those that give way while somebody drives or stops robots: that must not wait for a
    learner.

    The kernel shares out the processor between sessions first, and lets everybody set his own from 0 on. A console
    that a person started in a terminal shares the session of that; it is left alone. Where the kernel has no such
    groups (containers, often) the threads keep their niceness: an ordinary user may not lower that.
    """

    def __init__(self) -> None:
        self._drivers = 0
        self._setting: asyncio.Task[bool] | None = None

    @asynccontextmanager
    async def driving(self) -> AsyncIterator[None]:
        """Somebody drives or stops, while the block lasts."""
        self._count(1)
        try:
            yield
        finally:
            self._count(-1)

    def _count(self, more: int) -> None:
        self._drivers += more
        if not _leads():
            return
        if self._setting is not None:
            self._setting.cancel()  # it may still be trying what counts no more
        wanted = 0 if self._drivers else NICENESS
        # nobody waits for it: the kernel may have to be asked again
        self._setting = asyncio.create_task(set_session_niceness(os.getpid(), wanted))


def _leads() -> bool:
    return os.getsid(0) == os.getpid()
