"""Runs the processes of a deployment, and keeps them running: one :class:`Child` each."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import re
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

from user_core.reasons import NO_REASON
from user_core.runtime import last_words
from user_fleet.deployment.model import ProcessSpec, start_order
from user_fleet.deployment.render import CommandLine
from user_fleet.supervisor.abandoned_memory import remove_abandoned_memory
from user_fleet.supervisor.endings import Endings
from user_fleet.supervisor.orphan_reaper import OrphanReaper
from user_fleet.supervisor.restarts import Restarts
from user_fleet.supervisor.standby import GO, MODULES_VARIABLE, standby_words


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


#: What is kept of a process's output, to find its last line; and the most that is shown of it.
_TAIL_BYTES, _LINE_LENGTH = 32768, 300
#: What ``faulthandler`` writes: the innermost frame of the thread that crashed.
_CRASH = re.compile(
    r'Fatal Python error: .*?^Current thread [^\n]*\n  File "([^"\n]+)", line (\d+) in (\S+)',
    re.DOTALL | re.MULTILINE,
)
_PR_SET_PDEATHSIG = 1
#: How far a standby gives way to the processes that work.
_STANDBY_NICENESS = 19
#: The kernel takes a new niceness of a session ten times a second, from all users together.
_NICENESS_RETRY_S = 0.11
_NICENESS_PATIENCE_S = 2.0
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
    """A process, the task that copies its output, and the one that sets how far it gives way."""

    process: asyncio.subprocess.Process
    copy: asyncio.Task[None]
    niceness: asyncio.Task[bool]


class Child:
    """Starts a process, keeps its output, starts it again as its policy says.

    Why it ended is what it said itself (:mod:`user_core.runtime.last_words`), else the last line
    of its output. What would end in the same way again, or has done so several times, is given
    up.

    Attributes:
        cause: Why it ended last; false while it has not, or did so in good order.
        hopeless: Whether it was given up because it would fail in the same way again.

    The process gets its own process group, so that what it starts dies with it. It asks the
    kernel for SIGTERM when the supervisor dies, however that happens, so that none is orphaned;
    the orphan reaper ends what that does not reach.
    """

    def __init__(
        self,
        spec: ProcessSpec,
        command: CommandLine,
        log_dir: Path,
        on_change: Callable[[Child], None] = lambda child: None,
        reaper: OrphanReaper | None = None,
    ) -> None:
        self.spec, self.command = spec, command
        self._reaper = reaper
        self.state = ChildState.WAITING
        self.pid = 0
        self.restarts = 0
        self.last_exit: int | None = None
        self.detail = ""
        self.cause = NO_REASON
        self.hopeless = False
        self.started_s = 0.0
        self._on_change = on_change
        self._log_path = log_dir / f"{spec.name}.log"
        self._modules = log_dir / f"{spec.name}.modules"
        self._standby: _Started | None = None
        self._stop = asyncio.Event()
        self._restarts = Restarts(spec.restart)
        self._last_words = log_dir / f"{spec.name}.ending"
        self._endings = Endings(spec, self._last_words)

    async def run(self) -> None:
        """Run until stopped, ended for good, or given up."""
        log = LogFile(self._log_path)
        try:
            while not self._stop.is_set():
                exit_code = await self._run_once(log)
                if self._stop.is_set() or exit_code is None:
                    break
                if self.hopeless:
                    self._change(ChildState.GIVEN_UP)
                    return
                now_s = time.monotonic()
                wait_s = self._restarts.ended(now_s, now_s - self.started_s, exit_code)
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
        self._endings.begin()
        started = await self._wake_standby(log)
        try:
            started = started or await self._start(self.command.words, log, self.spec.niceness)
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
            if self._reaper is not None:
                self._reaper.end(self.pid)
            self.pid = 0
        started.niceness.cancel()
        await asyncio.wait({started.copy}, timeout=1.0)
        started.copy.cancel()
        if exit_code < 0:  # it had no time to give back its shared memory
            await asyncio.to_thread(remove_abandoned_memory)
        self.last_exit = exit_code
        self._judge(exit_code, log)
        log.write(f"--- {time.strftime('%F %T')} {self.detail}\n".encode())
        return exit_code

    def _judge(self, exit_code: int, log: LogFile) -> None:
        """Why it ended, and whether it would end so again."""
        endings = self._endings
        last = log.last_line() if exit_code > 0 else log.crashed_at()
        endings.judge(exit_code, last, wanted=self._stop.is_set())
        self.cause, self.detail = endings.cause, endings.detail
        self.hopeless = endings.hopeless

    async def _start(
        self,
        words: Sequence[str],
        log: LogFile,
        session_niceness: int,
        stdin: int = asyncio.subprocess.DEVNULL,
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
        if self._reaper is not None:
            self._reaper.begin(process.pid)
        return _Started(
            process,
            asyncio.create_task(_copy(output, log)),
            asyncio.create_task(set_session_niceness(process.pid, session_niceness)),
        )

    def _environment(self) -> dict[str, str]:
        ours = {"PYTHONUNBUFFERED": "1", last_words.VARIABLE: str(self._last_words)}
        if self.spec.restart.has_standby:
            ours[MODULES_VARIABLE] = str(self._modules)
        return {**os.environ, **ours, **self.command.environment}

    async def _prepare_standby(self, log: LogFile) -> None:
        """Have another process ready, once this one has come up and says what it imported."""
        restart = self.spec.restart
        words = standby_words(self.command.words, self._modules)
        if not restart.has_standby or words is None or self._standby is not None:
            return
        await asyncio.sleep(restart.standby_after_s)
        while not self._modules.exists():
            await asyncio.sleep(1.0)
        with contextlib.suppress(OSError):  # without one everything else works
            self._standby = await self._start(
                words, log, _STANDBY_NICENESS, asyncio.subprocess.PIPE
            )

    async def _wake_standby(self, log: LogFile) -> _Started | None:
        """The standby, which takes over and no longer gives way to others; None where there is
        none.

        It may still be importing, at the end of the queue for the processor. So its place in
        that queue is changed here and not by itself, before anything else; where that cannot be
        done, it is replaced by a fresh process.
        """
        standby, self._standby = self._standby, None
        if standby is None:
            return None
        standby.niceness.cancel()
        await asyncio.wait({standby.niceness})
        if has_ended(standby.process):
            await self._dismiss(standby)
            return None
        if not await set_session_niceness(standby.process.pid, self.spec.niceness):
            log.write(b"--- the standby cannot get the niceness of its process: a fresh one\n")
            await self._dismiss(standby)
            return None
        assert standby.process.stdin is not None
        standby.process.stdin.write(GO)
        standby.process.stdin.close()
        return standby

    async def _dismiss_standby(self) -> None:
        standby, self._standby = self._standby, None
        if standby is not None:
            await self._dismiss(standby)

    async def _dismiss(self, standby: _Started) -> None:
        standby.niceness.cancel()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(standby.process.pid, signal.SIGKILL)
        await standby.process.wait()
        if self._reaper is not None:
            self._reaper.end(standby.process.pid)
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


def has_ended(process: asyncio.subprocess.Process) -> bool:
    """Whether a child of ours has ended, also when the event loop has not heard of it yet."""
    if process.returncode is not None:
        return True
    try:
        return os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
    except ChildProcessError:
        return True


async def set_session_niceness(pid: int, niceness: int) -> bool:
    """Set the niceness of a process's session, where the kernel shares out the processor between
    sessions first; ``nice`` says nothing between processes of different sessions there.

    Only what changes is written: everybody may raise and lower it down to 0, but the kernel
    takes few changes a second, so that it is tried again for two seconds.

    Returns:
        Whether it is so now, or of no importance because this kernel has no such groups.
    """
    file = Path(f"/proc/{pid}/autogroup")
    give_up_s = time.monotonic() + _NICENESS_PATIENCE_S
    while True:
        try:
            if int(file.read_text(encoding="ascii").split()[-1]) == niceness:
                return True
            file.write_text(str(niceness), encoding="ascii")
            return True
        except FileNotFoundError:  # no such groups, or the process has ended
            return True
        except BlockingIOError:
            if time.monotonic() > give_up_s:
                return False
        except (OSError, ValueError, IndexError):
            return False
        await asyncio.sleep(_NICENESS_RETRY_S)


def _prepare(supervisor: int, niceness: int) -> None:
    """In the child, before the program starts."""
    if _LIBC is not None:
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != supervisor:  # it died before we asked
            os._exit(1)
    if niceness:
        os.nice(niceness)


class Supervisor:
    """Starts processes in order, restarts them, and stops them in reverse order.

    Args:
        processes: What to run.
        commands: The command of each process, by its name.
        log_dir: Where the output of each goes, ``<name>.log``.
        on_change: Called whenever a child changes its state.

    Attributes:
        children: By name.
        ended_by: The process whose hopeless failure ended the run; None if none did.

    Use as ``await supervisor.run()`` in a task; ``supervisor.request_stop()`` ends it.
    """

    def __init__(
        self,
        processes: Sequence[ProcessSpec],
        commands: Mapping[str, CommandLine],
        log_dir: Path,
        on_change: Callable[[Child], None] = lambda child: None,
    ) -> None:
        def changed(child: Child) -> None:
            on_change(child)
            self._end_where_hopeless(child)
            if child.spec.required and child.state in (ChildState.ENDED, ChildState.GIVEN_UP):
                self.request_stop()

        self._reaper = OrphanReaper(max((p.stop_timeout_s for p in processes), default=10.0))
        self.children = {
            spec.name: Child(spec, commands[spec.name], log_dir, changed, self._reaper)
            for spec in start_order(processes)
        }
        self._stop = asyncio.Event()
        self.ended_by: Child | None = None

    def _end_where_hopeless(self, child: Child) -> None:
        """A process that was given up ends the run, unless another of its kind still works: of
        two robots the other goes on."""
        if not child.hopeless or child.state is not ChildState.GIVEN_UP or self._stop.is_set():
            return
        over = (ChildState.GIVEN_UP, ChildState.ENDED)
        kind = (child.spec.package, child.spec.executable)
        alive = (c for c in self.children.values() if c.state not in over)
        if not any((c.spec.package, c.spec.executable) == kind for c in alive):
            self.ended_by = child
            self.request_stop()

    def request_stop(self) -> None:
        """Ask :meth:`run` to stop everything and return."""
        self._stop.set()

    async def run(self) -> bool:
        """Run until asked to stop, until every process has ended for good, or until one was given
        up that nothing can stand in for (:attr:`ended_by`).

        Returns:
            Whether no process was given up.
        """
        await asyncio.to_thread(remove_abandoned_memory)  # of what was killed in earlier runs
        tasks = {name: asyncio.create_task(child.run()) for name, child in self.children.items()}
        stopped = asyncio.create_task(self._stop.wait())
        everything: asyncio.Future[list[None]] = asyncio.gather(*tasks.values())
        ends: set[asyncio.Future[Any]] = {stopped, everything}
        try:
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        finally:
            stopped.cancel()
            await self._shut_down()
            await asyncio.gather(*tasks.values(), return_exceptions=True)
            self._reaper.close()
        return all(child.state is not ChildState.GIVEN_UP for child in self.children.values())

    async def _shut_down(self) -> None:
        """Reverse order: a process ends before those on which it depends."""
        for child in reversed(self.children.values()):
            child.forbid_start()
        for child in reversed(self.children.values()):
            await child.stop()
