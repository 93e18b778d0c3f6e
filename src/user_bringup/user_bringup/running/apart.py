"""A question to a process of its own, in which other people's code may do what it wants.

It may print, end the process, crash, hang, start servers and threads that never end, or close its standard
output. So question, answer and what is being done are files, nobody waits for the end of a pipe, and
what is left of the process group afterwards is killed.
"""

from __future__ import annotations

import contextlib
import faulthandler
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_QUESTION, _ANSWER, _AT, _SAID = "question.json", "answer.json", "at", "said"
_LOOK_S = 0.02
#: Where the question is, in the other process.
_folder: Path | None = None


@dataclass(frozen=True)
class Reply:
    """What came of a question.

    Attributes:
        value: The answer; None where there is none.
        at: What was being done last.
        status: Exit status of a process that ended without an answer; None while it hangs.
        last_words: The last line of its output; where it hangs, the line of code at which.
    """

    value: dict[str, Any] | None
    at: str
    status: int | None
    last_words: str


def ask(
    command: Sequence[str],
    question: Mapping[str, Any],
    timeout_s: float,
    on_slow: Callable[[str, float], None] = lambda at, for_s: None,
    slow_s: float = 5.0,
) -> Reply:
    """Start ``command``, which calls :func:`answer`, and wait for what it says.

    Args:
        command: Gets the folder of the question as its last argument.
        question: Becomes JSON; what cannot becomes text.
        timeout_s: Longest time until an answer.
        on_slow: Told every ``slow_s`` seconds what is being done, and for how long.
        slow_s: See there.
    """
    with tempfile.TemporaryDirectory(prefix="user-") as name, _Group() as group:
        folder = Path(name)
        (folder / _QUESTION).write_text(json.dumps(question, default=str), encoding="utf-8")
        with (folder / _SAID).open("wb") as said:
            process = group.process = subprocess.Popen(
                [*command, name], stdin=subprocess.DEVNULL, stdout=said, stderr=said,
                start_new_session=True,
            )  # fmt: skip
        began_s = time.monotonic()
        told_s, file = began_s, folder / _ANSWER
        while not file.exists():
            now_s = time.monotonic()
            if process.poll() is not None and not file.exists():
                return Reply(None, _text(folder / _AT), process.returncode, _last(folder / _SAID))
            if now_s - began_s > timeout_s:
                return Reply(None, _text(folder / _AT), None, _line_of(process, folder))
            if now_s - told_s > slow_s:
                told_s = now_s
                on_slow(_text(folder / _AT), now_s - began_s)
            time.sleep(_LOOK_S)
        value = json.loads(file.read_text(encoding="utf-8"))
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(1.0)
        return Reply(value, _text(folder / _AT), process.poll(), "")


class _Group:
    """Kills the group of a process, whatever happens before."""

    def __init__(self) -> None:
        self.process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> _Group:
        return self

    def __exit__(self, *exception: object) -> None:
        if self.process is not None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()


def answer(reply: Callable[[Mapping[str, Any]], Mapping[str, Any]]) -> int:
    """In the other process: answer the question in the folder that is the last argument."""
    global _folder
    _folder = folder = Path(sys.argv[-1])
    with (folder / "stacks").open("w") as stacks:
        faulthandler.register(signal.SIGUSR1, stacks, all_threads=False)
        question = json.loads((folder / _QUESTION).read_text(encoding="utf-8"))
        made = json.dumps(dict(reply(question)))
        (folder / "answer.part").write_text(made, encoding="utf-8")
        (folder / "answer.part").rename(folder / _ANSWER)
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(Exception):
                stream.flush()
        os._exit(0)  # threads of a plugin, and what it does at the exit, keep nobody waiting


def doing(what: str) -> None:
    """Say what is done next, for whoever waits; nothing where nobody does."""
    if _folder is not None:
        (_folder / _AT).write_text(what, encoding="utf-8")


@contextlib.contextmanager
def report_while_slow(what: str, say: Callable[[str], None], slow_s: float = 5.0) -> Iterator[None]:
    """Say every ``slow_s`` seconds that the block has not ended, and at which line it is: a plugin may
    hang while it is imported. To be entered by the main thread, or what that does is told instead."""
    ended, began_s = threading.Event(), time.monotonic()
    thread = threading.main_thread().ident

    def watch() -> None:
        while not ended.wait(slow_s):
            frame = sys._current_frames().get(thread or 0)
            while frame is not None and _of_python(frame.f_code.co_filename):
                frame = frame.f_back
            place = ""
            if frame is not None:
                code = frame.f_code
                place = f" ({'/'.join(Path(code.co_filename).parts[-2:])} line {frame.f_lineno})"
            say(f"{what}: not ended yet, {time.monotonic() - began_s:.0f} s{place}")

    watcher = threading.Thread(target=watch, name="told while slow", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        ended.set()
        watcher.join()


def _of_python(file: str) -> bool:
    """Whether a file is of the interpreter itself, which says nothing of what is slow."""
    return file.startswith("<frozen ") or "importlib" in file


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except OSError:
        return ""


def _last(file: Path) -> str:
    with file.open("rb") as stream:
        stream.seek(max(0, file.stat().st_size - 20_000))
        lines = stream.read().decode("utf-8", "replace").splitlines()
    return next((line.strip()[:500] for line in reversed(lines) if line.strip()), "no word")


def _line_of(process: subprocess.Popen[bytes], folder: Path) -> str:
    """The line at which the main thread of a process is; empty if it does not say."""
    process.send_signal(signal.SIGUSR1)
    end_s = time.monotonic() + 2.0
    while time.monotonic() < end_s and process.poll() is None:
        lines = _text(folder / "stacks").splitlines()
        if len(lines) > 1:  # 'Current thread ...:' and then its frames, the innermost first
            return lines[1].strip()
        time.sleep(_LOOK_S)
    return ""
