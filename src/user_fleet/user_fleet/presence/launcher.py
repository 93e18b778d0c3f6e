"""Starts on a host what its grants are for, one process each, and ends it when the grant does.

Of one resource no two processes run at the same time: the next one waits until the one before has ended, with all that it had
started, also where an agent that was killed had started it. Whatever ends by itself is said: well (exit code 0), or failed with its last line.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import logging
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from user_core.errors import ConfigError
from user_core.runtime.files import write_atomically
from user_fleet.presence.messages import Granted
from user_fleet.processes import session_members

_log = logging.getLogger(__name__)
_LOOK_S = 0.1
_TAIL = 300
_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None


@dataclass
class _Use:
    """A process for a grant."""

    grant: Granted
    process: subprocess.Popen[bytes]
    log: Path
    asked_s: float | None = None
    """When it was asked to end, by our monotonic clock."""
    yields: bool = False
    """It was asked to end because the grant is asked back."""


class Launcher:
    """Runs grants.

    Args:
        command: The command line for a grant, and environment variables beside our own; it is given all
            grants in force, and may raise, which is a failure of the grant.
        folder: Where the output of each goes.
        stop_s: Time that a process has to end before it is killed.
    """

    def __init__(
        self,
        command: Callable[[Granted, Sequence[Granted]], tuple[Sequence[str], Mapping[str, str]]],
        folder: Path,
        stop_s: float = 30.0,
    ) -> None:
        self._command, self._folder, self._stop_s = command, folder, stop_s
        self._wanted: dict[int, Granted] = {}
        self._uses: dict[int, _Use] = {}
        self._given_back: set[int] = set()
        self._done: set[int] = set()
        self._failed: dict[int, str] = {}
        self._left_since_s: dict[int, float] = {}
        self._lock = threading.Lock()
        self._closing = threading.Event()
        # Processes are started by one thread that lives as long as they do: the kernel tells them
        # of the end of their parent's thread.
        self._thread = threading.Thread(target=self._work, name="launcher", daemon=True)
        self._thread.start()

    def apply(self, grants: Sequence[Granted]) -> None:
        """These are in force now; what runs for any other is ended."""
        with self._lock:
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

    def close(self) -> None:
        """End all processes. Idempotent."""
        self._closing.set()
        self._thread.join(timeout=self._stop_s + 10.0)

    def _work(self) -> None:
        while not self._closing.wait(_LOOK_S):
            try:
                self._reconcile()
            except Exception:
                _log.exception("launcher")
        with self._lock:
            self._wanted = {}
        while self._uses:
            self._reconcile()
            time.sleep(_LOOK_S)

    def _reconcile(self) -> None:
        with self._lock:
            wanted = dict(self._wanted)
            settled = self._given_back | self._done | self._failed.keys()
        for number, use in list(self._uses.items()):
            grant = wanted.get(number)
            if use.process.poll() is not None and not self._left(use):
                self._ended(number, use)
            elif grant is None or grant.yields:
                use.yields = grant is not None
                self._ask_to_end(use)
        busy = {use.grant.resource for use in self._uses.values()}
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
                elif grant.resource not in busy:
                    with self._lock:
                        self._given_back.add(number)
            elif grant.run is not None and grant.resource not in busy:
                busy.add(grant.resource)
                if not self._left_by_another(grant.resource):
                    self._start(grant, list(wanted.values()))

    def _start(self, grant: Granted, others: Sequence[Granted]) -> None:
        log = self._folder / f"{grant.experiment}.{grant.role}.{grant.fencing}.log"
        if log.with_suffix(".done").exists():  # before this agent was started again
            with self._lock:
                self._done.add(grant.fencing)
            return
        try:
            words, variables = self._command(grant, others)
            self._folder.mkdir(parents=True, exist_ok=True)
            parent = os.getpid()
            with log.open("ab") as output:
                process = subprocess.Popen(
                    list(words), env={**os.environ, **variables}, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT,
                    start_new_session=True, preexec_fn=lambda: _die_with(parent),
                )  # fmt: skip
        except Exception as error:  # of a deployment that is not there, for instance
            with self._lock:
                self._failed[grant.fencing] = f"cannot be started: {error}"[:500]
            return
        self._uses[grant.fencing] = _Use(grant, process, log)
        # For the next agent of this host, should this one end and what it started not yet.
        write_atomically(self._note(grant.resource), f"{process.pid} {_began(process.pid)}")
        _log.info("%s for %s: process %d", grant.resource, grant.experiment, process.pid)

    def _left_by_another(self, resource: str) -> bool:
        """Whether what an earlier agent has started for a resource is still there; then it is ended."""
        try:
            pid, began = map(int, self._note(resource).read_text(encoding="utf-8").split())
        except (OSError, ValueError):
            return False
        members = session_members([pid])
        if not members or _began(pid) not in (began, 0):
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

    def _ask_to_end(self, use: _Use) -> None:
        now_s = time.monotonic()
        if use.asked_s is None:
            use.asked_s = now_s
            with contextlib.suppress(ProcessLookupError):
                use.process.send_signal(signal.SIGINT)
        elif now_s - use.asked_s > self._stop_s:
            self._kill(use)

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
        if code == 0 and use.asked_s is None:
            use.log.with_suffix(".done").touch()
        with self._lock:
            if number not in self._wanted:
                return
            if use.yields:
                self._given_back.add(number)
            elif code == 0:
                self._done.add(number)
            else:
                self._failed[number] = f"ended with code {code}: {_last_line(use.log)}"[:500]


def user_up(
    grant: Granted, others: Sequence[Granted], runs: Path, about: Mapping[str, str]
) -> tuple[list[str], dict[str, str]]:
    """``user up`` for a grant: its run is continued where there is one of before.

    Args:
        grant: With a :class:`~user_fleet.scheduling.experiment.Run`.
        others: All grants of the host; GPUs of the same role are made visible.
        runs: Folder of runs.
        about: More names for ``${name}``, for instance of the resource: ``robot_file``.

    Raises:
        ConfigError: ``user`` is not on the path, or a value names something unknown.
    """
    if grant.run is None:
        raise ConfigError("grant", got="nothing to run")
    program = shutil.which("user")
    if program is None:
        raise ConfigError(
            "the command `user`", got="not on the path", hint="Source install/setup.bash"
        )
    host, kind, name = grant.resource.split("/")
    names = {
        **about, "host": host, "resource": name, "experiment": grant.experiment,
        "role": grant.role, "fencing": str(grant.fencing),
    }  # fmt: skip
    words = [f"{key}:={json.dumps(_filled(v, names, key))}" for key, v in grant.run.set.items()]
    run = f"{grant.experiment}.{grant.role}" + (f".{name}" if kind == "robot" else "")
    command = [program, "up", grant.run.deployment, *words, "--no-table"]
    command += ["--runs", str(runs), "--run", run]
    command += ["--minutes", str(grant.run.minutes)] if grant.run.minutes else []
    command += ["--steps", str(grant.run.steps)] if grant.run.steps else []
    gpus = [
        other.resource.rpartition("/")[2]
        for other in others
        if (other.experiment, other.role) == (grant.experiment, grant.role)
        and other.resource.split("/")[1] == "gpu"
    ]
    return command, {"CUDA_VISIBLE_DEVICES": ",".join(gpus)} if gpus else {}


def _filled(value: Any, names: Mapping[str, str], where: str) -> Any:
    """A value with its ``${name}`` replaced."""
    if isinstance(value, str):

        def one(match: re.Match[str]) -> str:
            if match[1] not in names:
                raise ConfigError(where, got=f"${{{match[1]}}}", expected=f"one of {sorted(names)}")
            return names[match[1]]

        return re.sub(r"\$\{(\w+)\}", one, value)
    if isinstance(value, list):
        return [_filled(item, names, where) for item in value]
    if isinstance(value, dict):
        return {key: _filled(item, names, where) for key, item in value.items()}
    return value


def _die_with(parent: int) -> None:
    """In the child, before the program starts: end when the agent does, however that happens."""
    if _LIBC is not None:
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:
            os._exit(1)


def _began(pid: int) -> int:
    """When a process was started, in the kernel's clock; 0 when it is gone."""
    try:
        text = Path("/proc", str(pid), "stat").read_text(errors="replace")
        return int(text.rpartition(")")[2].split()[19])
    except (OSError, ValueError, IndexError):
        return 0


def _last_line(log: Path) -> str:
    try:
        with log.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - 4096))
            lines = file.read().decode(errors="replace").split("\n")
    except OSError:
        return ""
    return next((line.strip()[:_TAIL] for line in reversed(lines) if line.strip()), "")
