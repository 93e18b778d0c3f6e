"""When a robot may begin to move: at once, or once a person beside it has said go."""

from __future__ import annotations

from user_core.errors import DeviceError
from user_core.reasons import EMERGENCY_STOP, NO_REASON, WAITS_FOR_GO, Reason

_HOW = "say go to it"


class StartSignal:
    """Whether a person has said go. Pure; :meth:`go` and :meth:`withdraw` from any thread.

    A go holds for many episodes. It is withdrawn by an emergency stop, and when the robot was away
    for longer than ``lapses_s``: whoever stopped it, or has waited for it, may stand beside it. It
    is not remembered beyond the process, nor beyond the deactivation of its node.

    Args:
        needed: Whether anybody must say it at all.
        lapses_s: How long the robot may be away, seconds.
        how: What to do to say go, for people.
    """

    def __init__(self, needed: bool, lapses_s: float, how: str = _HOW) -> None:
        self._needed, self._lapses_ns, self.how = needed, int(lapses_s * 1e9), how
        self._said = False
        self._why = "nothing has moved yet"
        self._away_since_ns: int | None = None
        self._unready = Reason()

    def go(self) -> str:
        """A person says go; returns what will happen, for him.

        Raises:
            DeviceError: The robot is not ready: a go for later would come as a surprise.
        """
        if not self._needed:
            return "it starts by itself (start: at_once)"
        if self._unready:
            raise DeviceError("go", got=self._unready.text, expected="a robot that is ready",
                              hint="Say it again then")  # fmt: skip
        self._said = True
        return "the robot moves now"

    def withdraw(self, why: str) -> None:
        """The go does not hold any more; ``why`` is for people."""
        if self._said:
            self._said, self._why = False, why

    def robot_is(self, unready: Reason, now_ns: int) -> None:
        """How the robot is now: ``unready`` says why it cannot be driven, if it cannot."""
        self._unready = unready
        if not unready:
            self._away_since_ns = None
            return
        if self._away_since_ns is None:
            self._away_since_ns = now_ns
        if unready.code == EMERGENCY_STOP:
            self.withdraw("there was an emergency stop")
        elif now_ns - self._away_since_ns > self._lapses_ns:
            self.withdraw(f"it was away for more than {self._lapses_ns * 1e-9:g} s")

    def why_waiting(self) -> Reason:
        """Why the robot must not move yet; false if it may."""
        if self._said or not self._needed:
            return NO_REASON
        return Reason(WAITS_FOR_GO, f"a person must say go, {self._why}: {self.how}")
