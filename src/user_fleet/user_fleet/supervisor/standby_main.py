"""Imports, waits, and then becomes another program; see :mod:`user_fleet.supervisor.standby`.

Run as a file by the interpreter of that program, so that it imports the standard library only
until it knows better. While it waits its name (``/proc/PID/comm``) is the one that it is given,
by which others tell it from the process that it stands by for.
"""

from __future__ import annotations

import gc
import importlib
import os
import runpy
import sys
import traceback
from contextlib import suppress
from pathlib import Path

_GO = b"go\n"
_LAST_NICENESS = 19


def _stand_by(name: str, modules: Path, niceness: int, words: list[str]) -> None:
    # Not the folder of this file, which would lend its modules' names to everybody.
    sys.path[0] = os.path.dirname(words[0])
    _call_itself(name)
    _be_nice(_LAST_NICENESS)
    with suppress(OSError):
        for module in modules.read_text(encoding="utf-8").split():
            with suppress(Exception):  # a module that cannot be imported here: then later
                importlib.import_module(module)
    if "user_comm.run" in sys.modules:  # a node: others get to know this process already
        try:
            sys.modules["user_comm.run"].stand_by(words)
        except Exception:  # it can do that later too
            traceback.print_exc()
    gc.collect()
    gc.freeze()  # what is there now stays: later collections need not look at it
    if sys.stdin.buffer.readline() != _GO:
        return
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    _be_nice(niceness)
    _call_itself(os.path.basename(words[0]))
    sys.argv = words
    runpy.run_path(words[0], run_name="__main__")


def _call_itself(name: str) -> None:
    with suppress(OSError):
        Path("/proc/self/comm").write_text(name[:15])


def _be_nice(value: int) -> None:
    """Give way to the processes that work; by session, which can be taken back."""
    with suppress(OSError):
        Path("/proc/self/autogroup").write_text(str(value))


if __name__ == "__main__":
    _stand_by(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), sys.argv[4:])
