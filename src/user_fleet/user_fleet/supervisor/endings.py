"""Why a process ended, and whether it would end in the same way again."""

from __future__ import annotations

import signal
from pathlib import Path

from user_core.errors import codes_that_may_pass
from user_core.reasons import NO_REASON, PROCESS_ENDED, EqualFailures, Reason
from user_core.runtime.processes import last_words
from user_fleet.deployment.model import ProcessSpec

#: Signals by which a process is ended from outside: no fault of its own.
_FROM_OUTSIDE = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class Endings:
    """Judges each end of one process, for whoever starts it again.

    Args:
        spec: The process.
        file: Where it leaves word of why it ends (:mod:`user_core.runtime.processes.last_words`).

    Attributes:
        cause: Why it ended last; false after an end in good order.
        detail: The same for people, with the exit code.
        hopeless: Whether it would fail in the same way again: it need not be started any more.
    """

    def __init__(self, spec: ProcessSpec, file: Path) -> None:
        self._spec, self._file = spec, file
        self._equal = EqualFailures(spec.restart.equal_failures, spec.restart.window_s)
        self.cause, self.detail, self.hopeless = NO_REASON, "", False

    def begin(self) -> None:
        """It is about to be started: what it said before is forgotten."""
        self._file.parent.mkdir(parents=True, exist_ok=True)
        self._file.unlink(missing_ok=True)

    def judge(self, exit_code: int, last_line: str = "", *, wanted: bool = False) -> None:
        """It has ended.

        Args:
            exit_code: Negative after a signal.
            last_line: Of its output, where that is known; where a signal ended it, where it was.
            wanted: Whether it was asked to end.
        """
        words = last_words.take(self._file)
        self.detail = describe_exit(exit_code)
        if words is not None and words.reason:
            self.cause = words.reason
            self.detail += f": {words.text} [{words.code}]"
        elif words is not None and not exit_code:
            self.cause = NO_REASON  # an end in good order
            return
        else:
            text = self.detail
            if exit_code and last_line:
                self.detail = text = f"{text}: {last_line}"
            elif exit_code == 0 and self._owes_last_words:
                self.detail = text = f"{text}, by itself and without a word"
            self.cause = Reason(PROCESS_ENDED, text)
        if wanted or self._spec.restart.when == "never":
            return
        fault = exit_code != 0 or self._owes_last_words
        if not fault or self.cause.code in codes_that_may_pass() or -exit_code in _FROM_OUTSIDE:
            self._equal.clear()
        elif self._equal.add(self.cause):
            self.cause, self.hopeless = self._equal.given_up, True
            self.detail = f"{self.cause.text} [{self.cause.code}]"
        if words is not None and words.final:
            self.hopeless = True

    @property
    def _owes_last_words(self) -> bool:
        """Whether it is a node of ours, which says so when it ends in good order."""
        spec = self._spec
        return spec.ros and spec.lifecycle and spec.package.startswith("user_")


def describe_exit(exit_code: int) -> str:
    """An exit code in words."""
    if exit_code >= 0:
        return f"ended with exit code {exit_code}"
    try:
        return f"killed by {signal.Signals(-exit_code).name}"
    except ValueError:
        return f"killed by signal {-exit_code}"
