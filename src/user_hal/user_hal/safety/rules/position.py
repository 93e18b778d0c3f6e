"""What the box of the tool and the limits of the joints have in common."""

from __future__ import annotations

from collections.abc import Sequence

from user_hal.safety.motion import Motion
from user_hal.safety.rule import Refused, Rule

#: A displacement smaller than this asks for no motion (m or rad).
_STILL = 1e-9


class PositionRule(Rule):
    """Keeps a position within ``low`` and ``high``, (P,) each.

    Inside, a displacement is cut, element by element, so that it ends inside. A robot that has
    overshot a limit by no more than ``tolerance`` is kept from going further out. Beyond that
    (it was pushed there, or the limits were moved) a command that leads further out is refused
    altogether, and one that leads back is passed. Both the measured position and the target that the
    commands so far lead to are kept inside, since a robot lags behind its target.

    A velocity goes on until something stops it: it is cut to what stays inside for
    ``horizon_s``, the time after which the watchdog stops a robot whose commands stay away.
    """

    def __init__(
        self,
        low: Sequence[float],
        high: Sequence[float],
        names: Sequence[str],
        horizon_s: float,
        tolerance: float,
    ) -> None:
        self.low, self.high = list(low), list(high)
        self._tolerance = tolerance
        self._names = names
        self._horizon_s = horizon_s

    def limit(self, motion: Motion) -> bool:
        layout, step = motion.layout, motion.displacement
        share = motion.period_s / self._horizon_s if layout.rate else 1.0
        limited = False
        for i, low in enumerate(self.low):
            high, here, target = self.high[i], motion.position[i], motion.target[i]
            if here > high + self._tolerance or here < low - self._tolerance:
                self._refuse_outward(motion, i)
            if layout.absolute:
                up, down = high - target, low - target
            else:
                up, down = (high - max(here, target)) * share, (low - min(here, target)) * share
            if step[i] > up:
                most = max(up, 0.0)
                limited |= step[i] > most
                step[i] = min(step[i], most)
            if step[i] < down:
                most = min(down, 0.0)
                limited |= step[i] < most
                step[i] = max(step[i], most)
        return limited

    def _refuse_outward(self, motion: Motion, i: int) -> None:
        asked, here = motion.asked[i], motion.position[i]
        if motion.layout.absolute:  # a displacement from the target; the robot is elsewhere
            asked += motion.target[i] - here
        if (here > self.high[i] and asked > _STILL) or (here < self.low[i] and asked < -_STILL):
            raise Refused(
                self.code,
                f"{self._names[i]} is at {here:.4f}, outside {self.low[i]:.4f} to "
                f"{self.high[i]:.4f}, and the command leads further out; lead it back in",
            )
