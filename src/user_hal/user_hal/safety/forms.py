"""Command forms: how each kind of action translates to a displacement, and back.

The rules judge displacements in metres and radians. A form makes one of an action, and makes an
action again of what the rules left of it.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np

from user_core.errors import ConfigError
from user_core.reasons import QUATERNION
from user_core.specs import ActionKind, Array, Arrays, RobotSpec
from user_hal.safety.motion import Motion, MotionLayout
from user_hal.safety.rotation import Quaternion, conjugate, from_vector, multiply, to_vector
from user_hal.safety.rules import BoundsRule, Refused
from user_hal.safety.settling import TURN, short_way


class Form(ABC):
    """Translates one kind of action to a displacement and back.

    Attributes:
        rest: The action that would move nothing, (A,); extras keep what was asked.
        resting: Whether the robot was held since the last command: the target is where it is.
    """

    def __init__(self, layout: MotionLayout, motion: Motion) -> None:
        self.layout, self.motion = layout, motion
        self.rest = [0.0] * layout.action_size
        self.resting = True
        self._start = list(motion.target)  # target before the last command
        self._rows = _in_one_piece(layout.joint_rows)

    @abstractmethod
    def start(self, values: list[float]) -> bool:
        """Fill ``motion.displacement`` and ``rest`` from an action, (A,).

        Returns whether the action had to be brought into its proper form for that.

        Raises:
            Refused: The action has no meaning, for instance a quaternion of length zero.
        """

    @abstractmethod
    def finish(self, values: list[float]) -> None:
        """Write the action that does ``motion.displacement`` into ``values``, (A,)."""

    def measure(self, arrays: Arrays) -> None:
        """Take over the measured position."""
        motion, layout = self.motion, self.layout
        if layout.joints.stop and "joint_position" in arrays:
            motion.position[:] = arrays["joint_position"][self._rows].tolist()
        elif layout.tool and "tcp_pose" in arrays:
            motion.position[:] = arrays["tcp_pose"][layout.linear].tolist()

    def turned(self, arrays: Arrays) -> Quaternion | None:
        """The measured orientation of the tool, where actions move it and it is measured."""
        if not self.layout.tool or "tcp_pose" not in arrays or arrays["tcp_pose"].size < 7:
            return None
        x, y, z, w = arrays["tcp_pose"][3:7].tolist()
        return (x, y, z, w)

    def observe(self, arrays: Arrays, *, believed: bool) -> None:
        """Draw conclusions from a reading that was measured.

        Args:
            arrays: It.
            believed: Whether the robot can be where it says.
        """
        if self.resting and believed:
            self.motion.target[:] = self.motion.position

    def sent(self, values: list[float]) -> None:
        """The action, (A,), is being sent."""
        self._start[:] = self.motion.target
        self.resting = False

    def executed(self, values: list[float]) -> None:
        """What was sent last was carried out as this action, (A,); refill ``displacement``."""
        self.motion.target[:] = self._start
        self.start(values)
        self.sent(values)

    def hold(self) -> None:
        """The robot was stopped and holds where it is."""
        self.resting = True
        self.motion.target[:] = self.motion.position


def _in_one_piece(rows: Array) -> Array | slice:
    """Rows as a slice where they follow each other: that is read without a copy."""
    first = int(rows[0]) if rows.size else 0
    follow = np.array_equal(rows, np.arange(first, first + rows.size))
    return slice(first, first + rows.size) if follow else rows


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
        self._turns = any(motion.turning)

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

    def observe(self, arrays: Arrays, *, believed: bool) -> None:
        super().observe(arrays, believed=believed)
        if believed and not self.resting:
            self._leash()

    def _leash(self) -> None:
        """A robot that is blocked does not run up an ever farther target."""
        motion, turns = self.motion, self._turns
        target = motion.target
        for i, (now, here, lead) in enumerate(zip(target, motion.position, self._lead)):
            if turns and motion.turning[i]:
                here = now + short_way(here - now)
            if here - lead > now:
                target[i] = min(here - lead, here + lead)
            elif here + lead < now:
                target[i] = here + lead


class RateForm(ChangeForm):
    """``ee_twist``, ``joint_velocity`` and ``base_twist``: the displacement is what one period
    brings."""

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

    def observe(self, arrays: Arrays, *, believed: bool) -> None:
        super().observe(arrays, believed=believed)
        self.motion.target[:] = self.motion.position

    def sent(self, values: list[float]) -> None:
        self.resting = False

    def executed(self, values: list[float]) -> None:
        self.start(values)


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


class JointTargetForm(Form):
    """``joint_position``: the displacement is the way from the target before to the new one.

    Joints that turn without an end go the short way round. Their targets in an action stay
    within the bounds of the action, and the driver goes to them the short way.
    """

    def __init__(self, layout: MotionLayout, motion: Motion, bounds: BoundsRule) -> None:
        super().__init__(layout, motion)
        self._turning = [i for i, turns in enumerate(motion.turning) if turns]
        self._low, self._high = bounds.low, bounds.high

    def start(self, values: list[float]) -> bool:
        motion, count = self.motion, self.layout.joints.stop
        target, step = motion.target, motion.displacement
        others = values[count:]
        self.rest[:] = target + others
        step[:] = [value - now for value, now in zip(values, target)] + others
        for i in self._turning:
            step[i] = short_way(step[i])
            self.rest[i] = values[i] - step[i]  # the target, by whole turns near what is asked
        return False

    def finish(self, values: list[float]) -> None:
        target, step = self.motion.target, self.motion.displacement
        asked = [values[i] for i in self._turning]
        values[:] = [now + by for now, by in zip(target, step)] + step[len(target) :]
        for i, near in zip(self._turning, asked):
            values[i] = near + short_way(values[i] - near)
            low, high = self._low[i], self._high[i]
            for other in (values[i] - TURN, values[i] + TURN):
                if not low <= values[i] <= high and low <= other <= high:
                    values[i] = other
                    break

    def sent(self, values: list[float]) -> None:
        super().sent(values)
        self.motion.target[:] = values[: self.layout.joints.stop]


_SHORTEST_QUATERNION = 0.1
_UNIT_TOLERANCE = 1e-3


class PoseTargetForm(Form):
    """``ee_pose``: the way from the target before to the new one, as translation and rotation."""

    def __init__(self, layout: MotionLayout, motion: Motion) -> None:
        super().__init__(layout, motion)
        self._turns = layout.angular.stop > layout.angular.start
        self._target_q: Quaternion = (0.0, 0.0, 0.0, 1.0)
        self._position_q: Quaternion = (0.0, 0.0, 0.0, 1.0)
        self._start_q = self._target_q

    def observe(self, arrays: Arrays, *, believed: bool) -> None:
        super().observe(arrays, believed=believed)
        if self._turns:
            self._position_q, _ = _unit(arrays["tcp_pose"][3:7].tolist())
            if self.resting and believed:
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
        self._start_q = self._target_q
        self.motion.target[:] = values[: self.layout.linear.stop]
        if self._turns:
            self._target_q, _ = _unit(values[3:7])

    def executed(self, values: list[float]) -> None:
        self._target_q = self._start_q
        super().executed(values)

    def hold(self) -> None:
        super().hold()
        self._target_q = self._position_q


def _unit(q: Sequence[float]) -> tuple[Quaternion, float]:
    """A quaternion of length one, and the length it had."""
    length = math.hypot(*q)
    if length < _SHORTEST_QUATERNION:
        raise Refused(QUATERNION, f"quaternion {q} has length {length:.3f}, expected about 1")
    x, y, z, w = q
    return (x / length, y / length, z / length, w / length), length


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

    def executed(self, values: list[float]) -> None:
        self._before[:] = values


def form_for(
    spec: RobotSpec,
    layout: MotionLayout,
    motion: Motion,
    scale: Sequence[float],
    lead: Sequence[float],
    bounds: BoundsRule,
) -> Form:
    """The form for a robot's kind of action.

    Args:
        scale: What one unit of each element of a change or rate moves; empty: SI units.
        lead: How far the target may be ahead of the measured position, (P,).
        bounds: Of an action.

    Raises:
        ConfigError: The robot shows nothing that its targets could be judged against.
    """
    if scale and layout.absolute:
        raise ConfigError(
            "action_scale",
            got=f"{list(scale)} for actions of kind {layout.kind.value!r}",
            expected="no scale: targets are in m and rad",
        )
    if layout.kind is ActionKind.JOINT_POSITION:
        _need(spec, "joint_position")
        return JointTargetForm(layout, motion, bounds)
    if layout.kind is ActionKind.EE_POSE:
        _need(spec, "tcp_pose")
        return PoseTargetForm(layout, motion)
    if layout.kind is ActionKind.GENERIC:
        return PlainForm(layout, motion)
    if layout.rate:
        return RateForm(layout, motion, scale, lead)
    return ChangeForm(layout, motion, scale, lead)


def _need(spec: RobotSpec, name: str) -> None:
    if name not in spec.observation:
        raise ConfigError(
            f"safety gate of {spec.robot!r}",
            got=f"actions of kind {spec.action_kind.value!r}, observation {list(spec.observation)}",
            expected=f"{name!r} in the observation: targets are judged against it",
        )
