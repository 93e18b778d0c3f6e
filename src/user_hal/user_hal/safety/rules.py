"""The rules of the gate: format, bounds, step, velocity, acceleration, joint limits, workspace.

Every rule looks at one command and passes it, reduces it to what is allowed, or refuses it. The
gate (:mod:`user_hal.safety.gate`) applies them in a fixed order.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from user_core.errors import ConfigError
from user_core.reasons import (
    ACCELERATION,
    BOUNDS,
    DTYPE,
    JOINT_LIMITS,
    NO_CHOICE,
    NOT_FINITE,
    OUT_OF_BOUNDS,
    SHAPE,
    STEP,
    VELOCITY,
    WORKSPACE,
)
from user_core.specs import Array, ArraySpec, RobotSpec
from user_hal.safety.config import (
    UNLIMITED,
    BoundsConfig,
    JointLimitsConfig,
    MotionLimits,
    WorkspaceConfig,
)
from user_hal.safety.motion import Motion, MotionLayout


class Refused(Exception):
    """A rule refuses a command: it is not sent, and the robot holds.

    Args:
        code: Code of the reason, as counted and published.
        detail: What came and what is allowed, for people.
    """

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(f"{code}: {detail}")
        self.code, self.detail = code, detail


class Rule(ABC):
    """One limit on what a command may do. Rules are applied in a fixed order, see the gate.

    Attributes:
        code: Code under which what it changed is counted and published.
    """

    code: ClassVar[str]

    @abstractmethod
    def limit(self, motion: Motion) -> bool:
        """Reduce ``motion.displacement`` in place to what is allowed; tell whether it did.

        Raises:
            Refused: Nothing near to what was asked is allowed.
        """

    def sent(self, motion: Motion) -> None:
        """The command is being sent: remember what the next judgement needs."""

    def hold(self) -> None:
        """The robot was stopped: forget the motion before."""


class FormatRule:
    """Refuses what is no array of the action's shape and dtype, or holds NaN or infinity, or a
    categorical element that is none of its choices: there is no near one to clip it to."""

    def __init__(self, spec: ArraySpec) -> None:
        self._spec, self._chooses = spec, bool(spec.categorical)
        self._shape, self._dtype = spec.shape, np.dtype(spec.dtype)
        self._names = spec.names

    def read(self, action: Array) -> list[float]:
        """The elements of a command, as plain floats.

        Raises:
            Refused: ``shape``, ``dtype``, ``not_finite`` or ``no_choice``.
        """
        if not isinstance(action, np.ndarray) or action.shape != self._shape:
            got = getattr(action, "shape", type(action).__name__)
            raise Refused(SHAPE, f"command has shape {got}, needs {self._shape}")
        if action.dtype != self._dtype:
            raise Refused(DTYPE, f"command is {action.dtype}, needs {self._dtype}")
        values: list[float] = action.tolist()
        if not math.isfinite(sum(values)):  # a sum of finite numbers may overflow: look closer
            self._find(values)
        if self._chooses:
            self._require_choices(values)
        return values

    def _require_choices(self, values: list[float]) -> None:
        wrong = self._spec.wrong_choice(values)
        if wrong is not None:
            name = self._names[wrong] if self._names else f"element {wrong}"
            low, high = int(self._spec.low_array[wrong]), int(self._spec.high_array[wrong])
            raise Refused(NO_CHOICE, f"{name} = {values[wrong]:g}, one of {low} to {high}")

    def _find(self, values: list[float]) -> None:
        bad = [i for i, value in enumerate(values) if not math.isfinite(value)]
        if bad:
            name = self._names[bad[0]] if self._names else f"element {bad[0]}"
            raise Refused(
                NOT_FINITE,
                f"{len(bad)} of {len(values)} elements are not finite, first {name} = "
                f"{values[bad[0]]}",
            )


class BoundsRule:
    """Clips what is a little out of bounds, refuses what is far out.

    Bounds are those of the robot's spec, tightened by the configuration, and rounded towards
    the inside to what the action's dtype can hold: what comes out is within them exactly.
    An integer (discrete) action has no near neighbour and is refused.

    Attributes:
        low: Smallest value of each element, (A,).
        high: Largest value of each element, (A,).
    """

    code = BOUNDS

    def __init__(self, config: BoundsConfig, spec: ArraySpec, layout: MotionLayout) -> None:
        self._names = spec.names or tuple(f"element {i}" for i in range(spec.size))
        low = _tighten(spec, config.low, lowest=True)
        high = _tighten(spec, config.high, lowest=False)
        self.low: list[float] = low.tolist()
        self.high: list[float] = high.tolist()
        got = f"low {self.low}, high {self.high} (the robot's own included)"
        if (low > high).any():
            raise ConfigError("bounds", got=got, expected="low <= high for every element")
        moving = layout.moving
        if not layout.absolute and ((low[moving] > 0).any() or (high[moving] < 0).any()):
            raise ConfigError(
                "bounds", got=got, expected=f"bounds that allow a {layout.kind.value} of 0"
            )
        share = config.refuse_beyond if np.dtype(spec.dtype).kind == "f" else 0.0
        self._slack = [_slack(share, a, b) for a, b in zip(self.low, self.high)]

    def limit(self, values: list[float]) -> bool:
        """Clip a command in place, (A,); tell whether that changed it.

        Raises:
            Refused: ``out_of_bounds``, where it is far out or an integer.
        """
        limited = False
        for i, (value, low, high) in enumerate(zip(values, self.low, self.high)):
            if low <= value <= high:
                continue
            if not low - self._slack[i] <= value <= high + self._slack[i]:
                raise Refused(
                    OUT_OF_BOUNDS,
                    f"{self._names[i]} = {value:g}, allowed {low:g} to {high:g}",
                )
            values[i] = low if value < low else high
            limited = True
        return limited

    def confine(self, values: list[float], rest: list[float]) -> None:
        """Undo rounding of later rules: clip to the bounds, or to ``rest`` where that is outside.

        ``rest`` (A,) is the action that would move nothing. A robot that is outside its bounds
        can only come back in steps, and each of them is between where it is and the bounds.
        """
        for i, (value, low, high) in enumerate(zip(values, self.low, self.high)):
            if value < low:
                values[i] = max(value, min(low, rest[i]))
            elif value > high:
                values[i] = min(value, max(high, rest[i]))


def _slack(share: float, low: float, high: float) -> float:
    slack = share * (high - low) if share else 0.0
    return slack if math.isfinite(slack) else 0.0


def _tighten(spec: ArraySpec, bound: tuple[float, ...], *, lowest: bool) -> Array:
    side = "low" if lowest else "high"
    own = (spec.low_array if lowest else spec.high_array).astype(np.float64)
    if not bound:
        return own
    if len(bound) not in (1, spec.size):
        raise ConfigError(
            f"bounds.{side}", got=f"{len(bound)} values", expected=f"one, or {spec.size}"
        )
    wanted = np.broadcast_to(np.asarray(bound, np.float64), (spec.size,))
    dtype = np.dtype(spec.dtype)
    if dtype.kind == "f":
        held = wanted.astype(dtype)
        outside = held < wanted if lowest else held > wanted
        inward = np.nextafter(held, np.asarray(np.inf if lowest else -np.inf, dtype))
        wanted = np.where(outside, inward, held).astype(np.float64)
    return np.maximum(own, wanted) if lowest else np.minimum(own, wanted)


def clip(values: list[float], limits: Sequence[float]) -> bool:
    """Clip each of the first values in place to plus or minus its limit; tell whether any was."""
    clipped = False
    for i, (value, limit) in enumerate(zip(values, limits)):
        if value > limit:
            values[i] = limit
            clipped = True
        elif value < -limit:
            values[i] = -limit
            clipped = True
    return clipped


def shorten(values: list[float], part: slice, longest: float) -> bool:
    """Scale part of a list in place so that its length is at most ``longest``; tell whether."""
    length = math.hypot(*values[part])
    if length <= longest:
        return False
    scale = longest / length
    values[part] = [value * scale for value in values[part]]
    return True


class StepRule(Rule):
    """Limits the displacement of one command: each element, then the lengths of the vectors."""

    code = STEP

    def __init__(self, config: MotionLimits, layout: MotionLayout) -> None:
        self._each = config.elements(layout, "step")
        self._vectors = config.vectors(layout, "step")

    def limit(self, motion: Motion) -> bool:
        limited = clip(motion.displacement, self._each)
        for part, longest in self._vectors:
            limited |= shorten(motion.displacement, part, longest)
        return limited


#: A command may use what a late one before it left over, up to this many periods.
_BURST_PERIODS = 1.5


class VelocityRule(Rule):
    """Limits displacement over time: each element, then the lengths of the vectors.

    Displacement is earned with time and spent by commands (a token bucket), so that commands
    that come too often move no faster, while one that comes a little late loses nothing. One
    command alone moves no further than the velocity does in a period. A stop fills nothing up:
    stops in between win no speed. An action that is itself a velocity goes on by itself and is
    limited directly.
    """

    code = VELOCITY

    def __init__(self, config: MotionLimits, layout: MotionLayout, period_s: float) -> None:
        self._each = config.elements(layout, "velocity")
        self._vectors = config.vectors(layout, "velocity")
        self._spends = not layout.rate
        self._burst_s = period_s * (_BURST_PERIODS if self._spends else 1.0)
        self._period_s = period_s
        self._full = [limit * self._burst_s for limit in self._each]
        self._earned = list(self._full)
        self._earned_lengths = [limit * self._burst_s for _, limit in self._vectors]

    def limit(self, motion: Motion) -> bool:
        step, earned, elapsed_s = motion.displacement, self._earned, motion.elapsed_s
        period_s, limited = self._period_s, False
        for i, (limit, full) in enumerate(zip(self._each, self._full)):
            most = earned[i] + limit * elapsed_s
            earned[i] = most = full if full < most else most
            if limit * period_s < most:
                most = limit * period_s
            if step[i] > most:
                step[i], limited = most, True
            elif step[i] < -most:
                step[i], limited = -most, True
        lengths = self._earned_lengths
        for i, (part, limit) in enumerate(self._vectors):
            most, full = lengths[i] + limit * elapsed_s, limit * self._burst_s
            lengths[i] = most = full if full < most else most
            if shorten(step, part, limit * period_s if limit * period_s < most else most):
                limited = True
        return limited

    def sent(self, motion: Motion) -> None:
        """Spend what the command moves."""
        if not self._spends:
            return
        step = motion.displacement
        left = [earned - abs(by) for earned, by in zip(self._earned, step)]
        self._earned = [0.0 if one < 0.0 else one for one in left]
        for i, (part, _) in enumerate(self._vectors):
            rest = self._earned_lengths[i] - math.hypot(*step[part])
            self._earned_lengths[i] = 0.0 if rest < 0.0 else rest


class AccelerationRule(Rule):
    """Limits the change of velocity, speeding up and slowing down alike.

    The velocity of a command is its displacement over the control period. Limits on the
    position come after this rule and win over it: a robot brakes hard rather than leave its
    box.
    """

    code = ACCELERATION

    def __init__(self, config: MotionLimits, layout: MotionLayout) -> None:
        self._each = config.elements(layout, "acceleration")
        self._vectors = config.vectors(layout, "acceleration")

    def limit(self, motion: Motion) -> bool:
        step, previous = motion.displacement, motion.previous
        scale = motion.period_s * min(motion.elapsed_s, motion.period_s)
        change, limited = [new - old for new, old in zip(step, previous)], False
        for i, (by, limit) in enumerate(zip(change, self._each)):
            most = limit * scale
            if by > most:
                change[i], limited = most, True
            elif by < -most:
                change[i], limited = -most, True
        for part, longest in self._vectors:
            if shorten(change, part, longest * scale):
                limited = True
        if limited:
            step[:] = [old + by for old, by in zip(previous, change)]
        return limited


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
        far = [(low - tolerance, high + tolerance) for low, high in zip(low, high)]
        self._ranges = [(*near, *beyond) for near, beyond in zip(zip(low, high), far)]
        self._names = names
        self._horizon_s = horizon_s

    def limit(self, motion: Motion) -> bool:
        layout, step, limited = motion.layout, motion.displacement, False
        absolute = layout.absolute
        share = motion.period_s / self._horizon_s if layout.rate else 1.0
        places = zip(self._ranges, motion.position, motion.target)
        for i, ((low, high, lowest, highest), here, target) in enumerate(places):
            if here > highest or here < lowest:
                self._refuse_outward(motion, i)
            if absolute:
                up, down = high - target, low - target
            else:
                up = (high - (target if target > here else here)) * share
                down = (low - (target if target < here else here)) * share
            if step[i] > up:
                most = max(up, 0.0)
                if step[i] > most:
                    step[i], limited = most, True
            if step[i] < down:
                most = min(down, 0.0)
                if step[i] < most:
                    step[i], limited = most, True
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


class JointLimitsRule(PositionRule):
    """Keeps the joints in their ranges, for actions that move joints.

    Joints that turn without an end have none, unless the configuration gives them one.
    """

    code = JOINT_LIMITS

    def __init__(
        self,
        config: JointLimitsConfig,
        layout: MotionLayout,
        spec: RobotSpec,
        horizon_s: float,
        turning: Sequence[bool] = (),
    ) -> None:
        rows = layout.joint_rows
        low, high = joint_range(config, spec.observation["joint_position"], rows)
        free = np.array(turning, bool) if turning else np.zeros(len(rows), bool)
        if not config.low:
            low[free] = -UNLIMITED
        if not config.high:
            high[free] = UNLIMITED
        names = layout.names[: len(rows)]
        super().__init__(low.tolist(), high.tolist(), names, horizon_s, config.tolerance)


def joint_range(config: JointLimitsConfig, measured: ArraySpec, rows: Array) -> tuple[Array, Array]:
    """Ends of the ranges of some joints, margins taken off.

    Raises:
        ConfigError: The configuration does not fit the joints, or leaves a joint no range.
    """
    margin = config.margin or 0.0
    low = _range(config.low, measured.low_array, rows, "low") + margin
    high = _range(config.high, measured.high_array, rows, "high") - margin
    if not (low < high).all():
        raise ConfigError(
            "joint_limits",
            got=f"low {low.tolist()}, high {high.tolist()} with margin {margin}",
            expected="low < high for every joint",
        )
    return low, high


def _range(given: tuple[float, ...], own: Array, rows: Array, side: str) -> Array:
    if not given:
        return own.astype(np.float64)[rows]
    if len(given) != len(rows):
        raise ConfigError(
            f"joint_limits.{side}",
            got=f"{len(given)} values",
            expected=f"{len(rows)}: one a joint",
        )
    return np.asarray(given, np.float64)


class WorkspaceRule(PositionRule):
    """Keeps the tool (``tcp_pose``) inside the box, for actions that move the tool."""

    code = WORKSPACE

    def __init__(self, config: WorkspaceConfig, layout: MotionLayout, horizon_s: float) -> None:
        count = layout.linear.stop
        names = ("tool x", "tool y", "tool z")
        super().__init__(
            config.low[:count], config.high[:count], names[:count], horizon_s, config.tolerance
        )
