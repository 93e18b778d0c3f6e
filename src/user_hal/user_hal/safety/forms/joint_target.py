"""Actions that are joint targets."""

from __future__ import annotations

from user_hal.safety.forms.form import Form


class JointTargetForm(Form):
    """``joint_position``: the displacement is the way from the target before to the new one."""

    def start(self, values: list[float]) -> bool:
        target, count = self.motion.target, self.layout.joints.stop
        self.rest[:] = [*target, *values[count:]]
        self.motion.displacement[:] = [
            *(value - now for value, now in zip(values, target)),
            *values[count:],
        ]
        return False

    def finish(self, values: list[float]) -> None:
        target, step = self.motion.target, self.motion.displacement
        values[:] = [*(now + by for now, by in zip(target, step)), *step[len(target) :]]

    def sent(self, values: list[float]) -> None:
        super().sent(values)
        self.motion.target[:] = values[: self.layout.joints.stop]
