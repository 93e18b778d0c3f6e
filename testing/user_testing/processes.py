"""Programs in processes of their own, which always end, and whose output a failed test shows."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from user_core.runtime.processes.parents import end_with_parent

_alive: list[Process] = []
_closed: list[Process] = []  # in this test


class Process:
    """A program in a process group of its own, its output in a file.

    Args:
        words: The command line.
        log: Where its output goes; what it says after a restart is appended.
        env: Environment variables beside our own.
    """

    def __init__(
        self, words: Sequence[str], log: Path, env: Mapping[str, str] | None = None
    ) -> None:
        self.words, self.name, self._log = list(words), log.stem, log
        self._env = dict(env or {})
        self.process: subprocess.Popen[str] | None = None

    def start(self) -> Process:
        """Start it, or start it again."""
        with self._log.open("a", encoding="utf-8") as output:
            self.process = subprocess.Popen(
                self.words, stdout=output, stderr=subprocess.STDOUT, text=True,
                env={**os.environ, **self._env}, start_new_session=True, preexec_fn=_die_with_parent,
            )  # fmt: skip
        if self not in _alive:
            _alive.append(self)
        return self

    @property
    def pid(self) -> int:
        """Of the process that was started last."""
        assert self.process is not None, f"{self.name} was not started"
        return self.process.pid

    @property
    def is_running(self) -> bool:
        """Whether it was started and has not ended."""
        return self.process is not None and self.process.poll() is None

    @property
    def log(self) -> str:
        """All that it has said."""
        return self._log.read_text(encoding="utf-8") if self._log.exists() else ""

    def signal(self, number: int) -> None:
        """Send a signal to it, for instance SIGSTOP."""
        os.kill(self.pid, number)

    def kill(self) -> None:
        """End it, and whatever it has started, as a crash does. Idempotent."""
        if self.process is not None:
            kill_group(self.process)

    def interrupt(self, timeout_s: float = 60.0) -> int:
        """End it as Ctrl-C does; returns the exit status."""
        self.signal(signal.SIGINT)
        return self.wait(timeout_s)

    def wait(self, timeout_s: float = 60.0) -> int:
        """Wait for its end; returns the exit status."""
        assert self.process is not None, f"{self.name} was not started"
        try:
            return self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise AssertionError(
                f"{self.name} has not ended after {timeout_s:g} s\n{self.log[-3000:]}"
            ) from None

    def close(self) -> None:
        """End it for good. Idempotent."""
        self.kill()
        if self in _alive:
            _alive.remove(self)
            _closed.append(self)

    def __enter__(self) -> Process:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.close()


def waited_for_core_s(*pids: int) -> float:
    """How long the threads of processes have waited for a core so far (Linux counts it), and how long what is below
    this machine took its cores away; seconds.

    What is promised within a time is promised for a free core: on a busy machine it comes this much later.
    """
    waited_ns = 0
    for pid in pids:
        for file in Path(f"/proc/{pid}/task").glob("*/schedstat"):
            with contextlib.suppress(OSError):  # a thread that has just ended
                waited_ns += int(file.read_text().split()[1])
    stolen = int(Path("/proc/stat").read_text().split(maxsplit=9)[8])
    return waited_ns * 1e-9 + stolen / os.sysconf("SC_CLK_TCK")


class NodeProcess(Process):
    """A ROS node in a process of its own, with its parameters in a file.

    Args:
        module: Its module, whose ``main`` is run: ``user_hal.nodes.hal``.
        params: Its parameters; it brings itself up, unless they say something else.
        folder: For its parameters and its output.
        name: Of those files; by default the module's.
        namespace: Its ROS namespace.
        remaps: Names from and to.
        env: Environment variables beside our own.
        prefix: What runs the command line, for instance inside a network namespace.
    """

    def __init__(
        self,
        module: str,
        params: Mapping[str, Any],
        folder: Path,
        name: str = "",
        *,
        namespace: str = "/r0",
        remaps: Mapping[str, str] | None = None,
        env: Mapping[str, str] | None = None,
        prefix: Sequence[str] = (),
    ) -> None:
        name = name or module.rpartition(".")[2]
        file = folder / f"{name}.yaml"
        document = {"/**": {"ros__parameters": {"autostart": True, **params}}}
        file.write_text(yaml.safe_dump(document), encoding="utf-8")
        program = f"from {module} import main; import sys; sys.exit(main())"
        words = [*prefix, sys.executable, "-c", program, "--ros-args", "-r", f"__ns:={namespace}"]
        for old, new in (remaps or {}).items():
            words += ["-r", f"{old}:={new}"]
        super().__init__([*words, "--params-file", str(file)], folder / f"{name}.log", env)


def _die_with_parent() -> None:
    """Called in the child: the kernel kills it when whoever started it is gone, however that ended."""
    end_with_parent(signal.SIGKILL)


def killed_after(words: Sequence[str], delay_s: float) -> list[str]:
    """Run a program that would go on for ever, and kill it this long after its first line.

    Returns:
        The lines that it had printed, without one that is cut off.
    """
    process = subprocess.Popen(
        words, stdout=subprocess.PIPE, text=True, preexec_fn=_die_with_parent
    )
    try:
        assert process.stdout is not None
        assert select.select([process.stdout], [], [], 180.0)[0], "it says nothing"
        first = process.stdout.readline()
        time.sleep(delay_s)
        assert process.poll() is None, "it ended by itself"
    finally:
        process.kill()
        rest, _ = process.communicate()
    return [line for line in (first + rest).splitlines(True) if line.endswith("\n")]


def kill_group(process: subprocess.Popen[Any]) -> None:
    """End a process that leads a group, and the group with it. Idempotent."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    for stream in (process.stdin, process.stdout, process.stderr):
        if stream is not None:
            stream.close()


def logs_of_test(characters: int = 3000) -> list[tuple[str, str]]:
    """Name and end of the output of each process that runs, or was closed since the test began."""
    return [(process.name, process.log[-characters:]) for process in (*_closed, *_alive)]


def begin_test() -> None:
    """What was closed before is no concern of the test that begins."""
    _closed.clear()


def close_all() -> None:
    """End whatever is left."""
    for process in list(_alive):
        process.close()
