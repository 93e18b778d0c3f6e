"""Asks the operating system to run threads with deadlines in time.

A thread that sleeps until its deadline is woken on the core where it slept. Where another busy
thread has that core, Linux lets it finish its slice first: up to 4 ms, also while another core
is idle. A thread that asks for short slices takes the core at once, and gives it back sooner;
its share of the processor stays the same (EEVDF, Linux 6.12 and newer). That needs no privilege.
Elsewhere the calls do nothing.
"""

from __future__ import annotations

import contextlib
import ctypes
import logging
import os
import platform
import sys
from collections.abc import Iterator
from pathlib import Path

_log = logging.getLogger(__name__)
#: Threads of a process hand over the interpreter at least this often, seconds. Each call that lets
#: go of it, as most of numpy's do, may have to wait so long to get it back.
_SWITCH_INTERVAL_S = 0.0001
#: The shortest that Linux gives.
_SLICE_NS = 100_000
#: Of a thread with deadlines, where that is allowed: it outweighs ordinary load nine to one, and
#: unlike a real-time class it cannot keep others from a core if it should never sleep.
_URGENT_NICE = -10
_RESET_ON_FORK, _PR_SET_TIMERSLACK, _PR_GET_TIMERSLACK = 1, 29, 30
#: How the names of the middleware's threads begin (Fast DDS).
_MIDDLEWARE = "dds."
#: Numbers of sched_setattr(2) and sched_getattr(2).
_CALLS = {"x86_64": (314, 315), "aarch64": (274, 275), "riscv64": (274, 275)}


class _Attributes(ctypes.Structure):
    """``struct sched_attr``; of threads with ordinary scheduling, ``runtime_ns`` is the slice."""

    _fields_ = (
        ("size", ctypes.c_uint32),
        ("policy", ctypes.c_uint32),
        ("flags", ctypes.c_uint64),
        ("nice", ctypes.c_int32),
        ("priority", ctypes.c_uint32),
        ("runtime_ns", ctypes.c_uint64),
        ("deadline_ns", ctypes.c_uint64),
        ("period_ns", ctypes.c_uint64),
    )


def cores() -> int:
    """How many cores this process may use: those of the host, or those that it was confined to."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def let_threads_of_torch_sleep() -> None:
    """Have threads of one operation (OpenMP's) wait for each other asleep; for this process, before it
    imports torch, and for those that it starts. Whoever has set OMP_WAIT_POLICY keeps it.

    By default they wait in busy loops. Beside other processes one of them may wait for a core that
    another one's loop has: training on two threads took 4 to 10 times as long.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def make_process_prompt() -> None:
    """For the process of a node with deadlines: all its threads, and those that they will start.

    So whoever has the interpreter is not kept from the core by other processes, while the
    thread whose deadline has come waits for it. Processes that are started inherit it, too.
    """
    sys.setswitchinterval(_SWITCH_INTERVAL_S)
    if not _can_ask():
        return
    with contextlib.suppress(OSError):
        for thread in map(int, os.listdir("/proc/self/task")):
            attributes = _attributes_of(thread)
            if attributes is not None:
                attributes.runtime_ns = _SLICE_NS
                _ask(attributes, thread)


@contextlib.contextmanager
def urgent_thread() -> Iterator[None]:
    """While the calling thread has deadlines: it takes precedence, and what it starts does not.

    Precedence is given where the process may ask for it (``CAP_SYS_NICE``, or ``RLIMIT_NICE`` of
    30 or more). Its timers are not rounded, which saves 0.05 ms, in any case.
    """
    if not _can_ask():
        yield
        return
    libc, before, wanted = ctypes.CDLL(None), _attributes_of(), _attributes_of()
    raised = False
    if before is not None and wanted is not None and wanted.nice > _URGENT_NICE:
        wanted.nice = _URGENT_NICE
        wanted.flags |= _RESET_ON_FORK
        raised = _ask(wanted)
    slack_ns = libc.prctl(_PR_GET_TIMERSLACK, 0, 0, 0, 0)
    libc.prctl(_PR_SET_TIMERSLACK, 1, 0, 0, 0)
    try:
        yield
    finally:
        libc.prctl(_PR_SET_TIMERSLACK, max(1, slack_ns), 0, 0, 0)
        if raised and before is not None and not _ask(before):
            before.flags |= _RESET_ON_FORK  # which only the privileged may take back
            _ask(before)


def hurry_middleware() -> int:
    """Let the threads that carry this process's messages take precedence; how many could.

    A thread with deadlines waits for messages, and a message passes the middleware's threads
    first: at ordinary precedence they are some of many that want a core, and what waits for them
    with precedence waits all the same. Call it once the node is there. Precedence is given where
    the process may ask for it, see :func:`urgent_thread`; it lasts as long as the threads.
    """
    raised = 0
    if not _can_ask():
        return raised
    for name in Path("/proc/self/task").glob("*/comm"):
        with contextlib.suppress(OSError):  # a thread that has ended
            if not name.read_text().startswith(_MIDDLEWARE):
                continue
            thread = int(name.parent.name)
            wanted = _attributes_of(thread)
            if wanted is not None and wanted.nice > _URGENT_NICE:
                wanted.nice = _URGENT_NICE
                raised += _ask(wanted, thread)
    return raised


def _can_ask() -> bool:
    return sys.platform == "linux" and platform.machine() in _CALLS


def _attributes_of(thread: int = 0) -> _Attributes | None:
    """Those of a thread, 0 for the calling one.

    None where it is gone, or has a class that somebody chose for it.
    """
    found, size = _Attributes(), ctypes.sizeof(_Attributes)
    get = _CALLS[platform.machine()][1]
    if ctypes.CDLL(None).syscall(get, thread, ctypes.byref(found), size, 0):
        return None
    found.size = size
    return found if found.policy == os.SCHED_OTHER else None


def _ask(attributes: _Attributes, thread: int = 0) -> bool:
    """Ask for these; whether the system agreed."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.syscall(_CALLS[platform.machine()][0], thread, ctypes.byref(attributes), 0):
        _log.debug("scheduling of a thread: %s", os.strerror(ctypes.get_errno()))
        return False
    return True
