"""What may hang at the end of a process is given a time limit, and comes last.

A call in C that never returns, and holds the interpreter's lock meanwhile, stops all of Python: no thread, no handler
of a signal, no ``os._exit`` runs any more. FastDDS 3.2 has such an end: a thread that takes another's writer away holds
the lock of discovery, and waits for the thread of timers, which waits for that lock; who destroys a publisher then
waits for both, for ever.

So what destroys such things does it by :func:`end_last`: at once under a limit, or, in a program that has
:func:`last_acts`, when all else is done and its exit status is known. What ends the process needs nothing of Python: a
timer of the kernel calls ``_exit`` in a new thread.

Taking the interpreter down is one more such act. A thread that is still at work in C++ then ends the process by SIGABRT
("terminate called without an active exception"): before Python 3.14 the interpreter unwinds such a thread when it comes
back, through destructors that may not be left so (pybind11's, in every call of torch). And the last look for garbage
was seen not to return within 8 s, in nodes that had done all else. So :func:`leave` takes no interpreter down.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import faulthandler
import logging
import math
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import NoReturn

from user_core.errors import in_words

#: How long an end may take, seconds. It takes milliseconds; this is for busy hosts.
LIMIT_S = 20.0
#: Environment variable: after how many seconds this process is killed by who asked it to end.
PATIENCE_VARIABLE = "USER_STOP_TIMEOUT_S"
#: That of supervisors that do not say it; an orderly end may take this part of it, and then threads and exit handlers
#: that part, so that it can still be said what hung.
_PATIENCE_S, _PART, _LEAVE_PART = 10.0, 0.8, 0.14
#: Between the stacks, which say where it hung, and the end.
_STACKS_S = 0.5
_SIGEV_THREAD, _CLOCK_MONOTONIC = 2, 1
_log = logging.getLogger(__name__)


class _Event(ctypes.Structure):
    """``struct sigevent`` of Linux, for a function that is called in a new thread."""

    _fields_ = (
        ("value", ctypes.c_void_p),
        ("signal", ctypes.c_int),
        ("kind", ctypes.c_int),
        ("function", ctypes.c_void_p),
        ("attributes", ctypes.c_void_p),
        ("rest", ctypes.c_char * 64),
    )


class _Setting(ctypes.Structure):
    """``struct itimerspec``: seconds and nanoseconds of the period, and of the first time."""

    _fields_ = tuple((name, ctypes.c_long) for name in ("every_s", "every_ns", "at_s", "at_ns"))


class _ExitTimer:
    """Calls ``_exit(status)`` after a while, in a thread that knows nothing of Python.

    Raises:
        OSError: The system has no such timers.
    """

    def __init__(self, after_s: float, status: int) -> None:
        self._library, function = _timers()
        event = _Event(value=status, kind=_SIGEV_THREAD, function=function)
        self._timer = ctypes.c_void_p()
        if self._library.timer_create(
            _CLOCK_MONOTONIC, ctypes.byref(event), ctypes.byref(self._timer)
        ):
            raise OSError(ctypes.get_errno(), "timer_create")
        whole_s = int(after_s)
        setting = _Setting(at_s=whole_s, at_ns=int((after_s - whole_s) * 1e9))
        if self._library.timer_settime(self._timer, 0, ctypes.byref(setting), None):
            raise OSError(ctypes.get_errno(), "timer_settime")

    def cancel(self) -> None:
        """Call nothing."""
        self._library.timer_delete(self._timer)


def _timers() -> tuple[ctypes.CDLL, int]:
    """The library that has timers, and the address of ``_exit``."""
    if not sys.platform.startswith("linux"):
        raise OSError(0, "no timers that start threads")
    for name in (None, "librt.so.1"):  # glibc before 2.34 has them apart
        library = ctypes.CDLL(name, use_errno=True)
        if hasattr(library, "timer_create"):
            break
    else:
        raise OSError(0, "no timer_create")
    library.timer_delete.argtypes = [ctypes.c_void_p]
    library.timer_settime.argtypes = [ctypes.c_void_p, ctypes.c_int, *2 * [ctypes.c_void_p]]
    address = ctypes.cast(ctypes.CDLL(None)._exit, ctypes.c_void_p).value
    assert address is not None
    return library, address


@contextlib.contextmanager
def limited(status: int = 1, limit_s: float = LIMIT_S) -> Iterator[None]:
    """End this process, with this exit status, unless the block is left in time.

    Then the stacks of all threads go to standard error. No other block, ``finally`` or exit handler runs: what this
    process knows must have been said and stored before. Where the system has no timers that start threads (other than
    Linux), the exit status is 1.

    Args:
        status: Exit status, 0 to 255.
        limit_s: How long the block may take, seconds.
    """
    _flush()
    timer = None
    with contextlib.suppress(OSError):
        timer = _ExitTimer(limit_s + _STACKS_S, status)
    with contextlib.suppress(Exception):  # standard error may be no file
        faulthandler.dump_traceback_later(limit_s, exit=timer is None)
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()
        if timer is not None:
            timer.cancel()


def _flush() -> None:
    """What was printed is seen."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):  # none, or closed
            stream.flush()


def time_to_end_s() -> float:
    """How long an orderly end of this process may take, seconds: less than its supervisor waits before it kills."""
    return _PART * _patience_s()


def _patience_s() -> float:
    try:
        patience_s = float(os.environ.get(PATIENCE_VARIABLE, _PATIENCE_S))
    except ValueError:
        return _PATIENCE_S
    return patience_s if 0.0 < patience_s < math.inf else _PATIENCE_S


def leave(status: int) -> NoReturn:
    """End this process with this exit status, in place of ``sys.exit``: the last that the main function of a node does.

    As ``sys.exit`` does, it waits for threads that are no daemons, and runs exit handlers, under a limit. A thread that
    does not end in time may have had something to store: then the status is never 0.

    Args:
        status: Exit status, 0 to 255.
    """
    limit_s, begun_s = _LEAVE_PART * _patience_s(), time.monotonic()
    with limited(status or 1, limit_s):
        threading._shutdown()  # type: ignore[attr-defined]
    with limited(status, max(0.1, limit_s - (time.monotonic() - begun_s))):
        atexit._run_exitfuncs()
        _flush()
        os._exit(status)


class LastActs:
    """What a program does when all else is done.

    Attributes:
        status: Its exit status, once it is known.
    """

    def __init__(self) -> None:
        self.status = 1
        self._acts: list[Callable[[], object]] = []
        self._lock = threading.Lock()
        self._are_due = False

    def add(self, act: Callable[[], object]) -> bool:
        """Do this at the end; False where that has come."""
        with self._lock:
            if not self._are_due:
                self._acts.append(act)
            return not self._are_due

    def do(self, limit_s: float = LIMIT_S) -> None:
        """Do everything that was added, in its order, under one limit. What fails is logged."""
        with self._lock:
            self._are_due = True
        if not self._acts:
            return
        with limited(self.status, limit_s):
            for act in self._acts:
                _do(act)


_of_this: LastActs | None = None


@contextlib.contextmanager
def last_acts(limit_s: float = LIMIT_S) -> Iterator[LastActs]:
    """The main function of a program that is one command: what :func:`end_last` is given within ends after the block.

    Set ``status`` before the block is left. A block within another adds to the outer one.

    Args:
        limit_s: How long the end may take, seconds.
    """
    global _of_this
    if _of_this is not None:
        yield _of_this
        return
    acts = _of_this = LastActs()
    process = os.getpid()
    try:
        yield acts
    except SystemExit as error:
        acts.status = _status_of(error)
        raise
    finally:
        _of_this = None
        if os.getpid() == process:  # not in a fork that left the block by an exception
            acts.do(limit_s)


def end_last(end: Callable[[], object]) -> None:
    """End something that may hang: at the end of a program that has :func:`last_acts`, else at once, under a limit."""
    if _of_this is None or not _of_this.add(end):
        with limited():
            end()


def _do(act: Callable[[], object]) -> None:
    try:
        act()
    except Exception as error:  # the others must still end
        _log.warning("at the end: %s", in_words(error))


def _status_of(error: SystemExit) -> int:
    if error.code is None:
        return 0
    return error.code & 0xFF if isinstance(error.code, int) else 1
