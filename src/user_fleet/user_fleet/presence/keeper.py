"""Runs the command of a grant, and outlives the agent that started it, so that the next agent goes on with it.

An agent may die at any time, and its supervisor has it back within seconds; the robot that it had started something for
shall not stand still meanwhile. So between the two stands this small program, which stays when the agent is killed. It
passes on signals, and writes how its command has ended and whether it was asked to, since only a parent learns that.
When no agent has been there for some time, it asks its command to end: grants run out, and somebody must be there to
say so.

It is started by its path and needs the standard library only, to be there at once. Agents show that they are there by a
shared lock on a file, which the kernel takes from them however they end.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

_LOOK_S = 1.0
_PASSED_ON = {signal.SIGINT, signal.SIGTERM, signal.SIGUSR1}
_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None


def keeper_words(lock: Path, alone_s: float, ended: Path, words: list[str]) -> list[str]:
    """The command line of a keeper.

    Args:
        lock: Held, shared, by every agent of this host.
        alone_s: Time without an agent after which the command is asked to end.
        ended: File for how it has ended: its exit code, and ``asked`` where it was asked to end.
        words: The command.
    """
    return [sys.executable, "-I", "-S", __file__, str(lock), str(alone_s), str(ended), *words]


def wait_with_signals() -> None:
    """In a child that will be a keeper, before it begins: signals wait until it can pass them on."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {*_PASSED_ON, signal.SIGCHLD})


def how_it_ended(file: Path) -> tuple[int, bool] | None:
    """Exit code, and whether it was asked to end; None: it has not, or its keeper was killed."""
    try:
        code, *asked = file.read_text(encoding="utf-8").split()
        return int(code), bool(asked)
    except (OSError, ValueError):
        return None


def main(arguments: list[str]) -> int:
    """Run the command; its exit code is ours, and what killed it kills us."""
    lock, alone_s, ended, *words = arguments
    wait_with_signals()
    parent = os.getpid()
    child = subprocess.Popen(words, preexec_fn=lambda: _prepare(parent))
    asked, seen_s = False, time.monotonic()
    while child.poll() is None:
        got = signal.sigtimedwait({*_PASSED_ON, signal.SIGCHLD}, _LOOK_S)
        if got is not None and got.si_signo in _PASSED_ON:
            asked = True
            child.send_signal(got.si_signo)
        elif _agent_there(lock):
            seen_s = time.monotonic()
        elif time.monotonic() - seen_s > float(alone_s) and not asked:
            print(f"no agent for {alone_s} s: asked to end", flush=True)
            asked = True
            child.terminate()
    _write(Path(ended), f"{child.returncode}{' asked' if asked else ''}\n")
    if child.returncode < 0:
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        with contextlib.suppress(OSError):  # of those that have no default action to set
            signal.signal(-child.returncode, signal.SIG_DFL)
        os.kill(os.getpid(), -child.returncode)
    return child.returncode & 0xFF


def _prepare(parent: int) -> None:
    """In the child, before the program starts: end when the keeper does, however that happens."""
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    if _LIBC is not None:
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:
            os._exit(1)


def _agent_there(lock: str) -> bool:
    try:
        descriptor = os.open(lock, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(descriptor)
    return False


def _write(file: Path, text: str) -> None:
    """Whole or not at all; a full disk leaves it away."""
    with contextlib.suppress(OSError):
        new = file.with_name(file.name + ".new")
        new.write_text(text, encoding="utf-8")
        new.replace(file)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
