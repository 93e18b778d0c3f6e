"""One process at a time: a lock that the kernel lets go of when its holder dies."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import logging
import os
from collections.abc import Iterable
from pathlib import Path

from user_core.errors import DeviceInUse, StoreError
from user_core.runtime.files import state_home

_log = logging.getLogger(__name__)


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
            self._descriptor = -1
            if owner == str(os.getpid()):
                owner = f"{owner}, this one"
            elif line := _command_line(owner):
                owner = f"{owner} ({line})"
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


class DeviceLock:
    """Keeps a second process of this host, and user, from driving the same device.

    A driver takes it when it connects and lets go when it closes. The kernel lets go when the
    process dies. What is locked are names that are alike in every process that could drive the
    device: a serial port, an address, the topic that its commands go to.
    """

    def __init__(self) -> None:
        self._held: list[FileLock] = []

    def acquire(self, names: Iterable[str], what: str) -> None:
        """Lock all names, instead of those that are held; or none.

        Args:
            names: What is driven.
            what: The device, for the error.

        Raises:
            DeviceInUse: Another process, or another driver in this one, holds one of the names;
                the error says which.
        """
        self.release()
        folder = state_home() / "locks"
        for name in sorted(set(names)):
            path = folder / f"{hashlib.sha256(name.encode()).hexdigest()[:24]}.lock"
            try:
                folder.mkdir(parents=True, exist_ok=True)
                self._held.append(FileLock(path, name))
            except StoreError as error:
                self.release()
                raise DeviceInUse(
                    f"{what}: {name}",
                    got=error.got,
                    expected="one process that drives it",
                    hint="End that process, or drive the robot through it",
                ) from error
            except OSError as error:  # a device is of more use without a lock than not at all
                _log.warning("%s: %s is not locked: %s", what, name, error)

    def release(self) -> None:
        """Let go of all names. Idempotent."""
        for lock in self._held:
            lock.release()
        self._held = []


def _command_line(process: str) -> str:
    """What a process runs, as far as this host tells; shortened."""
    try:
        text = Path("/proc", str(int(process)), "cmdline").read_bytes()
    except (OSError, ValueError):
        return ""
    line = " ".join(text.replace(b"\0", b" ").decode(errors="replace").split())
    return line if len(line) <= 160 else f"{line[:157]}..."
