"""Carries one job through: hands it to its engine, prints what it prints, and ends as it does.

    python -m user_fleet.engines.carry NAME.job            # started by the agent of a host, for a grant
    python -m user_fleet.engines.carry --cancel NAME.job   # what a carrier that was killed has left

SIGINT or SIGTERM cancels the job, and the carrier ends when it has ended. The file says what is to be run, and, once
the engine has taken it, how the engine calls it; it is removed when the job is over. So a carrier that is started again
on it goes on with the same job, and no job is without somebody who knows of it.
"""

from __future__ import annotations

import contextlib
import json
import signal
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from user_core import plugins
from user_core.command_line import Parser
from user_core.errors import ConfigError, EngineSilent, SuiteError
from user_core.jobs import Engine, Job, JobState
from user_core.runtime.files import write_atomically

#: Exit code of a job that the engine has refused, and of one that has failed or is lost.
REFUSED, FAILED = 3, 4
_SETTLE_S = 10.0
#: A job that has not begun is left to its engine this long after it was cancelled.
_BEGINS_S = 5.0


def write_job(file: Path, engine: str, options: Mapping[str, Any], job: Job) -> None:
    """Note what is to be run. A job of the same file that an engine has already stays as it is."""
    if file.exists() and _read(file).get("number"):
        return
    data = {
        "engine": engine, "options": dict(options), "name": job.name, "command": list(job.command),
        "folder": str(job.folder), "variables": dict(job.variables), "resources": dict(job.resources),
    }  # fmt: skip
    file.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(file, json.dumps(data, indent=1))


class Carrier:
    """Carries one job.

    Args:
        file: Of :func:`write_job`.
        cancelling: Set when the job is to be cancelled.
        say: Prints a line.
    """

    def __init__(self, file: Path, cancelling: threading.Event, say: Any = print) -> None:
        self._file, self._cancelling, self._say = file, cancelling, say
        self._data = _read(file)
        self._word = str(self._data["engine"])
        self._engine: Engine = plugins.build(
            "engines", self._word, self._data["options"], path="options"
        )
        self._shown = 0
        self._asked = False

    def run(self) -> int:
        """Until the job is over; returns the exit code."""
        number = str(self._data.get("number") or "") or self._submit()
        if not number:
            return 0  # cancelled before the engine had it
        said: object = None
        heard_s = asked_s = time.monotonic()
        while True:
            try:
                if self._cancelling.is_set() and not self._asked:
                    self._engine.cancel(number)
                    self._asked, asked_s = True, time.monotonic()
                state = self._engine.state(number)
                self._show(number)
                heard_s = time.monotonic()
            except EngineSilent as error:
                silent_s = time.monotonic() - heard_s
                said = self._tell(said, f"{error.code}: {error}")
                if silent_s > self._patience_s:
                    self._say(f"{error.code}: {error}, for {silent_s:.0f} s")
                    return FAILED
                self._wait()
                continue
            words = f"{self._word}: {state.phase}"
            words += f" at {state.where}" if state.where else ""
            said = self._tell(said, words + (f", {state.reason.text}" if state.reason else ""))
            late = self._asked and time.monotonic() - asked_s > _BEGINS_S
            if state.over or (late and state.phase == "waiting"):
                # Ray, for one, ends what it has not begun only when it would begin.
                return self._end(number, state)
            self._wait()

    @property
    def _patience_s(self) -> float:
        return float(self._engine.config.patience_s)

    def _submit(self) -> str:
        data = self._data
        job = Job(
            data["name"],
            data["command"],
            Path(data["folder"]),
            data["variables"],
            data["resources"],
        )
        until_s = time.monotonic() + self._patience_s
        said: object = None
        while not self._cancelling.is_set():
            try:
                number = self._engine.submit(job)
            except EngineSilent as error:
                said = self._tell(said, f"{error.code}: {error}")
                if time.monotonic() > until_s:
                    raise
                self._wait()
                continue
            self._data["number"] = number
            write_atomically(self._file, json.dumps(self._data, indent=1))
            self._say(f"{self._word}: took {job.name} as {number.partition(':')[0]}")
            return number
        self._file.unlink(missing_ok=True)
        return ""

    def _tell(self, said: object, words: str) -> object:
        if words != said:
            self._say(words)
        return words

    def _wait(self) -> None:
        if self._asked:
            time.sleep(min(0.3, self._engine.config.look_s))
        else:
            self._cancelling.wait(self._engine.config.look_s)

    def _show(self, number: str) -> bool:
        text = self._engine.logs(number, self._shown)
        if not text:
            return False
        self._shown += len(text)
        sys.stdout.buffer.write(text)
        sys.stdout.flush()
        return True

    def _end(self, number: str, state: JobState) -> int:
        until_s = time.monotonic() + _SETTLE_S
        quiet_s = self._engine.logs_late_s
        last_s = time.monotonic()
        try:  # what it printed last may come a little later than its end
            while self._show(number) or time.monotonic() - last_s < quiet_s:
                if time.monotonic() > until_s:
                    break
                time.sleep(0.1)
        except SuiteError as error:
            self._say(f"{error.code}: {error}")
        self._file.unlink(missing_ok=True)
        if state.phase == "done":
            return 0
        if self._asked:
            return 0
        why = state.reason
        self._say(f"{why.code or 'job_failed'}: {why.text or f'the job is {state.phase}'}")
        return FAILED


def _read(file: Path) -> dict[str, Any]:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"job {file.name}", got=str(error), expected="what write_job wrote"
        ) from error
    return dict(found)


def main(argv: Sequence[str] | None = None) -> int:
    """Carry the job of a file; the exit code is 0 when it is done or was cancelled."""
    parser = Parser(prog="carry", description=main.__doc__)
    parser.add_argument("file", type=Path)
    parser.add_argument("--cancel", action="store_true", help="cancel it")
    arguments = parser.parse_args(argv)
    cancelling = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: cancelling.set())
    if arguments.cancel:
        cancelling.set()
    say = lambda text: print(text, flush=True)  # noqa: E731
    try:
        return Carrier(arguments.file, cancelling, say).run()
    except EngineSilent as error:
        say(f"{error.code}: {error}")
        return FAILED
    except SuiteError as error:  # it will not do, however often it is tried
        say(f"{error.code}: {error}")
        with contextlib.suppress(ConfigError):
            if not _read(arguments.file).get("number"):
                arguments.file.unlink(missing_ok=True)
        return REFUSED


if __name__ == "__main__":
    sys.exit(main())
