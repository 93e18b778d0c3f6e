"""What the manager must not forget when it dies."""

from __future__ import annotations

import json
from enum import Enum
from pathlib import Path

from user_core.errors import StoreError
from user_core.runtime.files import write_atomically


class Mode(Enum):
    """What is wanted of all nodes."""

    RUN = "run"
    PAUSED = "paused"
    SHUT_DOWN = "shut down"


class Memory:
    """Mode, and the nodes that somebody has taken in hand, in a small file.

    A manager that comes back must not start robots that a person has paused.

    Args:
        file: The file; None to keep nothing.
        first: The mode before anybody has wanted one.

    Attributes:
        was_set: Whether somebody has wanted a mode.
    """

    def __init__(self, file: Path | None = None, first: Mode = Mode.RUN) -> None:
        self._file = file
        self.mode, self.held = first, frozenset[str]()
        self.was_set = first is Mode.RUN
        if file is None or not file.exists():
            return
        try:
            data = json.loads(file.read_text(encoding="utf-8"))
            self.mode, self.held = Mode(data["mode"]), frozenset(data["held"])
            self.was_set = True
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise StoreError(
                f"memory of the lifecycle manager {file}", got=str(error),
                expected='{"mode": "run", "held": []}', hint="Correct it, or remove it",
            ) from error  # fmt: skip

    def keep(self, mode: Mode, held: frozenset[str]) -> None:
        """Remember, durably. Raises OSError."""
        if (mode, held) == (self.mode, self.held):
            return
        self.mode, self.held, self.was_set = mode, held, True
        if self._file is None:
            return
        self._file.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(self._file, json.dumps({"mode": mode.value, "held": sorted(held)}))
