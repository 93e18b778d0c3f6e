"""How far the console gives way to what drives robots and learns, but not while a person drives through it."""

from __future__ import annotations

import asyncio
import math
import os
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from user_fleet.supervisor.niceness import set_session_niceness

#: A little more than the 5 of a learner: on a full machine the emergency stop must still come through.
NICENESS = 6
#: Of threads of the console whose work can wait.
_BACKGROUND = 15
#: A thread that waits for a core for this share of the time that it works finds the machine full; until it is less than
#: the second. On a machine with an idle core it is a few hundredths.
_WAITS, _WAITS_STILL, _WAIT_LOOK_S = 0.5, 0.15, 2.0
#: Who has said that he looks does so for this long.
_LOOKED_S = 5.0


def give_way() -> None:
    """Let the session of this process give way, where it is its own, now that it serves pages.

    Before, it does not: on a full machine seconds of importing would become minutes without an emergency stop. Its
    threads keep their niceness: an ordinary user could not lower it again, and a stop would wait for whoever learns.
    """
    if _leads():
        asyncio.run(set_session_niceness(os.getpid(), NICENESS))


def interrupt_nobody() -> None:
    """Let the calling thread, and those that it starts, take the processor from nobody who is at it: they get their
    share, but wait for it until the kernel's next tick, or until a core is free (``SCHED_BATCH``, sched(7)).

    A learner whose threads wait for each other loses, with each interruption, the time of all of them.
    """
    with suppress(OSError, AttributeError):
        os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))


def give_way_here() -> None:
    """Let the calling thread give way to the others of this process, too: what it does can wait."""
    interrupt_nobody()
    with suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _BACKGROUND)


class CoreWait:
    """Whether the machine is full, as one thread finds it: how long it waits for a core, by how long it works
    (``/proc/PID/task/TID/schedstat``, in two seconds' time). In that thread."""

    def __init__(self) -> None:
        self._file: Path | None = None
        self._before = (0, 0)
        self._next_s = 0.0
        self.is_long = False

    def look(self) -> bool:
        """Whether it waits long. Never where the kernel does not say so."""
        now_s = time.monotonic()
        if now_s < self._next_s:
            return self.is_long
        self._next_s = now_s + _WAIT_LOOK_S
        if self._file is None:
            self._file = Path(f"/proc/self/task/{threading.get_native_id()}/schedstat")
        try:
            worked_ns, waited_ns = (int(word) for word in self._file.read_text().split()[:2])
        except (OSError, ValueError):
            return False
        worked, waited = worked_ns - self._before[0], waited_ns - self._before[1]
        self._before = worked_ns, waited_ns
        self.is_long = waited > (_WAITS_STILL if self.is_long else _WAITS) * worked
        return self.is_long


class Precedence:
    """Takes the session out of those that give way while somebody drives, stops robots, or looks at those that run: he
    may want to stop them, and that must not wait for a learner. A page that shows them takes a few hundredths of
    a core either way.

    The kernel shares out the processor between sessions first, and lets everybody set his own from 0 on. A console
    that a person started in a terminal shares the session of that; it is left alone, as is all where the kernel has
    no such groups (containers, often).

    Any event loop; the first that asks does what all ask for.
    """

    def __init__(self) -> None:
        self._drivers, self._seen_s = 0, -math.inf
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._setting: asyncio.Task[bool] | None = None
        self._later: asyncio.TimerHandle | None = None

    @asynccontextmanager
    async def driving(self) -> AsyncIterator[None]:
        """Somebody drives or stops, while the block lasts."""
        self._count(1)
        try:
            yield
        finally:
            self._count(-1)

    def look(self) -> None:
        """Somebody looks at what runs; said again at least every two seconds while he does."""
        looked, self._seen_s = self._is_looked_at, time.monotonic()
        if not looked:
            self._set_soon()

    @property
    def _is_looked_at(self) -> bool:
        return time.monotonic() - self._seen_s < _LOOKED_S

    def _count(self, more: int) -> None:
        with self._lock:
            self._drivers += more
        self._set_soon()

    def _set_soon(self) -> None:
        here = asyncio.get_running_loop()
        with self._lock:
            if self._loop is None or self._loop.is_closed():
                self._loop = here
            loop = self._loop
        if loop is here:
            self._set()
        else:
            with suppress(RuntimeError):  # the server ends
                loop.call_soon_threadsafe(self._set)

    def _set(self) -> None:
        if not _leads():
            return
        if self._is_looked_at and self._later is None:
            self._later = asyncio.get_running_loop().call_later(_LOOKED_S, self._look_again)
        if self._setting is not None:
            self._setting.cancel()  # it may still be trying what counts no more
        wanted = 0 if self._drivers or self._is_looked_at else NICENESS
        # nobody waits for it: the kernel may have to be asked again
        self._setting = asyncio.create_task(set_session_niceness(os.getpid(), wanted))

    def _look_again(self) -> None:
        self._later = None
        left_s = self._seen_s + _LOOKED_S - time.monotonic()
        if left_s > 0:
            self._later = asyncio.get_running_loop().call_later(left_s, self._look_again)
        else:
            self._set()


def _leads() -> bool:
    return os.getsid(0) == os.getpid()
