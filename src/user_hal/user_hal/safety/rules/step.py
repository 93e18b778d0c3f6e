"""How far one command may move."""

from __future__ import annotations

from user_hal.safety.layout import MotionLayout
from user_hal.safety.motion import Motion
from user_hal.safety.rule import Rule
from user_hal.safety.rules.motion_limits import MotionLimits, clip, shorten


class StepRule(Rule):
    """Limits the displacement of one command: each element, then the lengths of the vectors."""

    code = "step"

    def __init__(self, config: MotionLimits, layout: MotionLayout) -> None:
        self._each = config.elements(layout, "step")
        self._vectors = config.vectors(layout, "step")

    def limit(self, motion: Motion) -> bool:
        limited = clip(motion.displacement, self._each)
        for part, longest in self._vectors:
            limited |= shorten(motion.displacement, part, longest)
        return limited
