"""A program in a process of its own, its output in a file: what tests of several hosts are made of."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path


class Node:
    """One node in a process of its own, on one of the hosts."""

    def __init__(
        self, folder: Path, name: str, words: list[str], environment: dict[str, str]
    ) -> None:
        self.name, self._words = name, words
        self._environment = {**os.environ, **environment}
        self._log = open(folder / f"{name}.log", "a", encoding="utf-8")  # noqa: SIM115
        self.process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        self.process = subprocess.Popen(
            self._words, stdout=self._log, stderr=subprocess.STDOUT, text=True,
            env=self._environment, start_new_session=True,
        )  # fmt: skip

    def kill(self) -> None:
        if self.process is not None and self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()

    def interrupt(self) -> None:
        assert self.process is not None
        os.killpg(self.process.pid, signal.SIGINT)
        assert self.process.wait(timeout=30) == 0, self.log[-2000:]

    @property
    def log(self) -> str:
        return Path(self._log.name).read_text(encoding="utf-8")

    def close(self) -> None:
        self.kill()
        self._log.close()
