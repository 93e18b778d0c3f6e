"""Numbers of which each is taken by one process at a time: a lock file for each, on this machine.

A lock ends with its process, however that ends, so nothing has to be tidied up.
"""

from __future__ import annotations

import fcntl
import os
import random
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path

_FOLDER = Path(tempfile.gettempdir()) / "user_testing"


class Claim:
    """A number that is ours until :meth:`release`, or until this process ends.

    ``with claim(...) as number:`` releases it behind the block.
    """

    def __init__(self, number: int, lock: int) -> None:
        self.number, self._lock = number, lock

    def release(self) -> None:
        """Give it back; idempotent."""
        lock, self._lock = self._lock, -1
        if lock >= 0:
            os.close(lock)

    def __enter__(self) -> int:
        return self.number

    def __exit__(self, *_: object) -> None:
        self.release()


def claim(
    kind: str, numbers: Iterable[int], is_free: Callable[[int], bool] = lambda number: True
) -> Claim:
    """Take one of some numbers.

    Args:
        kind: What they number.
        numbers: Which there are; one is taken at random.
        is_free: Whether somebody who knows nothing of these locks uses a number.

    Raises:
        RuntimeError: All are taken.
    """
    choice = list(numbers)
    random.SystemRandom().shuffle(choice)
    for number in choice:
        lock = _lock(f"{kind}_{number}")
        if lock is None:
            continue
        if is_free(number):
            return Claim(number, lock)
        os.close(lock)
    raise RuntimeError(f"every {kind} of {len(choice)} is taken by other tests on this machine")


def _lock(name: str) -> int | None:
    """An open file that we alone hold; None where another process does."""
    if not _FOLDER.exists():
        _FOLDER.mkdir(exist_ok=True)
        _FOLDER.chmod(0o777)  # tests of several users share the numbers
    path = _FOLDER / name
    try:
        # Not O_CREAT at once: Linux refuses that for another user's file in a shared folder.
        file = os.open(path, os.O_RDWR) if path.exists() else os.open(path, os.O_RDWR | os.O_CREAT)
    except PermissionError:
        return None
    try:
        if os.fstat(file).st_uid == os.geteuid():
            os.fchmod(file, 0o666)
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(file)
        return None
    return file
