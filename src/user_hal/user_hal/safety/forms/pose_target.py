"""Actions that are poses of the tool."""

from __future__ import annotations

import math
from collections.abc import Sequence

from user_core.specs import Arrays
from user_hal.safety.forms.form import Form
from user_hal.safety.layout import MotionLayout
from user_hal.safety.motion import Motion
from user_hal.safety.rotation import Quaternion, conjugate, from_vector, multiply, to_vector
from user_hal.safety.rule import Refused

_SHORTEST_QUATERNION = 0.1
_UNIT_TOLERANCE = 1e-3


class PoseTargetForm(Form):
    """``ee_pose``: the way from the target before to the new one, as translation and rotation."""

    def __init__(self, layout: MotionLayout, motion: Motion) -> None:
        super().__init__(layout, motion)
        self._turns = layout.angular.stop > layout.angular.start
        self._target_q: Quaternion = (0.0, 0.0, 0.0, 1.0)
        self._position_q: Quaternion = (0.0, 0.0, 0.0, 1.0)

    def observe(self, arrays: Arrays) -> None:
        super().observe(arrays)
        if self._turns:
            self._position_q, _ = _unit(arrays["tcp_pose"][3:7].tolist())
            if self.resting:
                self._target_q = self._position_q

    def start(self, values: list[float]) -> bool:
        target, count = self.motion.target, self.layout.linear.stop
        way = [value - now for value, now in zip(values, target)]
        mended = False
        if self._turns:
            asked, length = _unit(values[3:7])
            mended = abs(length - 1.0) > _UNIT_TOLERANCE
            if mended:
                values[3:7] = asked
            turn = to_vector(multiply(asked, conjugate(self._target_q)))
            self.motion.displacement[:] = [*way, *turn, *values[7:]]
        else:
            self.motion.displacement[:] = [*way, *values[count:]]
        self.rest[:] = [*target, *values[count:]]
        return mended

    def finish(self, values: list[float]) -> None:
        step, count = self.motion.displacement, self.layout.linear.stop
        place = [now + by for now, by in zip(self.motion.target, step)]
        if self._turns:
            turned = multiply(from_vector((step[3], step[4], step[5])), self._target_q)
            nearer = sum(a * b for a, b in zip(turned, values[3:7])) >= 0
            values[:] = [*place, *(q if nearer else -q for q in turned), *step[6:]]
            self.rest[3:7] = values[3:7]
        else:
            values[:] = [*place, *step[count:]]

    def sent(self, values: list[float]) -> None:
        super().sent(values)
        self.motion.target[:] = values[: self.layout.linear.stop]
        if self._turns:
            self._target_q, _ = _unit(values[3:7])

    def hold(self) -> None:
        super().hold()
        self._target_q = self._position_q


def _unit(q: Sequence[float]) -> tuple[Quaternion, float]:
    """A quaternion of length one, and the length it had."""
    length = math.hypot(*q)
    if length < _SHORTEST_QUATERNION:
        raise Refused("quaternion", f"quaternion {q} has length {length:.3f}, expected about 1")
    x, y, z, w = q
    return (x / length, y / length, z / length, w / length), length
