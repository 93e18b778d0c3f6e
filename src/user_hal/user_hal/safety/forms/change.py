"""Actions that say how far to move in one period, or how fast."""

from __future__ import annotations

from collections.abc import Sequence

from user_core.errors import ConfigError
from user_core.specs import Arrays
from user_hal.safety.forms.form import Form
from user_hal.safety.layout import MotionLayout
from user_hal.safety.motion import Motion


class ChangeForm(Form):
    """``ee_delta`` and ``joint_delta``: the displacement is the action, times the scale.

    Args:
        scale: What one unit of each element moves, one for all, or (A,); empty: SI units.
        lead: How far the target may be ahead of the measured position, (P,).
    """

    def __init__(
        self,
        layout: MotionLayout,
        motion: Motion,
        scale: Sequence[float],
        lead: Sequence[float],
    ) -> None:
        super().__init__(layout, motion)
        self._moving = layout.moving.stop
        self._scale = action_scale(scale, layout)
        self._lead = lead

    def start(self, values: list[float]) -> bool:
        self.motion.displacement[:] = [v * scale for v, scale in zip(values, self._scale)]
        self.rest[self._moving :] = values[self._moving :]
        return False

    def finish(self, values: list[float]) -> None:
        values[:] = [v / scale for v, scale in zip(self.motion.displacement, self._scale)]

    def sent(self, values: list[float]) -> None:
        super().sent(values)
        motion = self.motion
        motion.target[:] = [t + d for t, d in zip(motion.target, motion.displacement)]
        self._leash()

    def observe(self, arrays: Arrays) -> None:
        super().observe(arrays)
        if not self.resting:
            self._leash()

    def _leash(self) -> None:
        """A robot that is blocked does not run up an ever farther target."""
        target = self.motion.target
        for i, (here, lead) in enumerate(zip(self.motion.position, self._lead)):
            target[i] = min(max(target[i], here - lead), here + lead)


class RateForm(ChangeForm):
    """``ee_twist`` and ``joint_velocity``: the displacement is what one period brings."""

    def __init__(
        self,
        layout: MotionLayout,
        motion: Motion,
        scale: Sequence[float],
        lead: Sequence[float],
    ) -> None:
        super().__init__(layout, motion, scale, lead)
        moving = [value * motion.period_s for value in self._scale[: self._moving]]
        self._scale[: self._moving] = moving

    def observe(self, arrays: Arrays) -> None:
        super().observe(arrays)
        self.motion.target[:] = self.motion.position

    def sent(self, values: list[float]) -> None:
        self.resting = False


def action_scale(scale: Sequence[float], layout: MotionLayout) -> list[float]:
    """One factor per element of a change or rate, (A,).

    Raises:
        ConfigError: The number of factors fits neither one nor all elements.
    """
    if len(scale) == layout.action_size:
        return list(scale)
    if len(scale) > 1:
        raise ConfigError(
            "action_scale", got=f"{len(scale)} values", expected=f"one, or {layout.action_size}"
        )
    moving = layout.moving.stop
    return [scale[0] if scale else 1.0] * moving + [1.0] * (layout.action_size - moving)
