"""Finds out that a port of shared memory at which this process listens was made anew without it, or removed.

A participant of FastDDS listens at two ports, files ``/dev/shm/fastdds_port<N>``, and holds the lock
``/dev/shm/fastdds_port<N>_el`` of each. Who opens a port to send, and finds that its listener does not move for a
second, takes it for broken, removes the file and makes another: the listener was suspended (SIGSTOP, a frozen virtual
machine), or had no processor. FastDDS tells the listener to change over when it goes on, but not in each case (where
two made the port anew at once, it seems). Then the listener waits for ever at a file that has no name any more: it is
deaf to all who came since, while it is heard, and while those who had the port open before still reach it. So it is
where the file was removed and nobody made another (who only sends makes none).

That can be seen from within: the file of that name is not among those that this process has mapped, or there is none.

Sources: ``SharedMemGlobal.hpp`` (``open_port_internal``, ``healthy_check``) and ``SharedMemManager.hpp``
(``regenerate_port``) of Fast DDS 3.2.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from user_core.runtime.dds.files import FOLDER, LOCK_OF_PORT

#: A process that has not looked for this long was suspended, and FastDDS's time counts from now on, seconds.
_ABSENT_S = 5.0
#: FastDDS gets this long to change over by itself, seconds; it was seen to need up to two.
_PATIENCE_S = 6.0


class OwnPorts:
    """The ports at which this process listens. For one thread.

    Args:
        folder: Where shared memory is.
        process: Folder of this process in ``/proc``.
        clock_s: Monotonic seconds.
    """

    def __init__(
        self,
        folder: Path = FOLDER,
        process: Path = Path("/proc/self"),
        clock_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._folder, self._process, self._clock_s = folder, process, clock_s
        self._looked_s = -float("inf")
        self._known: dict[str, int] = {}
        self._since_s: dict[str, float] = {}

    @property
    def names(self) -> frozenset[str]:
        """The ports, as far as they were looked at."""
        return frozenset(self._known)

    def replaced(self) -> list[str]:
        """Ports that were replaced or removed some seconds ago, and that this process has not changed over to.

        To be asked every two seconds or so. Cheap: it asks for the state of two files; what this process has mapped is
        read where one of them is another than before.
        """
        now_s = self._clock_s()
        if now_s - self._looked_s > _ABSENT_S:
            self._since_s.clear()
        self._looked_s = now_s
        if not self._known:
            self._known = dict.fromkeys(self._listened(), 0)
        lost = []
        for name, known in self._known.items():
            inode = self._inode(name)
            if inode and inode == known:
                self._since_s.pop(name, None)
            elif not (mapped := self._mapped(name)) or name not in self._listened():
                self._since_s.pop(name, None)  # given up, or a kernel that does not tell
            elif inode in mapped:
                self._known[name] = inode
                self._since_s.pop(name, None)
            elif now_s - self._since_s.setdefault(name, now_s) >= _PATIENCE_S:
                lost.append(name)
        return lost

    def _listened(self) -> list[str]:
        """Names of the ports whose lock this process holds."""
        names = []
        with suppress(OSError):
            for link in (self._process / "fd").iterdir():
                with suppress(OSError):
                    file = Path(os.readlink(link).removesuffix(" (deleted)"))
                    if file.parent == self._folder and (found := LOCK_OF_PORT.fullmatch(file.name)):
                        names.append(found[1])
        return names

    def _inode(self, name: str) -> int:
        try:
            return os.stat(self._folder / name).st_ino
        except OSError:
            return 0

    def _mapped(self, name: str) -> set[int]:
        """Inodes of the files of this name that are mapped, removed ones among them."""
        found, end = set(), str(self._folder / name)
        with suppress(OSError, ValueError, IndexError):
            for line in (self._process / "maps").read_text().splitlines():
                words = line.split(maxsplit=5)
                if len(words) == 6 and words[5].removesuffix(" (deleted)") == end:
                    found.add(int(words[4]))
        return found
