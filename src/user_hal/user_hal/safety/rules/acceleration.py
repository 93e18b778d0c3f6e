"""How quickly the velocity may change from one command to the next."""

from __future__ import annotations

from user_hal.safety.layout import MotionLayout
from user_hal.safety.motion import Motion
from user_hal.safety.rule import Rule
from user_hal.safety.rules.motion_limits import MotionLimits, clip, shorten


class AccelerationRule(Rule):
    """Limits the change of velocity, speeding up and slowing down alike.

    The velocity of a command is its displacement over the control period. Limits on the
    position come after this rule and win over it: a robot brakes hard rather than leave its
    box.
    """

    code = "acceleration"

    def __init__(self, config: MotionLimits, layout: MotionLayout) -> None:
        self._each = config.elements(layout, "acceleration")
        self._vectors = config.vectors(layout, "acceleration")

    def limit(self, motion: Motion) -> bool:
        step, previous = motion.displacement, motion.previous
        scale = motion.period_s * min(motion.elapsed_s, motion.period_s)
        change = [new - old for new, old in zip(step, previous)]
        limited = clip(change, [limit * scale for limit in self._each])
        for part, longest in self._vectors:
            limited |= shorten(change, part, longest * scale)
        if limited:
            step[:] = [old + by for old, by in zip(previous, change)]
        return limited
