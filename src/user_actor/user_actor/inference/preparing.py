"""When policies are made ready beside those that act: what answers take meanwhile is not what they take."""

from __future__ import annotations

import fcntl
import logging
import os
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_log = logging.getLogger(__name__)
#: ``struct flock`` of 64-bit Linux: type, from where, start, length, process.
_LOCK = "hhqqi4x"


class Preparing:
    """Periods in which weights are loaded, and all that is done before a policy may act with them, here or in another
    process that answers robots on the same GPU. Those that overlap are one period. For any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._begun = self._here = 0
        self._goes_on, self._since_s, self._took_s = False, 0.0, 0.0
        self._file: int | None = None

    def share(self, path: Path) -> None:
        """Know of other processes that share this file, and let them know. Once, and while nothing is prepared.

        Who prepares holds a lock on it, which ends with its process. Where it cannot be opened (it is another user's)
        or has no such locks (gVisor), each knows of itself only.
        """
        try:
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o660)
            with self._lock:
                self._look()
        except OSError as error:
            self.close()
            _log.warning("what other processes prepare on this GPU is not known: %s", error)

    def close(self) -> None:
        """Let go of the file. Idempotent."""
        with self._lock:
            file, self._file = self._file, None
        if file is not None:
            os.close(file)

    @contextmanager
    def __call__(self) -> Iterator[None]:
        """A policy is made ready in this; again within itself, too."""
        with self._lock:
            self._here += 1
            self._look()
        try:
            yield
        finally:
            with self._lock:
                self._here -= 1
                self._look()

    def over(self) -> int:
        """Number of the last period that is over; 0 before the first."""
        with self._lock:
            self._look()
            return self._begun - self._goes_on

    def since(self, over: int) -> int:
        """Number of the newest period that there was since :meth:`over` was asked, also in part; 0: none."""
        with self._lock:
            self._look()
            return self._begun if self._begun > over else 0

    @property
    def for_s(self) -> float:
        """How long the period goes on already, seconds; 0 where nothing is prepared."""
        with self._lock:
            self._look()
            return time.monotonic() - self._since_s if self._goes_on else 0.0

    @property
    def took_s(self) -> float:
        """How long the last period took that is over, seconds; 0 before the first."""
        with self._lock:
            self._look()
            return self._took_s

    def _look(self) -> None:
        """Whether a period has begun or ended."""
        elsewhere = False
        if self._file is not None:
            kind = fcntl.F_RDLCK if self._here else fcntl.F_UNLCK
            fcntl.fcntl(
                self._file, fcntl.F_OFD_SETLK, struct.pack(_LOCK, kind, os.SEEK_SET, 0, 0, 0)
            )
            wanted = struct.pack(_LOCK, fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
            found = fcntl.fcntl(self._file, fcntl.F_OFD_GETLK, wanted)
            elsewhere = struct.unpack(_LOCK, found)[0] != fcntl.F_UNLCK
        goes_on = self._here > 0 or elsewhere
        if goes_on and not self._goes_on:
            self._begun += 1
            self._since_s = time.monotonic()
        elif self._goes_on and not goes_on:
            self._took_s = time.monotonic() - self._since_s
        self._goes_on = goes_on
