"""What a process says when it ends, for whoever started it: a small file beside its log.

An exit code says little, and a plugin can end a process with any of them. So the supervisor names
a file in the environment, and a node of ours writes there why it ends. Where nothing was written,
the process did not end by our doing, whatever its exit code.
"""

from __future__ import annotations

import json
import os
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from user_core.reasons import NO_REASON, Reason
from user_core.runtime.files import write_atomically

#: Names the file; without it nothing is written.
VARIABLE = "USER_LAST_WORDS"
#: Exit code of a process that would fail again in the same way: it need not be started again.
FINAL_EXIT_CODE = 3


@dataclass(frozen=True)
class LastWords:
    """Why a process ended.

    Attributes:
        code: Code of the reason; empty where it ended in good order.
        text: The same for people.
        final: Whether another start would end in the same way.
    """

    code: str = ""
    text: str = ""
    final: bool = False

    @property
    def reason(self) -> Reason:
        """Code and text; false after an orderly end."""
        return Reason(self.code, self.text)


def say(reason: Reason = NO_REASON, *, final: bool = False) -> None:
    """Leave word of why this process ends; the last word counts."""
    if name := os.environ.get(VARIABLE):
        words = LastWords(reason.code, reason.text, final)
        with suppress(OSError):  # a full disk: then the exit code must do
            write_atomically(Path(name), json.dumps(asdict(words)) + "\n", durable=False)


def take(file: Path) -> LastWords | None:
    """Read and remove the last words; None where there are none."""
    try:
        words = LastWords(**json.loads(file.read_text(encoding="utf-8")))
        file.unlink()
    except (OSError, ValueError, TypeError):
        return None
    return words
