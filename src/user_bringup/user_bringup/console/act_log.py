"""Every act of a person at the console, with who and when, in a file that only grows."""

from __future__ import annotations

import json
import threading
import time
from collections import deque
from dataclasses import asdict, dataclass
from pathlib import Path

from user_core.runtime.files import state_home

_SHOWN = 200


@dataclass(frozen=True)
class Act:
    """What somebody did.

    Attributes:
        t: When, seconds since the epoch.
        who: The name of his token, or ``local``.
        what: For instance ``emergency stop``.
        whom: The robot or node that it was done to; empty for all.
        answer: What came of it.
        ok: Whether it was done.
    """

    t: float
    who: str
    what: str
    whom: str = ""
    answer: str = ""
    ok: bool = True


class ActLog:
    """Appends acts to a file, and remembers the last ones. Any thread.

    Args:
        file: JSON lines; None: nothing is written.
    """

    def __init__(self, file: Path | None) -> None:
        self._lock = threading.Lock()
        self.last: deque[Act] = deque(_read(file), maxlen=_SHOWN)
        self._file = file
        if file is not None:
            file.parent.mkdir(parents=True, exist_ok=True)

    def add(self, who: str, what: str, whom: str = "", answer: str = "", ok: bool = True) -> Act:
        """Write down one more. A disk that takes nothing stops no act."""
        act = Act(round(time.time(), 3), who, what, whom, answer, ok)
        with self._lock:
            self.last.append(act)
            if self._file is not None:
                try:
                    with self._file.open("a", encoding="utf-8") as stream:
                        stream.write(json.dumps(asdict(act)) + "\n")
                except OSError:
                    pass
        return act


def default_file() -> Path:
    """Where acts are written while no run folder is known."""
    return state_home() / "console_acts.jsonl"


def _read(file: Path | None) -> list[Act]:
    if file is None or not file.exists():
        return []
    found = []
    for line in file.read_text(encoding="utf-8", errors="replace").splitlines()[-_SHOWN:]:
        try:
            found.append(Act(**json.loads(line)))
        except (ValueError, TypeError):  # cut off by a crash
            continue
    return found
