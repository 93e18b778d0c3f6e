"""A log file that is rotated by size."""

from __future__ import annotations

import os
from pathlib import Path


class LogFile:
    """Append bytes; when the file would pass ``max_bytes`` it becomes ``<name>.1``, and so on.

    A full disk must not end the process that is logged: what cannot be written is counted in
    ``lost_bytes``, and the next write tries again.
    """

    def __init__(self, path: Path, max_bytes: int = 16 * 2**20, keep: int = 4) -> None:
        self.path, self.max_bytes, self.keep = path, max_bytes, keep
        self.lost_bytes = 0
        path.parent.mkdir(parents=True, exist_ok=True)
        self._descriptor = self._open()
        self._size = os.fstat(self._descriptor).st_size

    def write(self, data: bytes) -> None:
        """Append ``data``, after a rotation where it is due."""
        try:
            if self._size and self._size + len(data) > self.max_bytes:
                self._rotate()
            self._size += os.write(self._descriptor, data)
        except OSError:
            self.lost_bytes += len(data)

    def close(self) -> None:
        """Close the file."""
        os.close(self._descriptor)

    def _rotate(self) -> None:
        for number in range(self.keep - 1, 0, -1):
            older = self._numbered(number)
            if older.exists():
                older.rename(self._numbered(number + 1))
        self.path.rename(self._numbered(1))
        fresh = self._open()
        os.close(self._descriptor)
        self._descriptor, self._size = fresh, 0

    def _numbered(self, number: int) -> Path:
        return self.path.with_name(f"{self.path.name}.{number}")

    def _open(self) -> int:
        return os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
