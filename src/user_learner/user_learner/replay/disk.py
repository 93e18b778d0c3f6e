"""The disk: how much room there is, and what its errors mean."""

from __future__ import annotations

import errno
import os
from pathlib import Path

from user_core.errors import StoreError, StoreFull

CURE = "Make room; it goes on by itself, and what was not acknowledged comes again"
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def require_space(store: Path, nbytes: int) -> None:
    """Raise StoreFull unless so many bytes are free on the disk of a store."""
    disk = os.statvfs(store)
    free = disk.f_bavail * disk.f_frsize
    if free < nbytes:
        raise StoreFull(
            f"disk of replay store {store}",
            got=f"{free} bytes free",
            expected=f"{nbytes} (min_free_bytes and the chunk)",
            hint=CURE,
        )


def disk_error(store: Path, error: OSError) -> StoreError:
    """StoreFull for a disk, quota or file size that is full, StoreError for anything else."""
    what = f"cannot write to replay store {store}"
    if error.errno in _FULL:
        return StoreFull(what, got=error.strerror, hint=CURE)
    return StoreError(what, got=error.strerror, hint="See the system log about this disk")
