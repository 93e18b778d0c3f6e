"""Starts on a host what its grants are for, one process each, and ends it when the grant does.

Of one resource no two processes run at the same time: the next one waits until the one before has ended, with all that
it had started. Whatever ends by itself is said: well (exit code 0), or failed with its last line.

What was started goes on when the agent is killed (:mod:`user_fleet.presence.keeper`); the next agent finds it by its
note, goes on with it, and ends what is not granted any more as soon as it knows what is.

What an engine runs (:mod:`user_fleet.engines`) has a process here, too, which carries the job: its end is that of the
job.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from user_core import plugins
from user_core.config import from_mapping, to_mapping
from user_core.errors import ConfigError
from user_core.jobs import Job
from user_core.runtime.files import write_atomically
from user_core.runtime.processes.grants import GRANT_VARIABLE
from user_fleet.engines.carry import write_job
from user_fleet.engines.local import LocalEngine
from user_fleet.presence.keeper import how_it_ended, keeper_words, wait_with_signals
from user_fleet.presence.messages import Granted
from user_fleet.presence.peers import domain_of, port_of, where_it_is
from user_fleet.processes import is_alive, session_members, started_ticks
from user_fleet.scheduling.experiment import REFERENCE

_log = logging.getLogger(__name__)
_LOOK_S = 0.1
_TAIL = 300
_TIDY_S = 2.0
_TIDY_AGAIN_S = 15.0
#: What was started goes on this long without an agent: as long as a scheduler waits for a silent host.
_ALONE_S = 30.0
#: Of `user up`: how long an episode may go on once SIGUSR1 has asked it to finish.
FINISH_OPTION = "--finish-s"
#: Ends the names of files that say what an engine runs for a grant.
JOB_SUFFIX = ".job"
#: Variables by which ROS nodes find each other; an engine need not hand on those of the agent.
_OF_ROS = (
    "ROS_DOMAIN_ID",
    "ROS_LOCALHOST_ONLY",
    "ROS_AUTOMATIC_DISCOVERY_RANGE",
    "RMW_IMPLEMENTATION",
)
_CARRY = [sys.executable, "-m", "user_fleet.engines.carry"]


class _Process(Protocol):
    """Of a child, or of one that an earlier agent has started."""

    pid: int

    @property
    def returncode(self) -> int | None: ...

    def poll(self) -> int | None: ...

    def send_signal(self, number: int, /) -> None: ...


class _Adopted:
    """A process that an earlier agent has started."""

    def __init__(self, pid: int, began: int, ended: Path) -> None:
        self.pid, self._began, self._ended = pid, began, ended
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """Exit code; that of a process whose end nobody saw is -9, since only that leaves no word."""
        if self.returncode is None and not self._is_there():
            ended = how_it_ended(self._ended)
            self.returncode = -signal.SIGKILL if ended is None else ended[0]
        return self.returncode

    def send_signal(self, number: int, /) -> None:
        """As :meth:`subprocess.Popen.send_signal`."""
        if self._is_there():
            os.kill(self.pid, number)

    def _is_there(self) -> bool:
        return is_alive(self.pid) and started_ticks(self.pid) == self._began


@dataclass
class _Use:
    """A process for a grant."""

    grant: Granted
    process: _Process
    log: Path
    asked_s: float | None = None
    """When it was asked to end, by our monotonic clock."""
    yields: bool = False
    """It was asked to end because the grant is asked back."""
    finish_s: float | None = None
    """How long it may go on when it is asked to finish by SIGUSR1; None: it does not know that."""
    interrupted: bool = False
    """It was asked to end by SIGINT."""
    again: bool = False
    """It was asked to end to be started again, since another role of its experiment has moved."""


class Launcher:
    """Runs grants.

    Args:
        command: The command line for a grant, and environment variables beside our own; it is given all
            grants in force, and may raise, which is a failure of the grant.
        folder: Where the output of each goes.
        stop_s: Time that a process has to end before it is killed; what lets an episode finish has that beside.
        alone_s: Time that it goes on without an agent.
    """

    def __init__(
        self,
        command: Callable[[Granted, Sequence[Granted]], tuple[Sequence[str], Mapping[str, str]]],
        folder: Path,
        stop_s: float = 30.0,
        alone_s: float = _ALONE_S,
    ) -> None:
        self._command, self._folder, self._stop_s = command, folder, stop_s
        self._alone_s = alone_s
        folder.mkdir(parents=True, exist_ok=True)
        self._here = (folder / "agent.lock").open("w")
        fcntl.flock(self._here, fcntl.LOCK_SH)
        self._has_grants = False
        self._wanted: dict[int, Granted] = {}
        self._uses: dict[int, _Use] = {}
        self._given_back: set[int] = set()
        self._done: set[int] = set()
        self._failed: dict[int, str] = {}
        self._left_since_s: dict[int, float] = {}
        self._tidying: dict[Path, tuple[subprocess.Popen[bytes], float]] = {}
        self._tidied_s = -_TIDY_S
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self._adopt()
        self._thread = threading.Thread(target=self._work, name="launcher", daemon=True)
        self._thread.start()

    def apply(self, grants: Sequence[Granted]) -> None:
        """These are in force now; what runs for any other is ended."""
        with self._lock:
            self._has_grants = True
            self._wanted = {grant.fencing: grant for grant in grants}
            known = self._wanted.keys()
            self._given_back &= known
            self._done &= known
            self._failed = {n: text for n, text in self._failed.items() if n in known}

    def given_back(self) -> Iterable[int]:
        """Grants that were asked back, and for which nothing runs any more."""
        with self._lock:
            return sorted(self._given_back)

    def done(self) -> Iterable[int]:
        """Grants whose process has ended well."""
        with self._lock:
            return sorted(self._done)

    def failed(self) -> Iterable[tuple[int, str]]:
        """Grants whose process has failed, and how."""
        with self._lock:
            return sorted(self._failed.items())

    def log(self, fencing: int) -> Path | None:
        """The file with what was printed for a grant, also one of before; None: there is none."""
        return next(iter(self._folder.glob(f"*.{int(fencing)}.log")), None)

    def close(self) -> None:
        """End all processes. Idempotent."""
        self._closing.set()
        self._thread.join(timeout=self._stop_s + 10.0)
        self._here.close()

    def _work(self) -> None:
        while not self._closing.wait(_LOOK_S):
            try:
                self._reconcile()
            except Exception:
                _log.exception("launcher")
        with self._lock:
            self._has_grants, self._wanted = True, {}
        while self._uses:
            self._reconcile()
            time.sleep(_LOOK_S)
        for process, _ in self._tidying.values():
            process.kill()  # the next agent goes on with that
            process.wait()

    def _reconcile(self) -> None:
        """Make what runs what the grants in force are for: end what is for no other, then start what is missing."""
        with self._lock:
            told, wanted = self._has_grants, dict(self._wanted)
        self._end_what_is_over(wanted, told)
        if not told:
            return
        with self._lock:  # also what has just ended, or it would be started once more
            settled = self._given_back | self._done | self._failed.keys()
        self._cancel_what_is_left(wanted.keys() - settled)
        self._begin_what_is_missing(wanted, settled)

    def _end_what_is_over(self, wanted: Mapping[int, Granted], told: bool) -> None:
        """Note what has ended; ask to end what no grant is for any more, or what must be started again.

        Args:
            wanted: The grants in force, by their fencing number.
            told: Whether they are known: what an earlier agent has started goes on until they are.
        """
        for number, use in list(self._uses.items()):
            grant = wanted.get(number)
            if use.process.poll() is not None and not self._left(use):
                self._ended(number, use)
            elif not told:
                continue
            elif grant is None or grant.yields:
                use.yields = grant is not None
                self._ask_to_end(use)
            elif use.again or _has_moved(use.grant, grant):
                use.again = True
                self._ask_to_end(use)

    def _begin_what_is_missing(self, wanted: Mapping[int, Granted], settled: Set[int]) -> None:
        """Start what grants are for, and give back those for which nothing runs."""
        busy = {_bound_to(use.grant) for use in self._uses.values()}
        together = {(use.grant.experiment, use.grant.role): use for use in self._uses.values()}
        for number, grant in sorted(wanted.items()):
            if number in settled or number in self._uses:
                continue
            if grant.yields:
                # Another GPU, say, of a process that was started for the first of them.
                first = together.get((grant.experiment, grant.role)) if grant.run is None else None
                if first is not None:
                    first.yields = True
                    self._ask_to_end(first)
                elif _bound_to(grant) not in busy:
                    with self._lock:
                        self._given_back.add(number)
            elif grant.run is not None and _bound_to(grant) not in busy and _knows_peers(grant):
                busy.add(_bound_to(grant))
                if not self._left_by_another(_bound_to(grant)):
                    self._start(grant, list(wanted.values()))

    def _start(self, grant: Granted, others: Sequence[Granted]) -> None:
        log = self._folder / f"{grant.experiment}.{grant.role}.{grant.fencing}.log"
        if log.with_suffix(".done").exists():  # before this agent was started again
            with self._lock:
                self._done.add(grant.fencing)
            return
        try:
            words, variables = self._command(grant, others)
            if shutil.which(words[0]) is None:
                raise FileNotFoundError(f"no program {words[0]!r}")
            ended = _ended_file(log)
            ended.unlink(missing_ok=True)
            lock = self._folder / "agent.lock"
            with log.open("ab") as output:
                where = [f"{name}={value}" for name, value in sorted(variables.items())]
                output.write(f"$ {shlex.join([*where, *words])}\n".encode())
                output.flush()
                process = subprocess.Popen(
                    keeper_words(lock, self._alone_s, ended, list(words)),
                    env={**os.environ, **variables}, stdin=subprocess.DEVNULL,
                    stdout=output, stderr=subprocess.STDOUT, start_new_session=True,
                    preexec_fn=wait_with_signals,
                )  # fmt: skip
        except Exception as error:  # of a deployment that is not there, for instance
            with self._lock:
                self._failed[grant.fencing] = f"cannot be started: {error}"[:500]
            return
        use = self._uses[grant.fencing] = _Use(grant, process, log)
        if FINISH_OPTION in words:
            use.finish_s = float(words[list(words).index(FINISH_OPTION) + 1])
        # For the next agent of this host, should this one be killed.
        about = {"grant": to_mapping(grant), "log": log.name, "finish_s": use.finish_s}
        write_atomically(
            self._note(_bound_to(grant)),
            f"{process.pid} {started_ticks(process.pid)}\n{json.dumps(about)}\n",
        )
        _log.info("%s for %s: process %d", grant.resource, grant.experiment, process.pid)

    def _adopt(self) -> None:
        """Go on with what an earlier agent has started."""
        for note in self._folder.glob("*.pid"):
            try:
                process, about = note.read_text(encoding="utf-8").split("\n", 1)
                pid, began = map(int, process.split())
                told = json.loads(about)
                grant, log = from_mapping(Granted, told["grant"]), self._folder / told["log"]
            except (OSError, ValueError, KeyError, TypeError, ConfigError):
                continue  # of an older agent: ended before anything else is started
            adopted = _Adopted(pid, began, _ended_file(log))
            if adopted.poll() is None:
                self._uses[grant.fencing] = _Use(grant, adopted, log, finish_s=told.get("finish_s"))
                _log.info("%s for %s: goes on with process %d", grant.resource, log.name, pid)

    def _left_by_another(self, resource: str) -> bool:
        """Whether something that an earlier agent has started for a resource is still there, without
        its keeper; then it is ended."""
        try:
            first = self._note(resource).read_text(encoding="utf-8").split("\n", 1)[0]
            pid, began = map(int, first.split())
        except (OSError, ValueError):
            return False
        members = session_members([pid])
        if not members or started_ticks(pid) not in (began, 0):
            return False
        now_s = time.monotonic()
        since_s = self._left_since_s.setdefault(pid, now_s)
        number = signal.SIGKILL if now_s - since_s > self._stop_s else signal.SIGTERM
        if number is signal.SIGKILL or since_s == now_s:
            for member in members if number is signal.SIGKILL else [pid]:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(member, number)
        return True

    def _note(self, resource: str) -> Path:
        return self._folder / f"{resource.replace('/', '.')}.pid"

    def _cancel_what_is_left(self, alive: Iterable[int]) -> None:
        """Jobs that no process carries any more, of grants that are over, are cancelled, however long their engine is
        away."""
        now_s = time.monotonic()
        for file, (process, _) in list(self._tidying.items()):
            if process.poll() is not None and not file.exists():
                del self._tidying[file]
        if now_s - self._tidied_s < _TIDY_S:
            return
        self._tidied_s = now_s
        going_on = {str(number) for number in {*alive, *self._uses}}
        for file in self._folder.glob(f"*{JOB_SUFFIX}"):
            if file.name[: -len(JOB_SUFFIX)].rpartition(".")[2] in going_on:
                continue
            before = self._tidying.get(file)
            if before is not None and (
                before[0].poll() is None or now_s - before[1] < _TIDY_AGAIN_S
            ):
                continue
            with file.with_suffix(".log").open("ab") as output:
                process = subprocess.Popen(
                    [*_CARRY, "--cancel", str(file)], stdin=subprocess.DEVNULL, stdout=output,
                    stderr=subprocess.STDOUT, start_new_session=True,
                )  # fmt: skip
            self._tidying[file] = (process, now_s)

    def _ask_to_end(self, use: _Use) -> None:
        now_s = time.monotonic()
        finishes = use.yields and use.finish_s is not None and not use.interrupted
        if use.asked_s is None and finishes:  # at the end of its episode
            self._signal(use, signal.SIGUSR1)
        elif not use.interrupted and not finishes:
            use.interrupted = True
            self._signal(use, signal.SIGINT)
        limit_s = self._stop_s + ((use.finish_s or 0.0) if finishes else 0.0)
        if use.asked_s is not None and now_s - use.asked_s > limit_s:
            self._kill(use)

    def _signal(self, use: _Use, number: signal.Signals) -> None:
        use.asked_s = time.monotonic()
        with contextlib.suppress(ProcessLookupError):
            use.process.send_signal(number)

    def _left(self, use: _Use) -> bool:
        """Whether something that it had started is still there; then it is ended."""
        if not session_members([use.process.pid]):
            return False
        self._kill(use)
        return True

    def _kill(self, use: _Use) -> None:
        for pid in session_members([use.process.pid]):
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)

    def _ended(self, number: int, use: _Use) -> None:
        del self._uses[number]
        code = use.process.returncode
        ended = how_it_ended(_ended_file(use.log))
        # By an earlier agent, or since there was none: then it is started again.
        asked_by_another = use.asked_s is None and ended is not None and ended[1]
        if code == 0 and use.asked_s is None and not asked_by_another:
            use.log.with_suffix(".done").touch()
        with self._lock:
            if number not in self._wanted or (use.again and not use.yields) or asked_by_another:
                return
            if use.yields:
                self._given_back.add(number)
            elif code == 0:
                self._done.add(number)
            else:
                self._failed[number] = f"ended with code {code}: {_last_line(use.log)}"[:500]


def user_up(
    grant: Granted,
    others: Sequence[Granted],
    runs: Path,
    about: Mapping[str, str],
    jobs: Path | None = None,
) -> tuple[list[str], dict[str, str]]:
    """``user up`` for a grant: its run is continued where there is one of before.

    Args:
        grant: With a :class:`~user_fleet.scheduling.experiment.Run`.
        others: All grants of the host; GPUs of the same role are made visible.
        runs: Folder of runs.
        about: More names for ``${name}``, for instance of the resource: ``robot_file``.
        jobs: Folder for what an engine is to run; None: nothing but processes of this host is.

    Raises:
        ConfigError: ``user`` is not on the path, or a value names something unknown.
    """
    if grant.run is None:
        raise ConfigError("grant", got="nothing to run")
    wanted = grant.run
    host, kind, name = grant.resource.split("/")
    names = {
        **about, **grant.peers, "host": host, "resource": name, "experiment": grant.experiment,
        "role": grant.role, "fencing": str(grant.fencing), "port": str(port_of(grant.fencing)),
    }  # fmt: skip
    options = _filled(wanted.options, names, "options")
    program = str(options.get("program") or "") or shutil.which("user")
    if program is None:
        raise ConfigError(
            "the command `user`", got="not on the path", hint="Source install/setup.bash"
        )
    words = [f"{key}:={json.dumps(_filled(v, names, key))}" for key, v in wanted.set.items()]
    run = f"{grant.experiment}.{grant.role}" + (f".{name}" if kind == "robot" else "")
    command = [program, "up", wanted.deployment, *words, "--no-table"]
    command += ["--runs", str(options.get("runs") or runs), "--run", run]
    command += ["--minutes", str(wanted.minutes)] if wanted.minutes else []
    command += ["--steps", str(wanted.steps)] if wanted.steps else []
    gpus = [
        other.resource.rpartition("/")[2]
        for other in others
        if (other.experiment, other.role) == (grant.experiment, grant.role)
        and other.resource.split("/")[1] == "gpu"
    ]
    own: dict[str, str] = {}
    if wanted.own_domain:
        own["ROS_DOMAIN_ID"] = domain_of(grant.fencing, os.environ.get("ROS_DOMAIN_ID", "0"))
    if wanted.engine == "local":
        local = own | ({"CUDA_VISIBLE_DEVICES": ",".join(gpus)} if gpus else {})
        if kind == "robot":  # its HAL obeys this grant, and no older one
            local[GRANT_VARIABLE] = str(grant.fencing)
            command += [FINISH_OPTION, str(wanted.finish_s)]
        return command, local
    if jobs is None:
        raise ConfigError("engine", got=wanted.engine, expected="local, on this host")
    variables = {name: os.environ[name] for name in _OF_ROS if name in os.environ} | own
    if gpus and issubclass(plugins.load("engines", wanted.engine), LocalEngine):
        variables["CUDA_VISIBLE_DEVICES"] = ",".join(gpus)
    job = Job(run, command, jobs / run, variables, {"gpus": len(gpus)})
    file = jobs / f"{grant.experiment}.{grant.role}.{grant.fencing}{JOB_SUFFIX}"
    write_job(file, wanted.engine, options, job)
    return [*_CARRY, str(file)], {}


def _bound_to(grant: Granted) -> str:
    """What no two processes may use at once: the resource, and of what runs elsewhere only its role."""
    if grant.run is None or grant.run.engine == "local":
        return grant.resource
    return f"{grant.resource}.{grant.experiment}.{grant.role}"


def _knows_peers(grant: Granted) -> bool:
    """Whether all that a run asks of other roles is known."""
    asked = grant.run.references() if grant.run is not None else ()
    return all(f"{role}.{what}" in grant.peers for role, what in asked)


def _has_moved(before: Granted, now: Granted) -> bool:
    """Whether a role to which something was connected is elsewhere now."""
    old, new = where_it_is(before.peers), where_it_is(now.peers)
    return any(old.get(key) != value for key, value in new.items())


def _filled(value: Any, names: Mapping[str, str], where: str) -> Any:
    """A value with its ``${name}`` replaced."""
    if isinstance(value, str):

        def one(match: re.Match[str]) -> str:
            name = f"{match[1]}.{match[2]}" if match[2] else match[1]
            if name not in names:
                raise ConfigError(
                    where, got=f"${{{name}}}", expected=f"one of {sorted(names)}",
                    hint=f"The host's own file may say it: values: {{{name}: ...}}",
                )  # fmt: skip
            return names[name]

        return REFERENCE.sub(one, value)
    if isinstance(value, list):
        return [_filled(item, names, where) for item in value]
    if isinstance(value, dict):
        return {key: _filled(item, names, where) for key, item in value.items()}
    return value


def _ended_file(log: Path) -> Path:
    return log.with_suffix(".ended")


def _last_line(log: Path) -> str:
    try:
        with log.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - 4096))
            lines = file.read().decode(errors="replace").split("\n")
    except OSError:
        return ""
    return next((line.strip()[:_TAIL] for line in reversed(lines) if line.strip()), "")
