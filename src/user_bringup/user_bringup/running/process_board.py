"""The processes of a run, told in its folder by `user up`, which is asked there to start one anew.

The console is a process of its own, and `user up` no node: a file that one writes and the other reads is all that it
takes.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from user_core.errors import ConfigError
from user_core.runtime.files import write_atomically
from user_fleet.processes import is_alive, started_ticks

_FILE, _ASKED = "processes.json", "restart_asked"
_LOOK_S = 0.05


@dataclass(frozen=True)
class ProcessLine:
    """A process of a run.

    Attributes:
        name: In the deployment.
        state: Of :class:`~user_fleet.supervisor.supervisor.ChildState`, in words.
        trouble: What is the matter; empty when nothing is.
        restarts: How often it was started again.
        pid: Its number; 0 while there is none.
    """

    name: str
    state: str
    trouble: str = ""
    restarts: int = 0
    pid: int = 0

    @property
    def is_over(self) -> bool:
        """Whether it is not started again in this run."""
        return self.state in ("ended", "given up")


class ProcessBoard:
    """Both sides of it.

    Args:
        folder: Of the run.
    """

    def __init__(self, folder: Path) -> None:
        self._file, self._asked = folder / _FILE, folder / _ASKED
        self._told: Sequence[ProcessLine] = ()
        self._read: tuple[int, Mapping[str, Any]] = (0, {})

    # --- of `user up` ----------------------------------------------------------------------

    def tell(self, lines: Sequence[ProcessLine]) -> None:
        """Write them down, where something has changed. A disk that takes nothing stops no run."""
        if lines == self._told:
            return
        who = {"pid": os.getpid(), "began": started_ticks(os.getpid())}
        text = json.dumps({"up": who, "processes": [asdict(line) for line in lines]}, indent=1)
        with suppress(OSError):
            write_atomically(self._file, text + "\n", durable=False)
            self._told = lines

    def asked(self) -> list[str]:
        """Names of processes that somebody wants to be started anew; each is told once."""
        found = []
        with suppress(OSError):
            for file in sorted(self._asked.iterdir()):
                file.unlink()
                found.append(file.name)
        return found

    # --- of whoever looks ------------------------------------------------------------------

    def lines(self) -> tuple[ProcessLine, ...]:
        """The processes; none where `user up` does not run (any more), or on another machine."""
        try:
            stamp = self._file.stat().st_mtime_ns
            if stamp != self._read[0]:
                self._read = (stamp, json.loads(self._file.read_text(encoding="utf-8")))
            told = self._read[1]
            who = told["up"]
            if not is_alive(who["pid"]) or started_ticks(who["pid"]) != who["began"]:
                return ()
            return tuple(ProcessLine(**line) for line in told["processes"])
        except (OSError, ValueError, KeyError, TypeError):
            return ()

    def ask(self, name: str, patience_s: float = 5.0) -> None:
        """Ask for a process to be started anew, and wait until that was heard.

        Raises:
            ConfigError: There is no such process, it is over, or nobody hears.
        """
        known = {line.name: line for line in self.lines()}
        if name not in known:
            raise ConfigError(
                "process", got=name, expected=_names(known) or "`user up` to run here"
            )
        if known[name].is_over:
            raise ConfigError(
                f"process {name}", got=known[name].state, expected="one that runs",
                hint="It is over in this run: end `user up` and start it again.",
            )  # fmt: skip
        request = self._asked / name
        try:
            self._asked.mkdir(exist_ok=True)
            request.touch()
        except OSError as error:
            raise ConfigError(
                str(request), got=error.strerror, expected="a file that can be written"
            ) from error
        end_s = time.monotonic() + patience_s
        while request.exists():
            if time.monotonic() > end_s:
                request.unlink(missing_ok=True)
                raise ConfigError("`user up`", got="no answer", expected="one that runs")
            time.sleep(_LOOK_S)


def _names(known: Iterable[str]) -> str:
    return ", ".join(sorted(known))
