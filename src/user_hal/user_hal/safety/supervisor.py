"""In which state the robot is: whether commands may pass, and if not, why."""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum

from user_hal.safety.rule import Refused
from user_hal.safety.stops.condition import Stop, StopCondition


class SafetyState(IntEnum):
    """From free to shut; the values are those of ``user_msgs/SafetyStatus``."""

    IDLE = 0
    """No command yet, or none wanted; the robot holds."""
    ACTIVE = 1
    """Commands pass."""
    STOPPED = 2
    """Safe stop; ends by itself when its cause has gone and commands come."""
    EMERGENCY = 3
    """Emergency stop; latched until it is reset."""


class SafetySupervisor:
    """Watches the stop conditions and keeps the state. Not safe to use from several threads.

    Whoever uses it stops the robot at once when :meth:`check` or :meth:`trip` returns True.

    Args:
        emergency: The latched one, which outranks all others.
        conditions: The others, the most telling first: the first that holds is the cause.

    Attributes:
        state: The state.
        cause: Why the robot was stopped last; None when it was not, or commands pass again.
        present: Whether that cause still holds.
    """

    def __init__(self, emergency: StopCondition, conditions: Sequence[StopCondition]) -> None:
        self.state = SafetyState.IDLE
        self.cause: Stop | None = None
        self.present = False
        self._emergency = emergency
        self._conditions = (emergency, *conditions)

    def check(self, now_ns: int) -> bool:
        """Look at all conditions; tell whether the robot has to be stopped now."""
        for condition in self._conditions:
            stop = condition.check(now_ns)
            if stop is not None:
                return self._enter(stop, latched=condition is self._emergency)
        if self.state is SafetyState.EMERGENCY:
            self.idle()
        self.present = False
        return False

    def trip(self, code: str, detail: str) -> bool:
        """Something happened that calls for a stop, and is over; return as :meth:`check`.

        It does not hide a cause that is still there.
        """
        if self.present:
            return False
        stop_now = self._enter(Stop(code, detail), latched=False)
        self.present = False
        return stop_now

    def admit(self) -> None:
        """Let a command in.

        Raises:
            Refused: ``stopped`` or ``emergency``: a cause that holds forbids all motion.
        """
        if self.present and self.cause is not None:
            emergency = self.state is SafetyState.EMERGENCY
            code = self.cause.code if emergency else "stopped"
            raise Refused(code, f"{self.cause.code}: {self.cause.detail}")

    def sent(self) -> None:
        """A command passed."""
        self.state, self.cause, self.present = SafetyState.ACTIVE, None, False

    def idle(self) -> None:
        """No commands are wanted now, and nothing is wrong."""
        self.state, self.cause, self.present = SafetyState.IDLE, None, False

    def _enter(self, stop: Stop, *, latched: bool) -> bool:
        state = SafetyState.EMERGENCY if latched else SafetyState.STOPPED
        stop_now = self.state in (SafetyState.IDLE, SafetyState.ACTIVE) or state > self.state
        self.state, self.cause, self.present = state, stop, True
        return stop_now
