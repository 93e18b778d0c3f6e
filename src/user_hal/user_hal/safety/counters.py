"""How many commands passed, were changed or refused, and why."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field


@dataclass
class GateCounters:
    """Counts since the start of the process.

    Attributes:
        passed: Commands that passed unchanged.
        limited: Commands that passed changed.
        refused: Commands that were refused.
        reasons: How often each code occurred; one command may be changed for several.
    """

    passed: int = 0
    limited: int = 0
    refused: int = 0
    reasons: Counter[str] = field(default_factory=Counter)

    def limit(self, codes: Iterable[str]) -> None:
        """Count one changed command."""
        self.limited += 1
        for code in codes:
            self.reasons[code] += 1

    def refuse(self, code: str) -> None:
        """Count one refused command."""
        self.refused += 1
        self.reasons[code] += 1
