"""The log of edits: one file, appended to by any process, read by all.

A line holds one entry, with a checksum. Writers take turns by a lock that the kernel lets go of
when they die. Whoever is killed leaves a whole line, none, or the beginning of one, which the next
writer ends and every reader passes over. So an acknowledged entry is there for ever, and nobody ever
sees half of one.
"""

from __future__ import annotations

import errno
import fcntl
import getpass
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from user_core.errors import SpecError, StoreError, StoreFull, SuiteError
from user_core.runtime.files import sync_directory
from user_learner.edits.entries import Edit, EditKind, check, decode, encode

LOG_NAME = "edits.log"
#: How long a writer waits for another one, at most.
_PATIENCE_S = 10.0
_LOOK_S = 0.01


def _content(edit: Edit) -> bytes:
    """What an entry is known by in whichever log it stands."""
    return encode(replace(edit, number=0))


def log_path(place: str | Path) -> Path:
    """The log of a store; or, where ``place`` is no directory, that file."""
    path = Path(place)
    return path / LOG_NAME if path.is_dir() else path


def default_author() -> str:
    """Who works here: ``$USER_AUTHOR``, or the name of the account."""
    named = os.environ.get("USER_AUTHOR", "")
    try:
        return named or getpass.getuser()
    except (KeyError, OSError, ImportError):  # an account without a name
        return f"uid {os.getuid()}"


class EditLog:
    """Edits of one store. May be used from several threads, and by several processes at once.

    Args:
        place: Directory of the store; or a file, for the edits of a store that cannot be written.

    Attributes:
        path: The file; it need not be there.
        edits: Entries that are whole, by number. Never changed, only replaced.
        warnings: Lines that are not, for people.
    """

    def __init__(self, place: str | Path) -> None:
        self.path = log_path(place)
        self.edits: tuple[Edit, ...] = ()
        self.warnings: tuple[str, ...] = ()
        self._read, self._file, self._lines = 0, (0, 0), 0
        self._lock = threading.Lock()
        self.refresh()

    def refresh(self) -> bool:
        """Look for new entries; return whether there are any. Raises StoreError for a file that
        cannot be read."""
        with self._lock:
            try:
                found = os.stat(self.path)
            except (FileNotFoundError, NotADirectoryError):
                changed = bool(self.edits)
                self._start_over((0, 0))
                return changed
            identity = (found.st_dev, found.st_ino)
            if identity == self._file and found.st_size == self._read:
                return False
            before = self.edits
            if identity != self._file or found.st_size < self._read:  # brought back from a copy
                self._start_over(identity)
            try:
                with open(self.path, "rb") as stream:
                    stream.seek(self._read)
                    data = stream.read()
            except OSError as error:
                raise StoreError(f"edits {self.path}", got=error.strerror) from error
            self._take(data)
            return self.edits != before

    def append(self, edit: Edit) -> Edit:
        """Add an entry, durably; return it with its number, time and author.

        Raises:
            SpecError: It does not say what its kind needs, or undoes what is not there.
            StoreFull: The disk is full; nothing was added.
            StoreError: The file cannot be written, or somebody does not let go of it.
        """
        return self._add(
            replace(edit, author=edit.author or default_author(), time_ns=time.time_ns())
        )

    def merge(self, other: EditLog) -> int:
        """Take over the entries of another store's log about episodes, each once, with their authors and
        times; what was undone there is undone here. Which column of rewards counts is not taken over.

        Returns:
            How many came.

        Raises:
            StoreFull, StoreError: As :meth:`append`; called again, it goes on.
        """
        known = {
            _content(edit): edit.number for edit in self.edits if edit.kind is not EditKind.UNDO
        }
        undone = {
            (edit.values["of"], edit.time_ns): edit.number
            for edit in self.edits
            if edit.kind is EditKind.UNDO
        }
        numbers: dict[int, int] = {}
        came = 0
        for edit in other.edits:
            if edit.kind is EditKind.REWARDS:
                continue
            if edit.kind is EditKind.UNDO:
                of = numbers.get(edit.values["of"])
                if of is None:
                    continue
                there = undone.get((of, edit.time_ns))
                edit = replace(edit, values={"of": of})
            else:
                there = known.get(_content(edit))
            if there is None:
                there = self._add(edit).number
                came += 1
            numbers[edit.number] = there
        return came

    def _add(self, edit: Edit) -> Edit:
        check(edit)
        with self._opened() as handle:
            self._end_last_line(handle)
            self.refresh()
            edit = replace(edit, number=1 + (self.edits[-1].number if self.edits else 0))
            if edit.kind is EditKind.UNDO:
                self._require_entry(edit.values["of"])
            self._write(handle, encode(edit))
        self.refresh()
        return edit

    def _require_entry(self, number: int) -> None:
        if not any(edit.number == number for edit in self.edits):
            last = self.edits[-1].number if self.edits else 0
            raise SpecError("entry to undo", got=number, expected=f"1 to {last}")

    @contextmanager
    def _opened(self) -> Iterator[int]:
        new = not self.path.exists()
        try:
            handle = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise StoreError(
                f"edits {self.path} cannot be written",
                got=error.strerror,
                hint="Edits of a store that is read-only can be kept in a file elsewhere (--edits, "
                "and `edits` of the history in the learner's configuration)",
            ) from error
        try:
            deadline_s = time.monotonic() + _PATIENCE_S
            while True:
                try:
                    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError as error:
                    if time.monotonic() > deadline_s:
                        raise StoreError(
                            f"edits {self.path} are being written by another process",
                            got=f"nothing else for {_PATIENCE_S:.0f} s",
                            hint="End the process that is stuck",
                        ) from error
                    time.sleep(_LOOK_S)
            if new:
                sync_directory(self.path.parent)
            yield handle
        finally:
            os.close(handle)

    def _end_last_line(self, handle: int) -> None:
        """Where the last writer was killed within a line; before the next number is taken, since
        that line may be whole except for its end."""
        size = os.fstat(handle).st_size
        if size and os.pread(handle, 1, size - 1) != b"\n":
            self._write(handle, b"\n")

    def _write(self, handle: int, line: bytes) -> None:
        """Append a line whole, or leave the file as it was."""
        size = os.fstat(handle).st_size
        try:
            view = memoryview(line)
            while view:
                view = view[os.write(handle, view) :]
            os.fsync(handle)
        except OSError as error:
            os.ftruncate(handle, size)
            full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
            raise (StoreFull if full else StoreError)(
                f"edits {self.path} cannot be written", got=error.strerror, hint="Nothing was added"
            ) from error

    def _start_over(self, identity: tuple[int, int]) -> None:
        self.edits, self.warnings = (), ()
        self._read, self._file, self._lines = 0, identity, 0

    def _take(self, data: bytes) -> None:
        """Read the lines that are complete; what follows them is being written, or never was."""
        end = data.rfind(b"\n") + 1
        self._read += end
        found, warnings = list(self.edits), list(self.warnings)
        last = found[-1].number if found else 0
        for line in data[:end].split(b"\n")[:-1]:
            self._lines += 1
            if not line:
                continue
            try:
                edit = decode(line)
                if edit.number <= last:
                    raise ValueError(f"number {edit.number} after {last}")
            except (ValueError, TypeError, KeyError, AttributeError, SuiteError) as error:
                warnings.append(f"{self.path} line {self._lines} is passed over: {error}")
                continue
            last = edit.number
            found.append(edit)
        self.edits, self.warnings = tuple(found), tuple(warnings)
