"""What joints can do: turn round without an end, and no faster than their limits."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from user_core.errors import ImplausibleReading
from user_core.specs import Array

#: Messages may come, or be stamped, this much closer to each other than they were measured.
_JITTER_S = 0.02
_TURN = 2 * np.pi
#: A jump of a whole turn, to this much of a turn, is a joint whose readings wrap.
_NEAR_TURN = 0.02


class Turns:
    """Ways between positions of joints, the short way round for continuous ones.

    Args:
        joints: All joints, in the order of joint vectors.
        continuous: Those that turn without an end, whose readings may jump by a whole turn.
    """

    def __init__(self, joints: Sequence[str] = (), continuous: Sequence[str] = ()) -> None:
        self.joints = tuple(joints)
        self._which = np.array([name in continuous for name in joints], dtype=bool)
        self._any = bool(self._which.any())

    def way(self, start: Array, end: Array) -> Array:
        """The change from one position to another, (n,) rad."""
        change: Array = end - start
        if self._any:
            turns = np.round(change[self._which] / _TURN)
            change[self._which] -= turns * _TURN
        return change

    def turned(self, values: Array, angle: float) -> Array:
        """The positions, of continuous joints turned on by an angle."""
        return np.where(self._which, values + angle, values) if self._any else values

    def near(self, values: Array, reference: Array, within: Array | float = np.inf) -> Array:
        """The same position, by whole turns as near to another as it can be. Joints that are
        farther than ``within`` from it the short way stay: what is not there turns nothing round.
        """
        if not self._any:
            return values
        way = self.way(reference, values)
        return np.where(np.abs(way) <= within, reference + way, values)


class JumpCheck:
    """Finds readings that no joint can have reached since the one before.

    A reading is judged against the one before it, whether that was taken or not: two writers of
    one topic never look right. After a jump, ``settled`` readings in a row must fit each other
    before readings count again; the joints may then be somewhere else.

    Args:
        joints: Their names.
        limits: Fastest that they can move, (n,) rad/s.
        turns: Which of them are continuous.
        margin: Factor on the limits.
        settled: See above.
    """

    def __init__(
        self,
        joints: Sequence[str],
        limits: Array,
        turns: Turns,
        margin: float = 2.0,
        settled: int = 5,
    ) -> None:
        self._joints, self._limits, self._turns = list(joints), limits * margin, turns
        self._settled = settled
        self._last: tuple[Array, int, int] | None = None
        self._awaited = 0  # readings that must still fit
        self._jump: ImplausibleReading | None = None

    def check(self, values: Array, stamp_ns: int, arrival_ns: int) -> None:
        """Judge the next reading.

        Args:
            values: (n,) rad.
            stamp_ns: When it was measured.
            arrival_ns: When it came, monotonic.

        Raises:
            ImplausibleReading: It jumped, or too few have fitted since one did.
        """
        last, self._last = self._last, (values, stamp_ns, arrival_ns)
        if last is None:
            return
        passed_s = max(stamp_ns - last[1], arrival_ns - last[2], 0) * 1e-9 + _JITTER_S
        over = self._ways(last[0], values) - self._limits * passed_s
        worst = int(np.argmax(over))
        if over[worst] > 0:
            self._awaited = self._settled
            what, jump, unit = self._describe(worst, last[0], values)
            self._jump = ImplausibleReading(
                what,
                got=f"a jump from {jump} within {passed_s:.3f} s",
                expected=f"at most {self._limits[worst] * passed_s:.3f} {unit}",
                hint=self._hint(worst, last[0], values)
                + f"; {self._settled} readings in a row that fit end this",
            )
        elif self._awaited:
            self._awaited -= 1
        if self._awaited and self._jump is not None:
            raise self._jump

    def forget(self) -> None:
        """The next reading is the first."""
        self._last, self._awaited, self._jump = None, 0, None

    def _ways(self, before: Array, now: Array) -> Array:
        """How far it went since the reading before; one number for each limit."""
        return np.abs(self._turns.way(before, now))

    def _hint(self, which: int, before: Array, now: Array) -> str:
        """What may be behind a jump."""
        turns = (now[which] - before[which]) / _TURN if which < len(self._joints) else 0.0
        if abs(turns) > 0.9 and abs(turns - round(turns)) < _NEAR_TURN:
            name = self._joints[which]
            return f"That is a whole turn: if it turns without an end, write continuous: [{name}]"
        return "Look for a second publisher of the topic, and for a driver that sends zeros while it starts"

    def _describe(self, which: int, before: Array, now: Array) -> tuple[str, str, str]:
        """What jumped, from where to where, and the unit."""
        jump = f"{before[which]:.3f} to {now[which]:.3f} rad"
        return f"joint {self._joints[which]!r}", jump, "rad"
