"""Actions that mean anything, for instance those of a Gymnasium environment."""

from __future__ import annotations

from user_hal.safety.forms.form import Form
from user_hal.safety.layout import MotionLayout
from user_hal.safety.motion import Motion


class PlainForm(Form):
    """``generic``: the displacement is the change from the command before.

    The first command after a hold has none before it and changes nothing.
    """

    def __init__(self, layout: MotionLayout, motion: Motion) -> None:
        super().__init__(layout, motion)
        self._before = [0.0] * layout.action_size

    def start(self, values: list[float]) -> bool:
        self.rest[:] = values if self.resting else self._before
        self.motion.displacement[:] = [v - rest for v, rest in zip(values, self.rest)]
        return False

    def finish(self, values: list[float]) -> None:
        values[:] = [rest + by for rest, by in zip(self.rest, self.motion.displacement)]

    def sent(self, values: list[float]) -> None:
        super().sent(values)
        self._before[:] = values
