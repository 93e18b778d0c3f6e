"""Says what a process has imported, for one that stands by to take over from it."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

#: Set by the supervisor (:mod:`user_fleet.supervisor.standby`) where it wants to know.
_VARIABLE = "USER_MODULES_FILE"
#: When most has been imported, and when also what comes with the first data.
_AFTER_S: tuple[float, ...] = (4.0, 20.0)


def note_imported_modules(after_s: Sequence[float] = _AFTER_S) -> None:
    """Write the names of all imported modules to the file that the environment names, later.

    Names that were there before stay behind the new ones: a process that lived too short to
    import everything must not take them from the next.

    Args:
        after_s: When to do it, seconds from now.
    """
    if not (name := os.environ.get(_VARIABLE)):
        return
    for wait_s in after_s:
        timer = threading.Timer(wait_s, _write, (Path(name),))
        timer.daemon = True
        timer.start()


def _write(file: Path) -> None:
    names = [name for name in list(sys.modules) if name != "__main__"]
    with suppress(OSError):  # a full disk: then the standby imports less
        known = file.read_text(encoding="utf-8").split() if file.exists() else []
        if set(names) <= set(known):
            return
        names += [name for name in known if name not in sys.modules]
        temporary = file.with_suffix(".modules.new")
        temporary.write_text("\n".join(names) + "\n", encoding="utf-8")
        temporary.replace(file)
