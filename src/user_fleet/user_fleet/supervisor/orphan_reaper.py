"""Outlives a supervisor that was killed, and ends what it has left behind.

A child asks the kernel for SIGTERM when the supervisor dies; what the child has started does
not know of that, and a child that hangs does not heed it. So a small process of its own hears
of every process group (``+ID`` when it begins, ``-ID`` when it has ended, one a line on its
standard input). When the input ends, the supervisor is dead: all groups that are left get
SIGTERM, and SIGKILL when the time is over.

Run as a file by a bare interpreter, so that it costs next to nothing: it imports the standard
library only.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress

_POLL_S = 0.05


class OrphanReaper:
    """Starts the process that outlives a supervisor, and tells it of process groups.

    Where it cannot be started, everything else works.

    Args:
        grace_s: Time between SIGTERM and SIGKILL.
    """

    def __init__(self, grace_s: float) -> None:
        self._command = [sys.executable, "-S", "-I", __file__, f"{grace_s:g}"]
        self._groups: set[int] = set()
        self._process: subprocess.Popen[bytes] | None = None

    def begin(self, group: int) -> None:
        """A process group has been started."""
        self._groups.add(group)
        if self._process is None or self._process.poll() is not None:
            self._start()  # also one that was killed itself
        else:
            self._write(f"+{group}\n")

    def end(self, group: int) -> None:
        """A process group has ended."""
        self._groups.discard(group)
        self._write(f"-{group}\n")

    def close(self) -> None:
        """The supervisor has ended in good order."""
        process, self._process = self._process, None
        if process is not None and process.stdin is not None:
            with suppress(OSError):
                process.stdin.close()
            with suppress(subprocess.TimeoutExpired):
                process.wait(5.0)

    def _start(self) -> None:
        try:
            self._process = subprocess.Popen(
                self._command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL, start_new_session=True,
            )  # fmt: skip
        except OSError:
            self._process = None
            return
        self._write("".join(f"+{group}\n" for group in self._groups))

    def _write(self, text: str) -> None:
        if self._process is not None and self._process.stdin is not None:
            with suppress(OSError):
                self._process.stdin.write(text.encode())
                self._process.stdin.flush()


def _exists(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _signal_all(groups: set[int], number: int) -> None:
    for group in groups:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(group, number)


def _watch(grace_s: float) -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    groups: set[int] = set()
    for line in sys.stdin:
        group = int(line[1:])
        if line[0] == "+":
            groups.add(group)
        else:
            groups.discard(group)
    _signal_all(groups, signal.SIGTERM)
    end_s = time.monotonic() + grace_s
    while groups and time.monotonic() < end_s:
        groups = {group for group in groups if _exists(group)}
        time.sleep(_POLL_S)
    _signal_all(groups, signal.SIGKILL)


if __name__ == "__main__":
    _watch(float(sys.argv[1]))
