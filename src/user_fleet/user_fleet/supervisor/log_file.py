"""The log of a process: its output in files that are rotated."""

from __future__ import annotations

import os
import re
from pathlib import Path

#: What is kept of a process's output, to find its last line; and the most that is shown of it.
_TAIL_BYTES, _LINE_LENGTH = 32768, 300
#: What ``faulthandler`` writes: the innermost frame of the thread that crashed.
_CRASH = re.compile(
    r'Fatal Python error: .*?^Current thread [^\n]*\n  File "([^"\n]+)", line (\d+) in (\S+)',
    re.DOTALL | re.MULTILINE,
)


class LogFile:
    """Append bytes; when the file would pass ``max_bytes`` it becomes ``<name>.1``, and so on.

    A full disk must not end the process that is logged: what cannot be written is counted in
    ``lost_bytes``, and the next write tries again.
    """

    def __init__(self, path: Path, max_bytes: int = 16 * 2**20, keep: int = 4) -> None:
        self.path, self.max_bytes, self.keep = path, max_bytes, keep
        self.lost_bytes, self._tail = 0, b""
        path.parent.mkdir(parents=True, exist_ok=True)
        self._descriptor = self._open()
        self._size = os.fstat(self._descriptor).st_size

    def write(self, data: bytes) -> None:
        """Append ``data``, after a rotation where it is due."""
        self._tail = (self._tail + data)[-_TAIL_BYTES:]
        try:
            if self._size and self._size + len(data) > self.max_bytes:
                self._rotate()
            self._size += os.write(self._descriptor, data)
        except OSError:
            self.lost_bytes += len(data)

    def last_line(self) -> str:
        """The last line that says something; empty where there is none since the last start."""
        lines = self._tail.decode(errors="replace").splitlines()
        for line in reversed(lines):
            if line.startswith("--- "):  # ours: a start
                return ""
            if line.strip():
                return line.strip()[:_LINE_LENGTH]
        return ""

    def crashed_at(self) -> str:
        """The line of Python at which the process crashed in C, as ``faulthandler`` tells it; else
        empty."""
        text = self._tail.decode(errors="replace")
        found = _CRASH.search(text[text.rfind("\n--- ") + 1 :])
        if found is None:
            return ""
        file, line, function = found.groups()
        return f"in {function}, {'/'.join(Path(file).parts[-2:])} line {line}"

    def close(self) -> None:
        """Close the file."""
        os.close(self._descriptor)

    def _rotate(self) -> None:
        for number in range(self.keep - 1, 0, -1):
            older = self._numbered(number)
            if older.exists():
                older.rename(self._numbered(number + 1))
        self.path.rename(self._numbered(1))
        fresh = self._open()
        os.close(self._descriptor)
        self._descriptor, self._size = fresh, 0

    def _numbered(self, number: int) -> Path:
        return self.path.with_name(f"{self.path.name}.{number}")

    def _open(self) -> int:
        return os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)


