"""The outcome of a conformance check."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from user_core.errors import PluginError, in_words


@dataclass(frozen=True)
class Check:
    """One promise.

    Attributes:
        promise: What is promised.
        passed: Whether it was kept; None where it could not be tried.
        detail: What was seen.
    """

    promise: str
    passed: bool | None
    detail: str = ""


class Skip(Exception):
    """Raised within :meth:`Report.promise` when a promise cannot be tried here."""


class Broken(Exception):
    """Raised within :meth:`Report.promise` when a promise is broken; the text says how."""


@dataclass
class Report:
    """All promises of one plugin.

    Attributes:
        subject: What was checked.
        checks: The promises, in the order they were tried.
    """

    subject: str
    checks: list[Check] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        """Whether no promise was broken."""
        return all(check.passed is not False for check in self.checks)

    @contextmanager
    def promise(self, text: str) -> Iterator[list[str]]:
        """Try one promise; whatever is raised inside breaks it. Yields a list for details."""
        details: list[str] = []
        try:
            yield details
        except Skip as skip:
            self.checks.append(Check(text, None, str(skip)))
        except Broken as broken:
            self.checks.append(Check(text, False, str(broken)))
        except Exception as error:
            self.checks.append(Check(text, False, in_words(error)))
        else:
            self.checks.append(Check(text, True, "; ".join(details)))

    def require(self) -> None:
        """Raise PluginError with the whole report unless every promise was kept."""
        if not self.passed:
            raise PluginError(f"{self.subject} breaks promises of its interface:\n{self}")

    def __str__(self) -> str:
        marks = {True: "ok  ", False: "FAIL", None: "skip"}
        lines = [self.subject]
        for check in self.checks:
            detail = f"  ({check.detail})" if check.detail else ""
            lines.append(f"  {marks[check.passed]} {check.promise}{detail}")
        return "\n".join(lines)


def expect(condition: bool, otherwise: str) -> None:
    """Break the promise that is being tried, unless ``condition``."""
    if not condition:
        raise Broken(otherwise)
