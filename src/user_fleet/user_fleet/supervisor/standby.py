"""A second process that takes over when the first has died.

Most of a restart of a Python process is imports: half a second for a small node, several for
one with torch, on a machine that has other work to do. A standby has that behind it. It is
started beside the process that runs, imports the modules which that one has imported, and
waits; when it is told to (``go`` and a line's end on its standard input), it becomes that
process: same command line, environment, output.

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
import sys
import traceback
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

#: Name (``/proc/PID/comm``) of a process that waits to become the one whose words it has.
STANDBY_NAME = "user-standby"
#: Environment variable that names the file with the modules.
MODULES_VARIABLE = "USER_MODULES_FILE"
GO = b"go\n"


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
    with suppress(OSError):
        for module in modules.read_text(encoding="utf-8").split():
            with suppress(
                Exception, SystemExit
            ):  # a module that cannot be imported here: then later
                importlib.import_module(module)
    if "user_comm.run" in sys.modules:  # a node: others get to know this process already
        try:
            sys.modules["user_comm.run"].stand_by(words)
        except Exception:  # it can do that later too
            traceback.print_exc()
    gc.collect()
    gc.freeze()  # what is there now stays: later collections need not look at it
    if sys.stdin.buffer.readline() != GO:
        return
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    _call_itself(os.path.basename(words[0]))
    sys.argv = words
    runpy.run_path(words[0], run_name="__main__")


def _call_itself(name: str) -> None:
    with suppress(OSError):
        Path("/proc/self/comm").write_text(name[:15])


if __name__ == "__main__":
    _stand_by(sys.argv[1], Path(sys.argv[2]), sys.argv[3:])
