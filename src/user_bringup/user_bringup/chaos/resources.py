"""What the processes of a run use, over time."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil


class ResourceRecorder:
    """Appends a JSON line a process and look, and one with the sizes of the run's folders.

    Args:
        file: Where to.
        run_dir: Folder of the run.
    """

    def __init__(self, file: Path, run_dir: Path) -> None:
        self._run_dir = run_dir
        self._stream = file.open("a", encoding="utf-8")
        self._processes: dict[int, psutil.Process] = {}

    def look(self, pids: Mapping[str, int]) -> None:
        """Write what these processes use now, by name."""
        now = round(time.time(), 3)
        for name, pid in pids.items():
            try:
                process = self._processes.setdefault(pid, psutil.Process(pid))
                with process.oneshot():
                    memory = process.memory_full_info()
                    self._write(
                        t=now, kind="process", name=name, pid=pid,
                        rss=memory.rss, uss=memory.uss, threads=process.num_threads(),
                        fds=process.num_fds(), cpu=process.cpu_percent(),
                    )  # fmt: skip
            except (psutil.Error, OSError):  # it has just ended
                self._processes.pop(pid, None)
        folders = {
            entry.name: size_of(Path(entry.path)) for entry in os.scandir(self._run_dir)
            if entry.is_dir()
        }  # fmt: skip
        self._write(t=now, kind="disk", **folders)

    def close(self) -> None:
        """Close the file."""
        self._stream.close()

    def _write(self, **values: Any) -> None:
        self._stream.write(json.dumps(values) + "\n")
        self._stream.flush()


def size_of(folder: Path) -> int:
    """Bytes on the disk of all files below a folder."""
    total = 0
    for path, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.lstat(os.path.join(path, name)).st_blocks * 512
            except OSError:
                continue
    return total
