"""A second process that takes over when the first has died.

Most of a restart of a Python process is imports: half a second for a small node, several for
one with torch, on a machine that has other work to do. A standby has that behind it. It is
started beside the process that runs, imports the modules which that one has imported, says so,
and waits; when it is told to, it becomes that process: same command line, environment, output.

Its standard input is a socket by which supervisor and standby tell each other, a line each:
:data:`GO`, become the process now, whatever is not imported yet; :data:`WAIT`, begin no further
import, others need the processor; :data:`GO_ON`; and from the standby :data:`READY`. So it waits
between two imports, and never with a lock of the middleware in its hands, as a signal could have it.

What is to be imported stands in a file, one module a line, which the running process writes
(:mod:`user_comm.run`), so that it holds a user's own plugins too.

This file is also the program of the standby: the interpreter of the process that it stands by
for runs it, so that it may import the standard library only. How far it gives way to others is
decided by the supervisor, which alone knows when that has to end.
"""

from __future__ import annotations

import gc
import importlib
import os
import runpy
import select
import sys
import traceback
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

#: Name (``/proc/PID/comm``) of a process that waits to become the one whose words it has.
STANDBY_NAME = "user-standby"
#: Environment variable that names the file with the modules.
MODULES_VARIABLE = "USER_MODULES_FILE"
GO, WAIT, GO_ON, READY = b"go\n", b"wait\n", b"go on\n", b"ready\n"


def standby_words(words: Sequence[str], modules: Path) -> tuple[str, ...] | None:
    """The command of a standby for a command; None where that is no Python script.

    Args:
        words: The command that it may take over.
        modules: File with the names of the modules to import.
    """
    try:
        with Path(words[0]).open("rb") as script:
            first = script.readline(512)
    except OSError:
        return None
    interpreter = first[2:].decode(errors="replace").strip()
    if not first.startswith(b"#!") or "python" not in interpreter.rpartition("/")[2]:
        return None
    if " " in interpreter or not Path(interpreter).is_absolute():
        return None
    return (interpreter, __file__, STANDBY_NAME, str(modules), *words)


def _stand_by(name: str, modules: Path, words: list[str]) -> None:
    """Import, wait, and become the program of ``words``."""
    # Not the folder of this file, which would lend its modules' names to everybody.
    sys.path[0] = os.path.dirname(words[0])
    _call_itself(name)
    orders = _Orders()
    with suppress(OSError):
        for module in modules.read_text(encoding="utf-8").split():
            if orders.may_go_on():
                break
            with suppress(
                Exception, SystemExit
            ):  # a module that cannot be imported here: then later
                importlib.import_module(module)
    if not orders.go and "user_comm.run" in sys.modules:
        try:  # a node: others get to know this process already
            sys.modules["user_comm.run"].stand_by(words)
        except Exception:  # it can do that later too
            traceback.print_exc()
    gc.collect()
    gc.freeze()  # what is there now stays: later collections need not look at it
    orders.ready()
    if not orders.wait_for_go():
        return
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    _call_itself(os.path.basename(words[0]))
    sys.argv = words
    runpy.run_path(words[0], run_name="__main__")


class _Orders:
    """What the supervisor has said on the standard input."""

    def __init__(self) -> None:
        self.go = self._paused = self._over = False
        self._text = b""

    def may_go_on(self) -> bool:
        """Return once nothing has to wait; whether there is nothing more to import, because it
        is to become the process, or is not needed any more."""
        while self._may_read(None if self._paused else 0.0):
            self._read()
        return self.go or self._over

    def ready(self) -> None:
        """Say that everything is imported."""
        with suppress(OSError):
            os.write(0, READY)

    def wait_for_go(self) -> bool:
        """Whether it is to become the process; false when the supervisor is gone."""
        while not (self.go or self._over):
            self._read()
        return self.go

    def _may_read(self, timeout_s: float | None) -> bool:
        return not (self.go or self._over) and bool(select.select([0], [], [], timeout_s)[0])

    def _read(self) -> None:
        data = b""
        with suppress(OSError):  # the supervisor is gone
            data = os.read(0, 64)
        self._over = not data
        *lines, self._text = (self._text + data).split(b"\n")
        for line in lines:
            self.go |= line == GO.strip()
            self._paused = line == WAIT.strip()


def _call_itself(name: str) -> None:
    with suppress(OSError):
        Path("/proc/self/comm").write_text(name[:15])


if __name__ == "__main__":
    _stand_by(sys.argv[1], Path(sys.argv[2]), sys.argv[3:])
