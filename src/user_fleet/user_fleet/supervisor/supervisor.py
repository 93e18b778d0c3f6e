"""Runs the processes of a deployment, and keeps them running: one :class:`Child` each."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

from user_core.reasons import NO_REASON
from user_core.runtime.dds.abandoned_mutexes import release_abandoned_mutexes
from user_core.runtime.dds.half_made_ports import mend_half_made_ports
from user_core.runtime.dds.retired_ports import retire_ports_of_dead
from user_core.runtime.processes import came_up, last_words
from user_core.runtime.processes.endings import PATIENCE_VARIABLE
from user_core.runtime.processes.parents import end_with_parent
from user_fleet.deployment.model import ProcessSpec, start_order
from user_fleet.deployment.render import CommandLine
from user_fleet.supervisor.abandoned_memory import remove_abandoned_memory
from user_fleet.supervisor.endings import Endings
from user_fleet.supervisor.log_file import LogFile
from user_fleet.supervisor.niceness import (
    STANDBY_NICENESS,
    URGENT_NICENESS,
    set_session_niceness,
    set_threads_niceness,
)
from user_fleet.supervisor.orphan_reaper import OrphanReaper
from user_fleet.supervisor.restarts import Restarts
from user_fleet.supervisor.standby import (
    GO,
    GO_ON,
    MODULES_VARIABLE,
    READY,
    WAIT,
    standby_words,
)
from user_fleet.supervisor.standby_queue import StandbyQueue

#: A node of ours says when it works; any other process counts as up after this time.
_UP_S = 5.0
#: A restarted process goes before others until this time after it came up: what it does at first
#: (a learner reads its store) belongs to its return.
_URGENT_S = 10.0
#: How often the supervisor looks who has come up, and whose standby may be made ready.
_TEND_S = 0.1
#: How often it looks for what others would wait for without limit.
_STUCK_S = 5.0


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
    ours: socket.socket | None = None
    """Of a standby: our end of its standard input."""
    hears: asyncio.Task[None] | None = None
    """Of a standby: waits for its word that it is ready."""

    def tell(self, order: bytes) -> None:
        """Say something to a standby."""
        if self.ours is not None:
            with contextlib.suppress(OSError):  # it has ended
                self.ours.send(order)

    def let_go(self) -> None:
        """It stands by no more: nothing is to be said any more."""
        if self.hears is not None:
            self.hears.cancel()
        if self.ours is not None:
            self.ours.close()


class Child:
    """Starts a process, keeps its output, starts it again as its policy says.

    Why it ended is what it said itself (:mod:`user_core.runtime.processes.last_words`), else the last line
    of its output. What would end in the same way again, or has done so several times, is given
    up.

    The process gets its own process group, so that what it starts dies with it. It asks the
    kernel for SIGTERM when the supervisor dies, however that happens, so that none is orphaned;
    the orphan reaper ends what that does not reach.

    Attributes:
        cause: Why it ended last; false while it has not, or did so in good order.
        hopeless: Whether it was given up because it would fail in the same way again.
    """

    def __init__(
        self,
        spec: ProcessSpec,
        command: CommandLine,
        log_dir: Path,
        on_change: Callable[[Child], None] = lambda child: None,
        reaper: OrphanReaper | None = None,
        standbys: StandbyQueue | None = None,
    ) -> None:
        self.spec, self.command = spec, command
        self._reaper = reaper
        self._queue = standbys or StandbyQueue()
        self._queue.add(spec.name, self._standby_after_s, rank=0 if spec.robot else 1)
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
        self._up = log_dir / f"{spec.name}.up"
        self._standby: _Started | None = None
        self._paused = False
        self._starts = False
        self._stop, self._anew = asyncio.Event(), asyncio.Event()
        self._restarts = Restarts(spec.restart)
        self._last_words = log_dir / f"{spec.name}.ending"
        self._endings = Endings(spec, self._last_words)

    async def run(self) -> None:
        """Run until stopped, ended for good, or given up."""
        log = self._log = LogFile(self._log_path)
        try:
            while not self._stop.is_set():
                exit_code = await self._run_once(log)
                if self._stop.is_set() or exit_code is None:
                    break
                if self._anew.is_set():
                    self.cause = NO_REASON
                    self.restarts += 1
                    continue
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
                await self._wait(wait_s)
                self.restarts += 1
            if self.state is not ChildState.GIVEN_UP:
                self._change(ChildState.ENDED)
        finally:
            self._signal(signal.SIGKILL)
            self._queue.over(self.spec.name)
            await self._dismiss_standby()
            log.close()

    def forbid_start(self) -> None:
        """Start no more; a running process goes on."""
        self._stop.set()

    async def _wait(self, wait_s: float) -> None:
        """For this long, or until it is to end, or to be started at once."""
        wakes = [asyncio.create_task(one.wait()) for one in (self._stop, self._anew)]
        await asyncio.wait(wakes, timeout=wait_s, return_when=asyncio.FIRST_COMPLETED)
        for one in wakes:
            one.cancel()

    async def restart(self) -> None:
        """Start it anew, because somebody asks for it: in order, and without waiting; that it ended is no failure.
        Nothing is done to one that is over."""
        over = (ChildState.STOPPING, ChildState.ENDED, ChildState.GIVEN_UP)
        if self._stop.is_set() or self._anew.is_set() or self.state in over:
            return
        self._anew.set()
        await self._end_process()

    async def stop(self) -> None:
        """Ask for an orderly end; kill what is left of the group when its time is over."""
        self._stop.set()
        await self._end_process()

    async def _end_process(self) -> None:
        while self._starts:  # it is just being created, and can be asked to end after that
            await asyncio.sleep(0.02)
        # Somebody has asked it to end already, and kills it in time.
        while self.pid and self.state is ChildState.STOPPING:
            await asyncio.sleep(0.02)
        if self.state is ChildState.RUNNING:
            self._change(ChildState.STOPPING)
            self._signal(signal.SIGINT)
            pid, deadline_s = self.pid, time.monotonic() + self.spec.stop_timeout_s
            while pid and self.pid == pid and time.monotonic() < deadline_s:
                await asyncio.sleep(0.02)
            if pid and self.pid == pid:
                self.detail = f"killed: did not end within {self.spec.stop_timeout_s:g} s"
                self._signal(signal.SIGKILL)
                while self.pid == pid:
                    await asyncio.sleep(0.02)

    async def _run_once(self, log: LogFile) -> int | None:
        log.write(f"--- {time.strftime('%F %T')} {' '.join(self.command.words)}\n".encode())
        self._anew.clear()  # whoever wanted it started has it so
        self._endings.begin()
        self._up.unlink(missing_ok=True)
        self._queue.began(self.spec.name, time.monotonic())
        self._starts = True
        try:
            started = await self._wake_standby(log)
            started = started or await self._start(self.command.words, log, self._first_niceness)
            self.pid, self.started_s = started.process.pid, time.monotonic()
            self._change(ChildState.RUNNING, f"pid {self.pid}")
        except OSError as error:
            self._change(
                ChildState.GIVEN_UP, f"cannot start {self.command.words[0]}: {error.strerror}"
            )
            return None
        finally:
            self._starts = False
        settle = asyncio.create_task(self._settle())
        try:
            exit_code = await started.process.wait()
        finally:
            settle.cancel()
            self._queue.began(self.spec.name, time.monotonic())  # what is next is to start it again
            self._signal(signal.SIGKILL)  # what it left behind in its group
            if self._reaper is not None:
                self._reaper.end(self.pid)
            self.pid = 0
        started.niceness.cancel()
        await asyncio.wait({started.copy}, timeout=1.0)
        started.copy.cancel()
        if exit_code < 0:  # it had no time to give back its shared memory
            await asyncio.to_thread(_tidy_memory)
        self.last_exit = exit_code
        self._judge(exit_code, log)
        log.write(f"--- {time.strftime('%F %T')} {self.detail}\n".encode())
        return exit_code

    def _judge(self, exit_code: int, log: LogFile) -> None:
        """Why it ended, and whether it would end so again."""
        endings = self._endings
        last = log.last_line() if exit_code > 0 else log.crashed_at()
        endings.judge(exit_code, last, wanted=self._stop.is_set() or self._anew.is_set())
        self.cause, self.detail = endings.cause, endings.detail
        self.hopeless = endings.hopeless

    async def _start(
        self,
        words: Sequence[str],
        log: LogFile,
        session_niceness: int,
        stdin: int = asyncio.subprocess.DEVNULL,
        ours: socket.socket | None = None,
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
                preexec_fn=lambda: _prepare(supervisor, 0 if self._says_so else self.spec.niceness),
            )
        except BaseException:  # cancelled, too: asyncio ends what it has begun to start
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
            ours,
        )

    def _environment(self) -> dict[str, str]:
        ours = {
            "PYTHONUNBUFFERED": "1",
            last_words.VARIABLE: str(self._last_words),
            came_up.VARIABLE: str(self._up),
            PATIENCE_VARIABLE: str(self.spec.stop_timeout_s),
        }
        if self.spec.restart.has_standby:
            ours[MODULES_VARIABLE] = str(self._modules)
        return {**os.environ, **ours, **self.command.environment}

    # --- coming up -----------------------------------------------------------------------

    @property
    def _says_so(self) -> bool:
        """Whether it says when it has come up: a node of ours."""
        return self.spec.ros and self.spec.lifecycle and self.spec.package.startswith("user_")

    @property
    def _first_niceness(self) -> int:
        """How far it gives way until it has come up: not at all, and others do when it comes back."""
        if not self._says_so:
            return self.spec.niceness
        return URGENT_NICENESS if self.restarts else 0

    @property
    def has_come_up(self) -> bool:
        """Whether it works, as far as that can be known."""
        if not self.pid:
            return False
        lived_s = time.monotonic() - self.started_s
        if self._says_so:
            return self._up.exists()
        return lived_s >= min(_UP_S, self._standby_after_s or _UP_S)

    async def _settle(self) -> None:
        """Once it has come up, it gives way as it is meant to."""
        if not self._says_so:
            return
        while not self._up.exists():
            await asyncio.sleep(_TEND_S)
        await asyncio.sleep(_URGENT_S if self.restarts else 0.0)
        await set_session_niceness(self.pid, self.spec.niceness)
        if self.spec.niceness:
            set_threads_niceness(self.pid, self.spec.niceness)

    # --- its standby ---------------------------------------------------------------------

    @property
    def _standby_after_s(self) -> float:
        restart = self.spec.restart
        return restart.standby_after_s if restart.has_standby else 0.0

    @property
    def standby_pid(self) -> int:
        """The process that stands by; 0 where there is none."""
        return self._standby.process.pid if self._standby is not None else 0

    def can_stand_by(self) -> bool:
        """Whether a standby can be started: the process runs, and has said what it imported."""
        running = self.state is ChildState.RUNNING and self._standby is None
        return running and self._modules.exists()

    async def prepare_standby(self) -> None:
        """Have another process ready, once this one has come up and said what it imported."""
        words = standby_words(self.command.words, self._modules)
        if words is None:  # no Python program
            self._queue.died(self.spec.name)
            return
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        try:
            standby = await self._start(words, self._log, STANDBY_NICENESS, theirs.fileno(), ours)
        except OSError:  # without one everything else works
            ours.close()
            self._queue.died(self.spec.name)
            return
        finally:
            theirs.close()
        self._paused = False
        if self.state is not ChildState.RUNNING or self._stop.is_set():  # meanwhile
            await self._dismiss(standby)
            return
        self._standby = standby
        standby.hears = asyncio.create_task(self._hear(standby))

    def hold_standby(self, back: bool) -> None:
        """Let a standby that is being made ready wait, or go on."""
        if self._standby is not None and back is not self._paused:
            self._paused = back
            self._standby.tell(WAIT if back else GO_ON)

    async def _hear(self, standby: _Started) -> None:
        """Until it is ready, or has ended."""
        assert standby.ours is not None
        loop, text = asyncio.get_running_loop(), b""
        with contextlib.suppress(OSError):
            while data := await loop.sock_recv(standby.ours, 64):
                text += data
                if READY in text:
                    self._queue.ready(self.spec.name)
        if self._standby is standby:
            self._standby = None
            self._queue.died(self.spec.name)
            await self._bury(standby)

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
        self._queue.taken(self.spec.name)
        standby.niceness.cancel()
        await asyncio.wait({standby.niceness})
        if has_ended(standby.process):
            await self._dismiss(standby)
            return None
        if not await set_session_niceness(standby.process.pid, self._first_niceness):
            log.write(b"--- the standby cannot get the niceness of its process: a fresh one\n")
            await self._dismiss(standby)
            return None
        standby.tell(GO)
        standby.let_go()
        return standby

    async def _dismiss_standby(self) -> None:
        standby, self._standby = self._standby, None
        if standby is not None:
            await self._dismiss(standby)

    async def _dismiss(self, standby: _Started) -> None:
        self._queue.taken(self.spec.name)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(standby.process.pid, signal.SIGKILL)
        standby.let_go()
        await self._bury(standby)

    async def _bury(self, standby: _Started) -> None:
        """It has ended."""
        standby.niceness.cancel()
        await standby.process.wait()
        if self._reaper is not None:
            self._reaper.end(standby.process.pid)
        if standby.ours is not None:
            standby.ours.close()
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


def _prepare(supervisor: int, niceness: int) -> None:
    """In the child, before the program starts."""
    end_with_parent(signal.SIGTERM, supervisor)
    if niceness:
        os.nice(niceness)


def _tidy_memory() -> None:
    """What killed processes have left in shared memory, and what others would wait for."""
    mend_half_made_ports()
    retire_ports_of_dead()
    release_abandoned_mutexes()
    remove_abandoned_memory()


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
        self._standbys = StandbyQueue()
        self.children = {
            spec.name: Child(
                spec, commands[spec.name], log_dir, changed, self._reaper, self._standbys
            )
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
        await asyncio.to_thread(_tidy_memory)  # of what was killed in earlier runs
        tasks = {name: asyncio.create_task(child.run()) for name, child in self.children.items()}
        tends = [asyncio.create_task(one) for one in (self._tend_standbys(), self._free_stuck())]
        stopped = asyncio.create_task(self._stop.wait())
        everything: asyncio.Future[list[None]] = asyncio.gather(*tasks.values())
        ends: set[asyncio.Future[Any]] = {stopped, everything}
        try:
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        finally:
            stopped.cancel()
            for task in tends:
                task.cancel()
            try:
                await asyncio.wait(tends)
                await self._shut_down()
            except asyncio.CancelledError:  # asked twice: there is no time for an orderly end
                for task in tasks.values():
                    task.cancel()
                raise
            finally:
                await asyncio.gather(*tasks.values(), return_exceptions=True)
                self._reaper.close()
        return all(child.state is not ChildState.GIVEN_UP for child in self.children.values())

    async def _tend_standbys(self) -> None:
        """Have standbys made ready, one after the other, while nothing is being brought up."""
        queue = self._standbys

        def possible(name: str) -> bool:
            return self.children[name].can_stand_by()

        while True:
            now_s = time.monotonic()
            for name in queue.coming_up(now_s):
                if self.children[name].has_come_up:
                    queue.came_up(name)
            if queue.preparing:
                back = bool(queue.coming_up(now_s))
                self.children[queue.preparing].hold_standby(back)
            elif name := queue.next(now_s, possible):
                await self.children[name].prepare_standby()
            await asyncio.sleep(_TEND_S)

    async def _free_stuck(self) -> None:
        """Whoever waits for a port of shared memory that somebody else left half made."""
        while True:
            await asyncio.sleep(_STUCK_S)
            await asyncio.to_thread(mend_half_made_ports)

    async def _shut_down(self) -> None:
        """Reverse order: a process ends before those on which it depends."""
        for child in reversed(self.children.values()):
            child.forbid_start()
        for child in reversed(self.children.values()):
            await child.stop()
