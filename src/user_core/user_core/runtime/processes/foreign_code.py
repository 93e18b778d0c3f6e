"""Other people's code in a process of ours may end that process: by ``os._exit``, or by a crash in C.

Both end it without a word, ``os._exit(0)`` even as if all were well. So while such code runs, a call of
``os._exit`` is an error with its place, and what cannot be caught is at least told, by a small process
beside this one.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import threading
from collections.abc import Iterator
from typing import Any, NoReturn

#: Says its argument unless it is told in time that all went well.
_WITNESS = 'read -r well || printf "%s\\n" "$0" >&2'
_exit = os._exit
_lock = threading.Lock()
_guards = 0
_mine = threading.local()


class ExitCalled(SystemExit):
    """Code that is not ours called ``os._exit``; its code is the status that it gave."""

    def __str__(self) -> str:
        return f"os._exit({self.code}) was called"


@contextlib.contextmanager
def exits_are_errors() -> Iterator[None]:
    """Within, ``os._exit`` raises :class:`ExitCalled`.

    Only in this thread and this process: what other threads and forked processes mean by it is theirs.
    """
    global _guards
    before = getattr(_mine, "pid", 0)
    with _lock:
        _guards += 1
        os._exit = _called
    _mine.pid = os.getpid()
    try:
        yield
    finally:
        _mine.pid = before
        with _lock:
            _guards -= 1
            if not _guards:
                os._exit = _exit


def _called(status: int = 0) -> NoReturn:
    # A module may keep this function for later, by ``from os import _exit``.
    if getattr(_mine, "pid", 0) == os.getpid():
        raise ExitCalled(status)
    _exit(status)


@contextlib.contextmanager
def report_if_ended(text: str) -> Iterator[None]:
    """Within, ``text`` is written to standard error if this process ends, however it does.

    Leaving the block in any way, also by an exception, is no such end.
    """
    witness = _start_witness(text)
    try:
        yield
    finally:
        if witness is not None:  # one that gets no processor reads it later
            with contextlib.suppress(OSError, subprocess.TimeoutExpired):
                witness.communicate(b"\n", timeout=1.0)


def _start_witness(text: str) -> subprocess.Popen[Any] | None:
    """None where there is no shell, or no more processes: then nothing is told.

    In a session of its own: whoever started this process ends the rest of its group as soon as it has ended,
    and would end the witness before it spoke. It ends by itself.
    """
    words = ["/bin/sh", "-c", _WITNESS, text]
    try:
        return subprocess.Popen(words, stdin=subprocess.PIPE, start_new_session=True)
    except OSError:
        return None
