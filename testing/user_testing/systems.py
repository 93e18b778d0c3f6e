"""Processes of benchmarks, for instance whole systems by ``user up``: they end when the benchmark does.

However that happens: by itself, by Ctrl-C, by SIGTERM (``timeout``, a job that is cancelled) or by
SIGKILL.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import json
import multiprocessing
import os
import select
import signal
import subprocess
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from user_core.runtime.processes import parents


def end_with_parent() -> None:
    """Called in a child: the kernel ends it by SIGTERM when what started it is gone.

    That is the thread that started it.
    """
    parents.end_with_parent(signal.SIGTERM)


def end_with_pool() -> None:
    """The ``initializer`` of a pool of processes: its processes end when that of the pool is gone.

    Pools start processes from threads that end before them: with :func:`end_with_parent` a process was killed
    with the lock of the pool's queue in its hand, and the pool never ended.
    """
    parent = os.pidfd_open(os.getppid())

    def watch() -> None:
        select.select([parent], [], [])
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, name="parent", daemon=True).start()


def call_until_parent_ends(function: Callable[..., Any], *values: Any) -> Any:
    """Call a function in a child that ends when what started it is gone.

    The ``target`` of a ``multiprocessing.Process``, whose ``args`` are the function and its values.
    """
    end_with_parent()
    return function(*values)


def each_in_its_own_process(
    function: Callable[..., Any], jobs: Iterable[Sequence[Any]], processes: int
) -> Iterator[Any]:
    """What a function returns for each job, in their order; none finds what another has left in memory.

    Args:
        function: Of a module that can be imported; its arguments and what it returns can be pickled.
        jobs: The arguments of each call.
        processes: How many work at once.

    Raises:
        Whatever the function raises; BrokenProcessPool where its process was killed.
    """
    # `max_tasks_per_child` of one pool would do the same, but not before Python 3.11.
    context = multiprocessing.get_context("spawn")

    def run(job: Sequence[Any]) -> Any:
        with concurrent.futures.ProcessPoolExecutor(1, context, end_with_pool) as alone:
            return alone.submit(function, *job).result()

    with concurrent.futures.ThreadPoolExecutor(processes) as threads:
        yield from threads.map(run, jobs)


def take_sigterm_as_ctrl_c() -> None:
    """SIGTERM raises KeyboardInterrupt: what this process has begun is ended in order.

    Where nothing else is done with that signal, and in the main thread; else nothing happens.
    """
    if threading.current_thread() is not threading.main_thread():
        return
    if signal.getsignal(signal.SIGTERM) == signal.SIG_DFL:
        signal.signal(signal.SIGTERM, signal.default_int_handler)


def _begin() -> None:
    """In a child, before its program: it ends with us, and Ctrl-C ends it.

    A shell starts what it puts into the background with SIGINT ignored, and all that this starts inherits it.
    """
    end_with_parent()
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.SIG_DFL)


def start(words: Sequence[str], **options: Any) -> subprocess.Popen[Any]:
    """``subprocess.Popen``, of a process that ends when this one does.

    Args:
        words: Program and arguments.
        options: Of :class:`subprocess.Popen`.
    """
    take_sigterm_as_ctrl_c()
    return subprocess.Popen(words, preexec_fn=_begin, **options)


class InLines:
    """A process that is told what to do in lines, and answers in lines of JSON.

    Args:
        process: With pipes for text to its input and from its output.
        who: It, in what is said when it has ended.
    """

    def __init__(self, process: subprocess.Popen[str], who: str) -> None:
        self._process, self._who = process, who

    def tell(self, line: str) -> None:
        """Say what it is to do."""
        assert self._process.stdin is not None
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()

    def answer(self) -> dict[str, Any]:
        """What it says next. Raises RuntimeError if it has ended."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self._who} has ended")
        found: dict[str, Any] = json.loads(line)
        return found

    def ask(self, line: str) -> dict[str, Any]:
        """What it answers to this."""
        self.tell(line)
        return self.answer()

    def close(self) -> None:
        """End it, if it has not ended."""
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()


def run_to_end(words: Sequence[str], **options: Any) -> subprocess.CompletedProcess[Any]:
    """``subprocess.run``, of a process that ends when this one does.

    Args:
        words: Program and arguments.
        options: Of :func:`subprocess.run`.
    """
    take_sigterm_as_ctrl_c()
    return subprocess.run(words, preexec_fn=_begin, **options)


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
    process = start(command, start_new_session=True, **options)
    try:
        yield process
    finally:
        try:
            with contextlib.suppress(ProcessLookupError, subprocess.TimeoutExpired):
                process.send_signal(signal.SIGINT)
                process.wait(patience_s)
        finally:  # also at a second Ctrl-C
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
