"""Tells those who send to a port of shared memory that nobody listens there any more.

Who sends to a participant of FastDDS has its port open, the file ``/dev/shm/fastdds_port<N>``. When the listener dies,
its successor removes that file and makes another of the same name, and so does whoever opens the port to send
meanwhile. Those who had the file open learn it by a flag in it: FastDDS's watch clears the flag where a listener
neither moves on while it waits nor finishes what it processes. A listener that is killed in the microseconds between
the two looks well for ever: whoever sent to it before sends into the removed file from then on, and its successor,
which is found and heard by all, hears nothing of them. An actor, for instance, then asks a robot that was started anew
for its lease, in vain, until the actor is started anew, too.

Here the flag is cleared in place of the watch, and FastDDS does the rest: at the next message the sender opens the port
anew.

- :func:`retire_ports_of_dead` does it for a port whose listener is dead, while its file still has its name: before
  another participant starts here, and where a supervisor sees that a process was killed. It reaches all senders,
  whatever program they are.
- :class:`SentPorts` does it within this process, for files that were removed in another way: a driver that is no node
  of ours was killed and started anew.

Sources: ``SharedMemGlobal.hpp`` of Fast DDS 3.2, 2.14 and 2.6, which are alike in this (``PortNode``,
``update_status_all_listeners``, ``is_zombie``, ``open_port_internal``).
"""

from __future__ import annotations

import logging
import os
import re
import sys
from collections.abc import Collection, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import numpy as np

from user_core.runtime.dds.files import FOLDER, PORT, STARTS, files_named
from user_core.runtime.dds.half_made_ports import lock_held, mutex_of

_log = logging.getLogger(__name__)
#: What describes the port is found at bytes 276 of a file of 52 KB.
LOOKED_AT = 4096
#: Words of it: number, listeners, time limit of the check (ms), of a wait (a third), capacity, who waits, flags.
_WORDS = 7
_IS_OK, _IS_READ, _FLAGS = 1, 4, 7
#: Listeners that FastDDS has room for.
_MOST_LISTENERS = 1024


def retire_ports_of_dead(folder: Path = FOLDER) -> list[str]:
    """Mark the ports whose listener is dead, so that all who send to them open them anew.

    Takes some 50 us a port.

    Returns:
        Names of the ports. Those of another user are left.
    """
    retired = []
    for port in files_named(PORT, folder):
        with suppress(OSError):
            if _retire_if_dead(port):
                retired.append(port.name)
                _log.info("%s: its listener is dead, and those who send to it are told", port)
    return retired


def _retire_if_dead(port: Path) -> bool:
    lock = port.with_name(f"{port.name}_el")
    owner = port.stat()
    if not lock.exists() or os.geteuid() not in (owner.st_uid, 0):
        return False  # opened by senders only, or of another user
    with ExitStack() as stack:
        descriptor = os.open(port, os.O_RDWR | os.O_CLOEXEC)
        stack.callback(os.close, descriptor)
        at, flags = port_flags(os.pread(descriptor, LOOKED_AT, 0), port.name)
        if flags & (_IS_OK | _IS_READ) != _IS_OK | _IS_READ:
            return False
        # A listener that is coming must not find the lock taken, by this very look.
        if not stack.enter_context(mutex_of(port.name, owner)):
            return False
        stack.enter_context(lock_held(lock))  # raises where it lives
        if os.stat(port).st_ino != os.fstat(descriptor).st_ino:
            return False  # made anew meanwhile
        os.pwrite(descriptor, bytes([flags & ~_IS_OK]), at)
    return True


class SentPorts:
    """The ports to which this process sends. For one thread.

    Args:
        process: Folder of this process in ``/proc``.
        folder: Where shared memory is.
    """

    def __init__(self, process: Path = Path("/proc/self"), folder: Path = FOLDER) -> None:
        self._process = process
        self._removed = re.compile(
            rb"^([0-9a-f]+)-\S+ \S+ \S+ \S+ (\d+) +%b/(%b) \(deleted\)$"
            % (re.escape(os.fsencode(folder)), PORT.pattern.encode())
        )
        self._seen = set[tuple[int, int]]()

    def retire_removed(self, own: Collection[str] = ()) -> list[str]:
        """Let FastDDS open those anew whose files were removed, as it has not seen by itself.

        To be asked every few seconds: what it finds twice is retired. It reads what this process has mapped, a
        millisecond.

        Args:
            own: Names of ports at which this process listens; they are left (:mod:`~.replaced_ports`).

        Returns:
            Names of the ports.
        """
        found = {}
        with suppress(OSError):
            maps = (self._process / "maps").read_bytes()
            found = {(at, inode): name for at, inode, name in _mapped(maps, self._removed)}
        again = {
            place: name for place, name in found.items() if place in self._seen and name not in own
        }
        self._seen = set(found)
        return sorted({name for (at, _), name in again.items() if self._retire(at, name)})

    def _retire(self, address: int, name: str) -> bool:
        # By the kernel, and not by a pointer: FastDDS may give the memory back at any moment.
        with suppress(OSError, OverflowError):
            memory = os.open(self._process / "mem", os.O_RDWR | os.O_CLOEXEC)
            try:
                at, flags = port_flags(os.pread(memory, LOOKED_AT, address), name)
                if flags & _IS_OK:
                    os.pwrite(memory, bytes([flags & ~_IS_OK]), address + at)
                    return True
            finally:
                os.close(memory)
        return False


def _mapped(maps: bytes, line: re.Pattern[bytes]) -> Iterator[tuple[int, int, str]]:
    """Address, inode and name of the files whose lines in ``/proc/self/maps`` match; looks at theirs only, since a
    process with many libraries has thousands."""
    for start_of_name in STARTS:
        mark = f"/{start_of_name}_port".encode()
        at = maps.find(mark)
        while at >= 0:
            start, end = maps.rfind(b"\n", 0, at) + 1, maps.find(b"\n", at)
            if found := line.match(maps[start:end]):
                yield int(found[1], 16), int(found[2]), found[3].decode()
            at = maps.find(mark, end)


def port_flags(start: bytes, port: str) -> tuple[int, int]:
    """Where the flags of a port are in its memory, bytes from its start, and what they are; 0 and 0 where it looks
    otherwise than known.

    Args:
        start: Its first :data:`LOOKED_AT` bytes.
        port: Its name.
    """
    if sys.byteorder != "little":
        return 0, 0
    words = np.frombuffer(start, np.uint32, len(start) // 4)
    number = int(port.rpartition("port")[2])
    for i in np.flatnonzero(words[: max(0, len(words) - _WORDS + 1)] == number):
        _, listeners, check_ms, wait_ms, capacity, waiting, flags = words[i : i + _WORDS].tolist()
        if (
            wait_ms == check_ms // 3 and check_ms and capacity
            and max(listeners, waiting) <= _MOST_LISTENERS and flags <= _FLAGS
        ):  # fmt: skip
            return (int(i) + _WORDS - 1) * 4, flags
    return 0, 0
