"""SIGINT and SIGTERM as a call from a thread."""

from __future__ import annotations

import contextlib
import faulthandler
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Any

from user_core.runtime.processes.endings import time_to_end_s

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StopSignals:
    """While entered, calls ``on_stop`` with the signal's name on the first SIGINT or SIGTERM.

    An executor waits in C, where Python's own signal handlers never run. The interpreter's
    wakeup descriptor is written to all the same; a thread reads it. (Masking the signals and
    waiting for them would be simpler, but child processes inherit the mask.)

    Further signals are ignored: ``ros2 launch`` and a terminal both send SIGINT, and launch's may
    come while the interpreter is already ending. If the context is not left in time, all stacks
    are printed and the process ends with exit code 1.

    Outside the main thread, where Python allows no handlers, this does nothing.

    Args:
        on_stop: Called from a thread.
        timeout_s: How long the context may take to be left then; None: what :func:`time_to_end_s` says.
        final: The process ends after the context: once stopped, it ignores both signals for good. If
            it does not end in the same time after the context either (a thread, a library that is being
            unloaded), SIGALRM prints the stacks, if it still can, and ends it.
    """

    def __init__(
        self,
        on_stop: Callable[[str], None],
        timeout_s: float | None = None,
        *,
        final: bool = False,
    ) -> None:
        self._on_stop, self._final = on_stop, final
        self._timeout_s = time_to_end_s() if timeout_s is None else timeout_s
        self._stopped = False
        self._left = threading.Event()
        self._old: dict[signal.Signals, Any] = {}

    def __enter__(self) -> StopSignals:
        if threading.current_thread() is not threading.main_thread():
            return self
        self._reader, self._writer = socket.socketpair()
        self._writer.setblocking(False)
        self._old_fd = signal.set_wakeup_fd(self._writer.fileno(), warn_on_full_buffer=False)
        for number in _SIGNALS:
            self._old[number] = signal.signal(number, _noted)
        self._thread = threading.Thread(target=self._wait, name="stop signals", daemon=True)
        self._thread.start()
        return self

    def reassert(self) -> str:
        """Put our handlers back where somebody has replaced them, for instance the library of a
        device; also such that C code has set, of which Python does not know.

        In the main thread; elsewhere it does nothing.

        Returns:
            What had replaced them, for people; empty if nothing that Python knows of.
        """
        if not self._old or threading.current_thread() is not threading.main_thread():
            return ""
        found = ""
        for number in _SIGNALS:
            handler = signal.signal(number, _noted)
            if handler is not _noted:
                found = _name_of(handler)
        descriptor = self._writer.fileno()
        if signal.set_wakeup_fd(descriptor, warn_on_full_buffer=False) != descriptor:
            found = found or "a library"
        return found

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._left.set()
        if not self._old:
            return
        for number, handler in self._old.items():
            ignored = self._final and self._stopped
            signal.signal(number, signal.SIG_IGN if ignored else handler)
        if self._final and self._stopped:
            _end_in(self._timeout_s)
        signal.set_wakeup_fd(self._old_fd)
        with contextlib.suppress(OSError):
            self._writer.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._reader.close()
        self._writer.close()

    def _wait(self) -> None:
        while data := self._reader.recv(1):
            if data[0] in _SIGNALS:
                break
        else:
            return
        self._stopped = True
        self._on_stop(signal.Signals(data[0]).name)
        if not self._left.wait(self._timeout_s):
            print(f"no orderly end within {self._timeout_s:g} s; ending", file=sys.stderr)
            faulthandler.dump_traceback()
            os._exit(1)


def _end_in(timeout_s: float) -> None:
    """Let the kernel end this process, unless it has ended: nothing in it need work any more."""
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    with contextlib.suppress(RuntimeError, ValueError, OSError):  # no stderr
        faulthandler.register(signal.SIGALRM, all_threads=True, chain=True)
    signal.setitimer(signal.ITIMER_REAL, timeout_s)


def _name_of(handler: Any) -> str:
    module = getattr(handler, "__module__", "")
    name = getattr(handler, "__qualname__", repr(handler))
    return f"{module}.{name}" if module else name


def _noted(number: int, frame: Any) -> None:
    """The handler that keeps the default action from happening."""
