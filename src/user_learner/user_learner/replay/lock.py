"""The writer's lock: one writer per store; a lock that dies with its process."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from threading import Lock
from typing import ClassVar

from user_core.errors import StoreError

LOCK_NAME = "writer.lock"


class WriterLock:
    """Held from construction to :meth:`release`.

    A POSIX record lock: the kernel drops it when the process ends, however it ends, and a
    child does not inherit it. It does not keep out a second writer of the same process; the
    set of held paths does.
    """

    _held: ClassVar[set[Path]] = set()
    _guard = Lock()

    def __init__(self, directory: Path) -> None:
        """Raises StoreError, naming the holder, when another writer has the store."""
        self._path = directory.resolve() / LOCK_NAME
        with self._guard:
            if self._path in self._held:
                raise self._refusal("this process")
            # Opened at most once per process: closing any descriptor of a file drops the
            # process's record locks on it.
            self._fd = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o644)
            try:
                fcntl.lockf(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                holder = os.read(self._fd, 64).decode(errors="replace").strip()
                os.close(self._fd)
                raise self._refusal(f"process {holder or 'unknown'}") from error
            os.ftruncate(self._fd, 0)
            os.pwrite(self._fd, f"{os.getpid()}\n".encode(), 0)
            self._held.add(self._path)

    def release(self) -> None:
        """Let go. Idempotent."""
        with self._guard:
            if self._path in self._held:
                self._held.discard(self._path)
                os.close(self._fd)

    def _refusal(self, holder: str) -> StoreError:
        return StoreError(
            f"replay store {self._path.parent} is being written by {holder}",
            expected="one writer at a time",
            hint="Stop the other one, or open the store for reading",
        )
