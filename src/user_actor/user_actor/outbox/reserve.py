"""A little disk space that is kept back, because deleting needs some too."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

RESERVE_BYTES = 4 * 2**20


class Reserve:
    """A file of zeros. On a full disk it is given up, so that what is acknowledged can be
    deleted (SQLite has to write in order to delete), and made again from what that frees."""

    def __init__(self, path: Path, nbytes: int = RESERVE_BYTES) -> None:
        self._path, self.nbytes = path, nbytes

    def hold(self) -> None:
        """Make the file unless it is there. Raises OSError when there is no room for it."""
        if self._path.exists() and self._path.stat().st_size == self.nbytes:
            return
        try:
            with open(self._path, "wb") as file:
                os.posix_fallocate(file.fileno(), 0, self.nbytes)
        except OSError:
            self.release()
            raise

    def release(self) -> None:
        """Give the space back to the disk."""
        with contextlib.suppress(FileNotFoundError):
            self._path.unlink()
