"""Numbers of policy versions, which go up for ever."""

from __future__ import annotations

from pathlib import Path

from user_core.errors import StoreError
from user_learner.training.files import write_atomically


class VersionCounter:
    """Counts in a file of its own, because a checkpoint may be older than the newest version.

    A number is durable before it is used, so that none is ever used twice, whatever is lost.

    Args:
        path: The file; made at the first number.

    Raises:
        StoreError: The file holds something else.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        text = path.read_text().strip() if path.exists() else "0"
        if not text.isascii() or not text.isdigit():
            raise StoreError(
                f"policy version counter {path}", got=text[:80], expected="a number",
                hint="Write a number above that of the newest published version into it",
            )  # fmt: skip
        self._last = int(text)

    @property
    def last(self) -> int:
        """The number given out last; 0 before the first."""
        return self._last

    def raise_to(self, number: int) -> None:
        """Make sure that the next number is above this one."""
        self._last = max(self._last, number)

    def take(self) -> int:
        """Give out the next number; durable when this returns. Raises OSError."""
        number = self._last + 1
        write_atomically(self._path, [f"{number}\n".encode()])
        self._last = number
        return number
