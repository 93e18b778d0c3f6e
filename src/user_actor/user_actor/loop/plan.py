"""A policy's action chunk while it is carried out."""

from __future__ import annotations

from dataclasses import dataclass

from user_core.specs import Array


@dataclass
class ActionPlan:
    """Rows that a policy proposed, and how far they were carried out.

    Attributes:
        action_ta: The rows, (T, A).
        version: Policy version that proposed them.
        sequence: Sequence number of the chunk in which they were sent; 0: row by row.
        next_row: The row that is due now.
    """

    action_ta: Array
    version: int
    sequence: int = 0
    next_row: int = 0

    def due(self, replan_every: int) -> bool:
        """Whether the policy must plan again; ``replan_every`` 0: when all rows are used."""
        rows = len(self.action_ta)
        return self.next_row >= (min(replan_every, rows) if replan_every else rows)

    def take(self) -> tuple[Array, int]:
        """The row that is due, (A,), and its place; the next one is due then."""
        row = self.next_row
        self.next_row += 1
        return self.action_ta[row], row
