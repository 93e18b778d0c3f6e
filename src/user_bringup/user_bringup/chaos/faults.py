"""Doing a fault to a process, and undoing it."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
from pathlib import Path

from user_bringup.chaos.plan import FaultKind


def inflict(kind: FaultKind, pid: int) -> None:
    """Let it happen. Raises ProcessLookupError when the process is gone."""
    if kind == "kill":
        os.kill(pid, signal.SIGKILL)
    elif kind == "suspend":
        os.kill(pid, signal.SIGSTOP)
    elif kind == "memory":
        # What it has it keeps; what it asks for besides it does not get. With strict accounting
        # an allocation fails so; that the kernel kills whoever has most is a kill like another.
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[0])
        _, hard = resource.prlimit(pid, resource.RLIMIT_AS)
        resource.prlimit(pid, resource.RLIMIT_AS, (pages * resource.getpagesize(), hard))
    elif kind == "disk":
        # No file may grow beyond its first byte: every write fails, as on a full disk (with
        # EFBIG instead of ENOSPC; Python ignores the signal that comes with it).
        _, hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (1, hard))
    else:
        raise ValueError(f"{kind} is not a fault of a process")


def relieve(kind: FaultKind, pid: int) -> None:
    """Let it be over; nothing happens when the process is gone."""
    with contextlib.suppress(ProcessLookupError):
        if kind == "suspend":
            os.kill(pid, signal.SIGCONT)
        elif kind == "disk":
            _, hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)
            resource.prlimit(pid, resource.RLIMIT_FSIZE, (hard, hard))
        elif kind == "memory":
            _, hard = resource.prlimit(pid, resource.RLIMIT_AS)
            resource.prlimit(pid, resource.RLIMIT_AS, (hard, hard))
