"""Whole systems for benchmarks: ``user up`` as a process, ended with its block in any case."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any


def words_of_run(
    deployment: str | Path, *words: str, runs: str | Path, run: str = "r"
) -> list[str]:
    """The command that runs a deployment, without the table for people.

    Args:
        deployment: Its name or file.
        words: Its arguments, ``name:=value``.
        runs: Folder of all runs.
        run: Name of this one.
    """
    return ["user", "up", str(deployment), *words, "--runs", str(runs), "--run", run, "--no-table"]


@contextlib.contextmanager
def started(
    command: Sequence[str], *, patience_s: float = 60.0, **options: Any
) -> Iterator[subprocess.Popen[Any]]:
    """A command in a process group of its own. At the end of the block it gets Ctrl-C; what is left of
    its group after ``patience_s`` is killed.

    Args:
        command: Program and arguments.
        patience_s: How long it may take to end, seconds.
        options: Of :class:`subprocess.Popen`.
    """
    process = subprocess.Popen(command, start_new_session=True, **options)
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError, subprocess.TimeoutExpired):
            process.send_signal(signal.SIGINT)
            process.wait(patience_s)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
