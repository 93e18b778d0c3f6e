"""One supervised process."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from user_fleet.deployment.model import ProcessSpec
from user_fleet.deployment.render import CommandLine
from user_fleet.supervisor.backoff import Backoff
from user_fleet.supervisor.log_file import LogFile
from user_fleet.supervisor.standby import GO, MODULES_VARIABLE, standby_words
from user_fleet.supervisor.watchman import Watchman

_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None


class ChildState(Enum):
    """Where a supervised process is."""

    WAITING = "waiting"
    """For its first start, or for the end of a backoff."""
    RUNNING = "running"
    STOPPING = "stopping"
    ENDED = "ended"
    """Not to be started again."""
    GIVEN_UP = "given up"
    """Failed too often, or cannot be started at all."""


@dataclass
class _Started:
    """A process, and the task that copies its output."""

    process: asyncio.subprocess.Process
    copy: asyncio.Task[None]


class Child:
    """Starts a process, keeps its output, starts it again as its policy says.

    The process gets its own process group, so that what it starts dies with it. It asks the
    kernel for SIGTERM when the supervisor dies, however that happens, so none is orphaned; the
    watchman sees to what that does not reach.
    """

    def __init__(
        self,
        spec: ProcessSpec,
        command: CommandLine,
        log_dir: Path,
        on_change: Callable[[Child], None] = lambda child: None,
        watchman: Watchman | None = None,
    ) -> None:
        self.spec, self.command = spec, command
        self._watchman = watchman
        self.state = ChildState.WAITING
        self.pid = 0
        self.restarts = 0
        self.last_exit: int | None = None
        self.detail = ""
        self.started_s = 0.0
        self._on_change = on_change
        self._log_path = log_dir / f"{spec.name}.log"
        self._modules = log_dir / f"{spec.name}.modules"
        self._standby: _Started | None = None
        self._stop = asyncio.Event()
        self._backoff = Backoff(spec.restart)

    async def run(self) -> None:
        """Run until stopped, ended for good, or given up."""
        log = LogFile(self._log_path)
        try:
            while not self._stop.is_set():
                exit_code = await self._run_once(log)
                if self._stop.is_set() or exit_code is None:
                    break
                now_s = time.monotonic()
                wait_s = self._backoff.ended(now_s, now_s - self.started_s, exit_code)
                if wait_s is None:
                    gave_up = exit_code != 0 and self.spec.restart.when != "never"
                    self._change(ChildState.GIVEN_UP if gave_up else ChildState.ENDED)
                    return
                self._change(ChildState.WAITING, f"{self.detail}; restart in {wait_s:.1f} s")
                with contextlib.suppress(asyncio.TimeoutError):
                    await asyncio.wait_for(self._stop.wait(), wait_s)
                self.restarts += 1
            if self.state is not ChildState.GIVEN_UP:
                self._change(ChildState.ENDED)
        finally:
            self._signal(signal.SIGKILL)
            await self._dismiss_standby()
            log.close()

    def forbid_start(self) -> None:
        """Start no more; a running process goes on."""
        self._stop.set()

    async def stop(self) -> None:
        """Ask for an orderly end; kill what is left of the group when its time is over."""
        self._stop.set()
        if self.state is ChildState.RUNNING:
            self._change(ChildState.STOPPING)
            self._signal(signal.SIGINT)
            deadline_s = time.monotonic() + self.spec.stop_timeout_s
            while self.pid and time.monotonic() < deadline_s:
                await asyncio.sleep(0.02)
            if self.pid:
                self.detail = f"killed: did not end within {self.spec.stop_timeout_s:g} s"
                self._signal(signal.SIGKILL)
                while self.pid:
                    await asyncio.sleep(0.02)

    async def _run_once(self, log: LogFile) -> int | None:
        log.write(f"--- {time.strftime('%F %T')} {' '.join(self.command.words)}\n".encode())
        started = self._wake_standby()
        try:
            started = started or await self._start(self.command.words, log)
        except OSError as error:
            self._change(
                ChildState.GIVEN_UP, f"cannot start {self.command.words[0]}: {error.strerror}"
            )
            return None
        self.pid, self.started_s = started.process.pid, time.monotonic()
        self._change(ChildState.RUNNING, f"pid {self.pid}")
        prepare = asyncio.create_task(self._prepare_standby(log))
        try:
            exit_code = await started.process.wait()
        finally:
            prepare.cancel()
            self._signal(signal.SIGKILL)  # what it left behind in its group
            if self._watchman is not None:
                self._watchman.end(self.pid)
            self.pid = 0
        await asyncio.wait({started.copy}, timeout=1.0)
        started.copy.cancel()
        self.last_exit = exit_code
        self.detail = describe_exit(exit_code)
        log.write(f"--- {time.strftime('%F %T')} {self.detail}\n".encode())
        return exit_code

    async def _start(
        self, words: Sequence[str], log: LogFile, stdin: int = asyncio.subprocess.DEVNULL
    ) -> _Started:
        """Start a process in a session of its own; raises OSError."""
        supervisor = os.getpid()
        # A pipe of our own: asyncio's would make wait() last until a grandchild that inherited
        # it has ended too.
        output, write_end = os.pipe()
        try:
            process = await asyncio.create_subprocess_exec(
                *words,
                stdin=stdin,
                stdout=write_end,
                stderr=write_end,
                env=self._environment(),
                start_new_session=True,
                preexec_fn=lambda: _prepare(supervisor, self.spec.niceness),
            )
        except OSError:
            os.close(output)
            raise
        finally:
            os.close(write_end)
        if self._watchman is not None:
            self._watchman.begin(process.pid)
        return _Started(process, asyncio.create_task(_copy(output, log)))

    def _environment(self) -> dict[str, str]:
        ours = {"PYTHONUNBUFFERED": "1"}
        if self.spec.restart.has_standby:
            ours[MODULES_VARIABLE] = str(self._modules)
        return {**os.environ, **ours, **self.command.environment}

    async def _prepare_standby(self, log: LogFile) -> None:
        """Have another process ready, once this one has come up and says what it imported."""
        restart = self.spec.restart
        words = standby_words(self.command.words, self._modules, self.spec.niceness)
        if not restart.has_standby or words is None or self._standby is not None:
            return
        await asyncio.sleep(restart.standby_after_s)
        while not self._modules.exists():
            await asyncio.sleep(1.0)
        with contextlib.suppress(OSError):  # without one everything else works
            self._standby = await self._start(words, log, asyncio.subprocess.PIPE)

    def _wake_standby(self) -> _Started | None:
        standby, self._standby = self._standby, None
        if standby is None or standby.process.returncode is not None:
            return None
        assert standby.process.stdin is not None
        standby.process.stdin.write(GO)
        standby.process.stdin.close()
        return standby

    async def _dismiss_standby(self) -> None:
        standby, self._standby = self._standby, None
        if standby is None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(standby.process.pid, signal.SIGKILL)
        await standby.process.wait()
        if self._watchman is not None:
            self._watchman.end(standby.process.pid)
        standby.copy.cancel()

    def _signal(self, number: int) -> None:
        if self.pid:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, number)

    def _change(self, state: ChildState, detail: str | None = None) -> None:
        self.state = state
        if detail is not None:
            self.detail = detail
        self._on_change(self)


def describe_exit(exit_code: int) -> str:
    """An exit code in words."""
    if exit_code >= 0:
        return f"ended with exit code {exit_code}"
    try:
        return f"killed by {signal.Signals(-exit_code).name}"
    except ValueError:
        return f"killed by signal {-exit_code}"


async def _copy(descriptor: int, log: LogFile) -> None:
    stream = asyncio.StreamReader()
    transport, _ = await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(stream), os.fdopen(descriptor, "rb", 0)
    )
    try:
        while data := await stream.read(1 << 16):
            log.write(data)
    finally:
        transport.close()


def _prepare(supervisor: int, niceness: int) -> None:
    """In the child, before the program starts."""
    if _LIBC is not None:
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != supervisor:  # it died before we asked
            os._exit(1)
    if niceness:
        os.nice(niceness)
        # Where the kernel groups processes by session, and each of ours has one of its own,
        # niceness says nothing between them: that of the group does.
        with contextlib.suppress(OSError), open("/proc/self/autogroup", "w") as group:
            group.write(str(niceness))
