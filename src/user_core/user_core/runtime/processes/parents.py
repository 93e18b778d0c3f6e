"""Processes that end with what started them, however that ends: SIGKILL leaves none of them behind either."""

from __future__ import annotations

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None  # here: before any fork


def end_with_parent(by: signal.Signals, parent: int | None = None) -> None:
    """Called in a child, also between fork and exec: the kernel sends it a signal when what started it is gone.

    That is the thread that started it. Other systems than Linux send nothing.

    Args:
        by: The signal.
        parent: The process that started it; where that is gone already, the child ends at once. None: nobody looks.
    """
    if _LIBC is not None:
        _LIBC.prctl(_PR_SET_PDEATHSIG, by, 0, 0, 0)
    if parent is not None and os.getppid() != parent:  # it died before we asked
        os._exit(1)
