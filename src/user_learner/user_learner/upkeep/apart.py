"""Work on the files of a store in a process of its own, which leaves cores and disk to all others.

A thread of low priority would not do: while it holds the interpreter's lock and waits for a core, its whole process
waits with it. What is done here must stand a kill at any moment.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import pickle
import platform
import selectors
import signal
import subprocess
import sys
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

from user_core.errors import StoreError
from user_core.runtime.closing import Closing
from user_core.runtime.processes.parents import end_with_parent

P = ParamSpec("P")
T = TypeVar("T")

_NICENESS = 19
#: Number of ioprio_set(2), its argument for the calling process, and the class for what only takes a disk that is idle.
_IOPRIO_SET = {"x86_64": 251, "aarch64": 30, "riscv64": 30}
_IOPRIO_PROCESS, _IOPRIO_IDLE = 1, 3 << 13
_LOOK_PERIOD_S = 0.1


class Stopped(Exception):
    """The caller wanted no more of it."""


class Apart(Closing):
    """A process of low priority that calls functions; it starts with the first call, and dies with its parent.

    Use it from one thread, which has to live as long.

    Args:
        is_over: Asked ten times a second: whether what is being done is to be left, by killing it.
    """

    def __init__(self, is_over: Callable[[], bool] = lambda: False) -> None:
        self._is_over = is_over
        self._child: subprocess.Popen[bytes] | None = None

    def call(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """What a function of a module returns; whatever it raises is raised here.

        Raises:
            Stopped: It was to be left.
            StoreError: The process was killed.
        """
        if self._child is None:
            words = [sys.executable, "-m", __name__, str(os.getpid())]
            self._child = subprocess.Popen(
                words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=None
            )
        child = self._child
        if child.stdin is None or child.stdout is None:
            raise AssertionError("both ends are pipes")
        try:
            pickle.dump((function, args, kwargs), child.stdin)
            child.stdin.flush()
            self._wait(child)
            done, result = pickle.load(child.stdout)  # noqa: S301 - of our own process
        except (EOFError, BrokenPipeError, pickle.UnpicklingError) as error:
            self.close()
            raise StoreError(
                "upkeep of a store", got=f"its process ended with {child.returncode}",
                expected="a result", hint="It is tried again; was there too little memory?",
            ) from error  # fmt: skip
        if not done:
            raise result
        value: T = result
        return value

    def close(self) -> None:
        """End the process. Idempotent."""
        child, self._child = self._child, None
        if child is not None:
            child.kill()
            child.communicate()

    def _wait(self, child: subprocess.Popen[bytes]) -> None:
        with selectors.DefaultSelector() as selector:
            selector.register(child.stdout or 0, selectors.EVENT_READ)
            while not selector.select(_LOOK_PERIOD_S):
                if self._is_over():
                    self.close()
                    raise Stopped


def serve() -> None:
    """Of the process: call what is asked for, until nobody asks any more."""
    # Ctrl-C is for the parent, which ends this process
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _take_what_is_left()
    end_with_parent(signal.SIGKILL, int(sys.argv[1]))  # a successor must find nobody at work
    asked, answers = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints is no answer
    while True:
        try:
            function, args, kwargs = pickle.load(asked)  # noqa: S301 - of our own process
        except EOFError:
            return
        answer: tuple[bool, Any]
        try:
            answer = True, function(*args, **kwargs)
        except Exception as error:
            answer = False, error
        pickle.dump(answer, answers)
        answers.flush()


def _take_what_is_left() -> None:
    with contextlib.suppress(OSError):
        os.nice(_NICENESS)
    with contextlib.suppress(OSError, AttributeError):
        os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))  # it never hurries
    number = _IOPRIO_SET.get(platform.machine())
    if sys.platform == "linux" and number:
        ctypes.CDLL(None).syscall(number, _IOPRIO_PROCESS, 0, _IOPRIO_IDLE)


if __name__ == "__main__":
    serve()
