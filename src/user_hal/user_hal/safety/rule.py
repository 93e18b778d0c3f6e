"""What every rule of the gate has in common."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

from user_hal.safety.motion import Motion


class Refused(Exception):
    """A rule refuses a command: it is not sent, and the robot holds.

    Args:
        code: Code of the reason, as counted and published.
        detail: What came and what is allowed, for people.
    """

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(f"{code}: {detail}")
        self.code, self.detail = code, detail


class Rule(ABC):
    """One limit on what a command may do. Rules are applied in a fixed order, see the gate.

    Attributes:
        code: Code under which what it changed is counted and published.
    """

    code: ClassVar[str]

    @abstractmethod
    def limit(self, motion: Motion) -> bool:
        """Reduce ``motion.displacement`` in place to what is allowed; tell whether it did.

        Raises:
            Refused: Nothing near to what was asked is allowed.
        """

    def sent(self, motion: Motion) -> None:
        """The command is being sent: remember what the next judgement needs."""

    def hold(self) -> None:
        """The robot was stopped: forget the motion before."""
