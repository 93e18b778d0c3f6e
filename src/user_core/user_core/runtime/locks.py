"""One process at a time: a lock that the kernel lets go of when its holder dies."""

from __future__ import annotations

import contextlib
import fcntl
import os
from pathlib import Path

from user_core.errors import StoreError


class FileLock:
    """Holds an exclusive lock on a file from construction to :meth:`release`.

    The lock belongs to the open file, so it ends with the process, however that ends, and keeps
    out a second holder in the same process, too. A program that the process starts does not
    inherit it. The file itself stays and holds the process id of its last owner, for people.

    Args:
        path: The file; it is made if it is not there.
        what: What the lock is for, for the error.
        hint: What a person can do who wants it while somebody else has it.

    Raises:
        StoreError: Somebody holds it; the message names the process id.
    """

    def __init__(self, path: Path, what: str = "", hint: str = "End that process") -> None:
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            owner = os.read(self._descriptor, 32).decode(errors="replace").strip()
            os.close(self._descriptor)
            if owner == str(os.getpid()):
                owner = f"{owner}, this one"
            raise StoreError(
                f"{what or path.parent} is in use",
                got=f"a lock held by process {owner or 'unknown'}",
                expected="one process at a time",
                hint=hint,
            ) from error
        # for people only: without room for it the lock holds all the same
        with contextlib.suppress(OSError):
            os.ftruncate(self._descriptor, 0)
            os.pwrite(self._descriptor, f"{os.getpid()}\n".encode(), 0)

    def release(self) -> None:
        """Let go. Idempotent."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
