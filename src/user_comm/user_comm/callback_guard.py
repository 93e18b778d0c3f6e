"""What a node's code raises goes to the log and to the diagnostics, never to the executor."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from typing import Any

from user_comm.diagnostics import Diagnostics, code_of
from user_comm.throttle import Throttle
from user_core.errors import SuiteError


class CallbackGuard:
    """Wraps the callbacks of one node and keeps the account of failed transitions.

    Args:
        logger: The node's logger.
        diagnostics: The node's diagnostics.

    Attributes:
        transition_error: What the last transition failed by, for people; None after one that
            went well.
    """

    def __init__(self, logger: Any, diagnostics: Diagnostics) -> None:
        self._logger, self._diagnostics = logger, diagnostics
        self._say = Throttle()
        self._transition_code: str | None = None
        self.transition_error: str | None = None

    def wrap(self, callback: Callable[..., Any], what: str) -> Callable[..., Any]:
        """The callback, with everything it raises logged (throttled) and reported."""

        def guarded(*arguments: Any) -> Any:
            try:
                return callback(*arguments)
            except Exception as error:  # whatever a node's code raises
                self.report(what, error)
                return None

        return guarded

    def report(self, what: str, error: BaseException) -> None:
        """Log an error with its traceback, at most once in five seconds for each kind."""
        self._diagnostics.error(error)
        if text := self._say((what, code_of(error)), f"{what}: {_trace(error)}"):
            self._logger.error(text)

    def transition_failed(self, what: str, error: BaseException) -> None:
        """Log why a transition failed, and keep it on the diagnostics until one goes well."""
        self.transition_error = f"cannot {what}: {error}" if str(error) else f"cannot {what}"
        self._transition_code = code_of(error)
        self._logger.error(f"cannot {what}: {_trace(error)}")
        self._diagnostics.error(error)

    def resolve_transition(self) -> None:
        """A transition went well: what an earlier one failed by is over."""
        if self._transition_code is not None:
            self._diagnostics.resolve(self._transition_code)
        self._transition_code = self.transition_error = None


def _trace(error: BaseException) -> str:
    """The error for people first, then where it came from."""
    label = f"{type(error).__name__}: {error}"
    trace = "".join(traceback.format_exception(type(error), error, error.__traceback__))
    return f"{label}\n{trace.rstrip()}" if isinstance(error, SuiteError) else trace.rstrip()
