"""Removes ports of shared memory that FastDDS had begun to make when its process was killed.

FastDDS passes messages between the processes of a host through *ports*, files of 52 KB
``/dev/shm/fastdds_port<N>``. Whoever needs a port first makes it: a participant that will listen
there, or one that wants to send. A process that is killed (SIGKILL, out of memory) between making
the file and finishing it leaves it half made, and every process that opens it later, also in
another ROS domain, waits without limit for the maker to go on: at its start it hangs in
``create_node`` and cannot even be interrupted. FastDDS itself only resets ports whose listener
has died *after* it had finished them.

How a half-made port is told: boost's managed shared memory, which FastDDS uses, keeps its state in
the first four bytes of the file: 0 when nothing is there yet, 1 while it is being filled, 2 when
it is whole and for ever after, 3 when filling it failed (then the file has one byte). So what is
not 2 can hold no message, and is in the way of whoever comes next.

A port that is just being made looks the same for microseconds. FastDDS makes and opens a port
only while it holds the named mutex ``<port>_mutex`` (a POSIX semaphore) and takes a mutex that was
held for 2 s for one of a dead process. :func:`mend_half_made_ports` follows the same rules: it looks
again while it holds the mutex, and does not touch what a suspended process has open. A port that
is whole is never touched, whoever uses it.

Processes that wait already are freed, too: they have the file open, so its state is set to failed
after its name is gone, and they make the port anew.

Sources: ``SharedMemGlobal.hpp`` and ``SharedMemSegment.hpp`` of Fast DDS 3.2 (``open_port_internal``,
``open_or_create_and_lock_named_mutex``), ``managed_open_or_create_impl.hpp`` of Boost.Interprocess.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import logging
import os
import struct
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from user_core.runtime.dds.files import FOLDER, PORT, files_named

_log = logging.getLogger(__name__)
#: States of boost's managed shared memory.
_WHOLE, _FAILED = 2, 3
#: Held for this long, a mutex is one of a dead process (Fast DDS: twice boost's time limit).
_DEAD_S = 2.0
_MODE = 0o644


def mend_half_made_ports() -> list[str]:
    """Remove ports that nobody will finish, and free those who wait for them.

    Cheap while there are none: it reads four bytes of each port (7 ms for 1000 ports). Each one
    that is half made costs up to 2 s, the time after which a mutex counts as abandoned.

    Returns:
        Names of the ports that were removed. What may not be removed (it belongs to another user)
        or is being worked on is left.
    """
    removed = []
    for name in _half_made():
        with suppress(OSError):
            if _mend(name):
                removed.append(name)
                _log.warning(
                    "removed %s: a process was killed while it made this port, and all others "
                    "would wait for it",
                    FOLDER / name,
                )
    return removed


def _half_made() -> list[str]:
    names = []
    for port in files_named(PORT):
        with suppress(OSError):
            descriptor = os.open(port, os.O_RDONLY | os.O_CLOEXEC)
            try:
                if _state(descriptor) != _WHOLE:
                    names.append(port.name)
            finally:
                os.close(descriptor)
    return names


def _state(descriptor: int) -> int:
    start = os.pread(descriptor, 4, 0)
    return int(struct.unpack("=I", start)[0]) if len(start) == 4 else 0


def _mend(name: str) -> bool:
    port = FOLDER / name
    with ExitStack() as stack:
        owner = port.stat()
        if os.geteuid() not in (owner.st_uid, 0):
            return False
        if not stack.enter_context(mutex_of(name, owner)):
            return False
        descriptor = os.open(port, os.O_RDWR | os.O_CLOEXEC)
        stack.callback(os.close, descriptor)
        if _state(descriptor) == _WHOLE or _suspended_user(port):
            return False
        # A listener takes one of these locks when it has made the port, so nobody has one.
        locks = [port.with_name(f"{name}_{kind}") for kind in ("el", "sl")]
        held = [lock for lock in locks if lock.exists()]
        for lock in held:
            stack.enter_context(lock_held(lock))
        port.unlink()
        for lock in held:
            lock.unlink()
        if os.fstat(descriptor).st_size < 4:
            os.ftruncate(descriptor, 1)  # boost's mark of a file that could not be filled
        else:
            os.pwrite(descriptor, struct.pack("=I", _FAILED), 0)
    return True


@contextmanager
def lock_held(file: Path) -> Iterator[None]:
    """Hold the lock of a listener that is dead. Raises OSError while one that lives has it."""
    descriptor = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        try:
            yield
        finally:  # a process that another thread starts meanwhile has it, too, until its program begins
            fcntl.flock(descriptor, fcntl.LOCK_UN)
    finally:
        os.close(descriptor)


def _suspended_user(port: Path) -> int:
    """A suspended process that has it open, and may be the one that will finish it; 0: none."""
    target = str(port)
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit():
            continue
        with suppress(OSError):
            state = (folder / "stat").read_text().rpartition(")")[2].split()[0]
            if state not in "tT":
                continue
            if target in (folder / "maps").read_text():
                return int(folder.name)
            if any(os.readlink(link) == target for link in (folder / "fd").iterdir()):
                return int(folder.name)
    return 0


# --- the named mutex ---------------------------------------------------------------------


class _Time(ctypes.Structure):
    _fields_ = (("s", ctypes.c_long), ("ns", ctypes.c_long))


@contextmanager
def mutex_of(port: str, owner: os.stat_result) -> Iterator[bool]:
    """Hold the named mutex of a port as FastDDS does, also in place of a dead holder; false: not to be had.

    Args:
        port: Its name.
        owner: The state of its file: a mutex that root makes anew must be open to the user whose port it is for.
    """
    name = f"/{port}_mutex"
    library = ctypes.CDLL(None, use_errno=True)
    library.sem_open.restype = ctypes.c_void_p
    semaphore = _open(library, name)
    if semaphore and not _wait(library, semaphore):
        library.sem_close(semaphore)
        library.sem_unlink(name.encode())
        semaphore = _open(library, name)
        if semaphore and library.sem_trywait(semaphore):
            library.sem_close(semaphore)
            semaphore = None
    try:
        if semaphore and os.geteuid() == 0:
            # Anybody may put a link in place of a file there.
            file = FOLDER / f"sem.{port}_mutex"
            os.chown(file, owner.st_uid, owner.st_gid, follow_symlinks=False)
        yield semaphore is not None
    finally:
        if semaphore:
            library.sem_post(semaphore)
            library.sem_close(semaphore)


def _wait(library: ctypes.CDLL, semaphore: ctypes.c_void_p) -> bool:
    """Take a semaphore; false: nobody gave it back for the time after which its holder counts as dead."""
    deadline = time.time() + _DEAD_S  # by the same clock as the call
    until = _Time(int(deadline), int(deadline % 1 * 1e9))
    while library.sem_timedwait(semaphore, ctypes.byref(until)):
        if ctypes.get_errno() != errno.EINTR:  # a signal says nothing of the holder
            return False
    return True


def _open(library: ctypes.CDLL, name: str) -> ctypes.c_void_p | None:
    address = library.sem_open(name.encode(), os.O_CREAT, ctypes.c_uint(_MODE), ctypes.c_uint(1))
    return ctypes.c_void_p(address) if address else None
