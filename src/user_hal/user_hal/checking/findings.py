"""What a check found: one line for people, and data for programs."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import Enum
from typing import Any


class Level(str, Enum):
    """How a finding ends."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"
    SKIP = "skip"


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        level: How it ended.
        text: What was looked at, or what is wrong.
        detail: Numbers, for who wants to know more.
        hint: What to do about it.
    """

    level: Level
    text: str
    detail: str = ""
    hint: str = ""

    def to_dict(self) -> dict[str, str]:
        """Plain data for JSON."""
        data = {"level": self.level.value, "text": self.text}
        return data | {k: v for k, v in (("detail", self.detail), ("hint", self.hint)) if v}


@dataclass
class Section:
    """The findings about one matter, with a table where numbers say more.

    Attributes:
        title: What it is about.
        findings: In the order in which they were made.
        columns: Names of the columns of the table; empty: there is none.
        rows: Of the table, each with a text for every column.
    """

    title: str
    findings: list[Finding] = field(default_factory=list)
    columns: tuple[str, ...] = ()
    rows: list[tuple[str, ...]] = field(default_factory=list)

    def add(self, level: Level, text: str, detail: str = "", hint: str = "") -> None:
        """Note something."""
        self.findings.append(Finding(level, text, detail, hint))

    @property
    def failed(self) -> bool:
        """Whether something is wrong."""
        return any(finding.level is Level.FAIL for finding in self.findings)

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        data: dict[str, Any] = {
            "title": self.title,
            "findings": [finding.to_dict() for finding in self.findings],
        }
        if self.rows:
            data["table"] = [dict(zip(self.columns, row)) for row in self.rows]
        return data


def counts(sections: Iterable[Section]) -> dict[str, int]:
    """How many findings there are of each level."""
    found = dict.fromkeys((level.value for level in Level), 0)
    for section in sections:
        for finding in section.findings:
            found[finding.level.value] += 1
    return found
