"""Releases mutexes in ports of shared memory whose holder was killed.

FastDDS guards each port (``/dev/shm/fastdds_port<N>``) by two mutexes that lie in its file, and holds one for
microseconds at each message that finds the port empty. They are not robust: a process that is killed in that moment
holds it for ever. From then on each message to this port costs its sender a second, which is the time limit of boost's
mutex, and all its other listeners wait with it; where nobody listens at the port any more, this does not end before
the sender does.

A mutex of glibc says who holds it: a lock word that is not 0, the number of the holding thread, the number of holders,
and its kind (128: shared between processes). What is found so at each of many looks, by a holder that is not there, is
given back. A holder in another PID namespace that shares this memory cannot be seen: it would have to hold a mutex of
microseconds at all these looks, too (be suspended in the middle of it).

Sources: ``SharedMemGlobal.hpp`` of Fast DDS 3.2 (``try_push``, ``wait_pop``), ``struct __pthread_mutex_s`` of glibc (64
bits).
"""

from __future__ import annotations

import fcntl
import logging
import os
import struct
import sys
import time
from contextlib import suppress
from pathlib import Path

import numpy as np

from user_core.runtime.dds.files import FOLDER, PORT, files_named

_log = logging.getLogger(__name__)
#: Kind of a mutex that is shared between processes, and neither recursive nor robust.
_SHARED = 128
#: A holder that lives would be done in a thousandth of this, seconds; and how often it is looked at meanwhile.
_HELD_S, _LOOKS = 1.5, 30
#: Of a mutex that is neither recursive nor robust, what lies behind its kind is 0, bytes 20 to 40.
_WORDS = 10
#: Ports are smaller; what is larger is something else.
_MOST_BYTES = 1 << 20


def release_abandoned_mutexes(folder: Path = FOLDER, held_s: float = _HELD_S) -> list[str]:
    """Give back what threads that are dead hold in the ports of this host.

    Takes 50 us a port, and ``held_s`` where there is something to give back.

    Returns:
        Names of the ports. Those of another user are left.
    """
    if sys.maxsize < 1 << 32 or not os.path.exists("/proc/self"):
        return []  # another layout, or nothing says who lives
    found = _abandoned(folder)
    for _ in range(_LOOKS):
        if not found:
            return []
        time.sleep(held_s / _LOOKS)
        found = {place: holder for place, holder in found.items() if _still(folder, *place, holder)}
    released = {name for (name, at), holder in found.items() if _release(folder, name, at, holder)}
    for name in sorted(released):
        _log.warning(
            "gave back a mutex of %s: a process was killed while it held it, and each message to this port took a second",
            folder / name,
        )
    return sorted(released)


def _abandoned(folder: Path) -> dict[tuple[str, int], int]:
    """Mutexes that are held by threads that do not exist, with the number of the thread."""
    found = {}
    for port in files_named(PORT, folder):
        with suppress(OSError):
            for offset, holder in _held(port):
                if not os.path.exists(f"/proc/{holder}"):  # of threads as of processes
                    found[port.name, offset] = holder
    return found


def _still(folder: Path, name: str, offset: int, holder: int) -> bool:
    """Whether the same thread, which is not there, holds it."""
    with suppress(OSError), (folder / name).open("rb") as file:
        return _is_held(os.pread(file.fileno(), 4 * _WORDS, offset), holder)
    return False


def _release(folder: Path, name: str, offset: int, holder: int) -> bool:
    with suppress(OSError), (folder / name).open("r+b", buffering=0) as file:
        descriptor = file.fileno()
        if os.geteuid() not in (os.fstat(descriptor).st_uid, 0):
            return False
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)  # another supervisor does the same
        if not _is_held(os.pread(descriptor, 4 * _WORDS, offset), holder):
            return False
        # The lock word goes last; who waits for it looks again within a second.
        os.pwrite(descriptor, struct.pack("=iI", 0, 0), offset + 8)
        os.pwrite(descriptor, struct.pack("=i", 0), offset)
        return True
    return False


def _is_held(mutex: bytes, holder: int) -> bool:
    return [(0, holder)] == _places(mutex) and not os.path.exists(f"/proc/{holder}")


def _held(port: Path) -> list[tuple[int, int]]:
    """Offset and holder of each mutex that is held now."""
    with port.open("rb") as file:
        return _places(file.read(_MOST_BYTES))


def _places(data: bytes) -> list[tuple[int, int]]:
    words = np.frombuffer(data, np.int32, len(data) // 4)
    if len(words) < _WORDS:
        return []
    lock, count, owner, holders, kind, *rest = (
        words[i : len(words) - _WORDS + 1 + i] for i in range(_WORDS)
    )
    held = ((lock == 1) | (lock == 2)) & (count == 0) & (owner > 0) & (holders == 1)
    places = np.flatnonzero(held & (kind == _SHARED))
    return [
        (int(place) * 4, int(owner[place]))
        for place in places
        if place % 2 == 0 and not any(word[place] for word in rest)
    ]
