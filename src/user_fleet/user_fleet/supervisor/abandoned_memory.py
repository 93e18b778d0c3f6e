"""Gives back the shared memory that killed processes have left behind.

FastDDS carries messages between the processes of one host in shared memory: each participant
has a segment of some megabytes in ``/dev/shm`` and holds a lock on a file beside it while it
lives. A process that ends in order removes both; one that is killed leaves them, and the memory
stays taken until the host starts anew. A week of restarts would fill it. A segment whose lock
nobody holds belongs to nobody (``fastdds shm clean``, which the wheels of ROS 2 lack, goes by
the same rule).
"""

from __future__ import annotations

import fcntl
import os
import time
from contextlib import suppress
from pathlib import Path

from user_core.runtime.dds.files import FOLDER, SEGMENT, files_named

#: A segment that is being made may not have its lock yet.
_YOUNG_S = 10.0


def remove_abandoned_memory(folder: Path = FOLDER, young_s: float = _YOUNG_S) -> int:
    """Remove the segments whose owners are dead; what cannot be removed is left.

    Args:
        folder: Where the segments are.
        young_s: Segments younger than this are left alone.

    Returns:
        Number of bytes given back.
    """
    freed, oldest_s = 0, time.time() - young_s
    for segment in files_named(SEGMENT, folder):
        with suppress(OSError):
            if segment.stat().st_mtime < oldest_s:
                freed += _remove_if_abandoned(segment)
    return freed


def _remove_if_abandoned(segment: Path) -> int:
    lock = segment.with_name(segment.name + "_el")
    descriptor = os.open(lock, os.O_RDWR | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)  # raises while the owner lives
        taken = segment.stat().st_blocks * 512
        segment.unlink()
        lock.unlink()
    finally:
        os.close(descriptor)
    return taken
