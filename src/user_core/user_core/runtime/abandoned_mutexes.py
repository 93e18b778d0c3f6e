"""Releases mutexes in ports of shared memory whose holder was killed.

FastDDS guards each port (``/dev/shm/fastdds_port<N>``) by two mutexes that lie in its file, and holds one for
microseconds at each message that finds the port empty. They are not robust: a process that is killed in that moment
holds it for ever. From then on each message to this port costs its sender a second, which is the time limit of boost's
mutex, and all its other listeners wait with it; where nobody listens at the port any more, this does not end before
the sender does.

A mutex of glibc says who holds it: a lock word that is not 0, the number of the holding thread, the number of holders, and
its kind (128: shared between processes). What is found so, and whose holder is not there now nor a moment later, is
given back. A holder in another PID namespace that shares this memory cannot be seen: it would have to hold a mutex of
microseconds for that moment, too.

Sources: ``SharedMemGlobal.hpp`` of Fast DDS 3.2 (``try_push``, ``wait_pop``), ``struct __pthread_mutex_s`` of glibc (64 bits).
"""

from __future__ import annotations

import logging
import os
import re
import struct
import sys
import time
from contextlib import suppress
from pathlib import Path

import numpy as np

_log = logging.getLogger(__name__)
_FOLDER = Path("/dev/shm")
_PORT = re.compile(r"fastdds_port\d+")
#: Kind of a mutex that is shared between processes, and neither recursive nor robust.
_SHARED = 128
#: A holder that lives would be done in a thousandth of this, seconds.
_HELD_S = 1.5
#: Ports are smaller; what is larger is something else.
_MOST_BYTES = 1 << 20


def release_abandoned_mutexes(folder: Path = _FOLDER, held_s: float = _HELD_S) -> list[str]:
    """Give back what threads that are dead hold in the ports of this host.

    Takes 50 us a port, and ``held_s`` where there is something to give back.

    Returns:
        Names of the ports. Those of another user are left.
    """
    if sys.maxsize < 1 << 32:
        return []  # another layout
    before = _abandoned(folder)
    if not before:
        return []
    time.sleep(held_s)
    released = set()
    for (name, offset), holder in _abandoned(folder).items():
        if before.get((name, offset)) != holder:
            continue
        with suppress(OSError):
            descriptor = os.open(folder / name, os.O_RDWR | os.O_CLOEXEC)
            try:
                # The lock word goes last; who waits for it looks again within a second.
                os.pwrite(descriptor, struct.pack("=iI", 0, 0), offset + 8)
                os.pwrite(descriptor, struct.pack("=i", 0), offset)
            finally:
                os.close(descriptor)
            released.add(name)
    for name in sorted(released):
        _log.warning(
            "gave back a mutex of %s: a process was killed while it held it, and each message to this port took a second",
            folder / name,
        )
    return sorted(released)


def _abandoned(folder: Path) -> dict[tuple[str, int], int]:
    """Mutexes that are held by threads that do not exist, with the number of the thread."""
    found = {}
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            if not _PORT.fullmatch(entry.name):
                continue
            with suppress(OSError):
                for offset, holder in _held(Path(entry.path)):
                    if not os.path.exists(f"/proc/{holder}"):  # of threads as of processes
                        found[entry.name, offset] = holder
    return found


def _held(port: Path) -> list[tuple[int, int]]:
    """Offset and holder of each mutex that is held now."""
    with port.open("rb") as file:
        data = file.read(_MOST_BYTES)
    words = np.frombuffer(data, np.int32, len(data) // 4)
    if len(words) < 5:
        return []
    lock, count, owner, holders, kind = (words[i : len(words) - 4 + i] for i in range(5))
    held = ((lock == 1) | (lock == 2)) & (count == 0) & (owner > 0) & (holders == 1)
    places = np.flatnonzero(held & (kind == _SHARED))
    return [(int(place) * 4, int(owner[place])) for place in places if place % 2 == 0]
