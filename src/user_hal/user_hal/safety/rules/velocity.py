"""How fast commands may move, whatever the rhythm in which they come."""

from __future__ import annotations

import math

from user_hal.safety.layout import MotionLayout
from user_hal.safety.motion import Motion
from user_hal.safety.rule import Rule
from user_hal.safety.rules.motion_limits import MotionLimits, clip, shorten

#: A command may use what a late one before it left over, up to this many periods.
_BURST_PERIODS = 1.5


class VelocityRule(Rule):
    """Limits displacement over time: each element, then the lengths of the vectors.

    Displacement is earned with time and spent by commands (a token bucket), so that commands
    that come too often move no faster, while one that comes a little late loses nothing. An
    action that is itself a velocity goes on by itself and is limited directly.
    """

    code = "velocity"

    def __init__(self, config: MotionLimits, layout: MotionLayout, period_s: float) -> None:
        self._each = config.elements(layout, "velocity")
        self._vectors = config.vectors(layout, "velocity")
        self._spends = not layout.rate
        self._burst_s = period_s * (_BURST_PERIODS if self._spends else 1.0)
        self.hold()

    def hold(self) -> None:
        """A robot at rest has its full allowance."""
        self._earned = [limit * self._burst_s for limit in self._each]
        self._earned_lengths = [limit * self._burst_s for _, limit in self._vectors]

    def limit(self, motion: Motion) -> bool:
        self._earn(motion.elapsed_s)
        limited = clip(motion.displacement, self._earned)
        for (part, _), longest in zip(self._vectors, self._earned_lengths):
            limited |= shorten(motion.displacement, part, longest)
        return limited

    def sent(self, motion: Motion) -> None:
        """Spend what the command moves."""
        if not self._spends:
            return
        earned, step = self._earned, motion.displacement
        for i in range(len(earned)):
            earned[i] = max(earned[i] - abs(step[i]), 0.0)
        for i, (part, _) in enumerate(self._vectors):
            left = self._earned_lengths[i] - math.hypot(*step[part])
            self._earned_lengths[i] = max(left, 0.0)

    def _earn(self, elapsed_s: float) -> None:
        for i, limit in enumerate(self._each):
            self._earned[i] = min(self._earned[i] + limit * elapsed_s, limit * self._burst_s)
        for i, (_, limit) in enumerate(self._vectors):
            earned = self._earned_lengths[i] + limit * elapsed_s
            self._earned_lengths[i] = min(earned, limit * self._burst_s)
