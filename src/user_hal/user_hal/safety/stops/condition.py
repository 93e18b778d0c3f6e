"""What every reason for a safe stop has in common."""

from __future__ import annotations

from typing import NamedTuple, Protocol


class Stop(NamedTuple):
    """A reason for which the robot must stand still.

    Attributes:
        code: Code of the cause, as published.
        detail: The cause for people: what is wrong, what would be right.
    """

    code: str
    detail: str


class StopCondition(Protocol):
    """Something that may forbid all motion. The robot may move when no condition does."""

    def check(self, now_ns: int) -> Stop | None:
        """Why the robot must stand still at this moment of the monotonic clock, or None."""
