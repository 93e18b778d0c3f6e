"""A process says that it has come up: an empty file beside its log, for whoever started it.

Until then it is being brought up, and its supervisor lets it go before what can wait.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

#: Names the file; without it nothing is written.
VARIABLE = "USER_CAME_UP_FILE"


def say() -> None:
    """This process works now. May be called again and again."""
    if name := os.environ.get(VARIABLE):
        with suppress(OSError):  # a full disk: then the supervisor waits for a while
            Path(name).touch()
