"""The command of a standby: a second process that takes over when the first has died.

Most of a restart of a Python process is imports: half a second for a small node, several for
one with torch, on a machine that has other work to do. A standby has that behind it. It is
started beside the process that runs, imports the modules which that one has imported, and
waits; when it is told to (``go`` and a line's end on its standard input), it becomes that
process: same command line, environment, output (:mod:`user_fleet.supervisor.standby_main`).

What is to be imported stands in a file, one module a line, which the running process writes
(:mod:`user_comm.imported_modules`), so that it holds a user's own plugins too.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from user_fleet.processes import STANDBY_NAME

#: Environment variable that names the file with the modules.
MODULES_VARIABLE = "USER_MODULES_FILE"
GO = b"go\n"
_MAIN = Path(__file__).with_name("standby_main.py")


def standby_words(words: Sequence[str], modules: Path, niceness: int = 0) -> tuple[str, ...] | None:
    """The command of a standby for a command; None where that is no Python script.

    Args:
        words: The command that it may take over.
        modules: File with the names of the modules to import.
        niceness: What it gets when it does; until then it gives way to everybody.
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
    return (interpreter, str(_MAIN), STANDBY_NAME, str(modules), str(niceness), *words)
