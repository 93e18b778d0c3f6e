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
    """

    def __init__(self, file: Path | None = None) -> None:
        self._file = file
        self.mode, self.held = Mode.RUN, frozenset[str]()
        if file is None or not file.exists():
            return
        try:
            data = json.loads(file.read_text(encoding="utf-8"))
            self.mode, self.held = Mode(data["mode"]), frozenset(data["held"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise StoreError(
                f"memory of the lifecycle manager {file}", got=str(error),
                expected='{"mode": "run", "held": []}', hint="Correct it, or remove it",
            ) from error  # fmt: skip

    def keep(self, mode: Mode, held: frozenset[str]) -> None:
        """Remember, durably. Raises OSError."""
        if (mode, held) == (self.mode, self.held):
            return
        self.mode, self.held = mode, held
        if self._file is None:
            return
        self._file.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(self._file, json.dumps({"mode": mode.value, "held": sorted(held)}))
