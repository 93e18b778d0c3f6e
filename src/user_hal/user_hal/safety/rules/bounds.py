"""Bounds of each element of an action."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from user_core.config import Config, setting
from user_core.errors import ConfigError
from user_core.specs import Array, ArraySpec
from user_hal.safety.layout import MotionLayout
from user_hal.safety.rule import Refused


@dataclass(frozen=True)
class BoundsConfig(Config):
    """Bounds of an action, in the units of the robot's action spec; they only ever tighten."""

    low: tuple[float, ...] = setting((), doc="Smallest values: one number, or one per element.")
    high: tuple[float, ...] = setting((), doc="Largest values: one number, or one per element.")
    refuse_beyond: float = setting(
        0.1,
        doc="A command that exceeds a bound by more than this share of the range is refused (it "
        "is a mistake, for instance of units); one that exceeds it by less is clipped.",
        ge=0,
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

    code = "bounds"
    OUT_OF_BOUNDS = "out_of_bounds"

    def __init__(self, config: BoundsConfig, spec: ArraySpec, layout: MotionLayout) -> None:
        self._names = spec.names or tuple(f"element {i}" for i in range(spec.size))
        low = _tighten(spec, config.low, lowest=True)
        high = _tighten(spec, config.high, lowest=False)
        self.low: list[float] = low.tolist()
        self.high: list[float] = high.tolist()
        came = f"low {self.low}, high {self.high} (the robot's own included)"
        if (low > high).any():
            raise ConfigError("bounds", got=came, expected="low <= high for every element")
        moving = layout.moving
        if not layout.absolute and ((low[moving] > 0).any() or (high[moving] < 0).any()):
            raise ConfigError(
                "bounds", got=came, expected=f"bounds that allow a {layout.kind.value} of 0"
            )
        share = config.refuse_beyond if np.dtype(spec.dtype).kind == "f" else 0.0
        self._slack = [_slack(share, a, b) for a, b in zip(self.low, self.high)]

    def limit(self, values: list[float]) -> bool:
        """Clip a command in place, (A,); tell whether that changed it.

        Raises:
            Refused: ``out_of_bounds``, where it is far out or an integer.
        """
        limited = False
        for i, value in enumerate(values):
            low, high = self.low[i], self.high[i]
            if low <= value <= high:
                continue
            if not low - self._slack[i] <= value <= high + self._slack[i]:
                raise Refused(
                    self.OUT_OF_BOUNDS,
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
        for i, value in enumerate(values):
            if value < self.low[i]:
                values[i] = max(value, min(self.low[i], rest[i]))
            elif value > self.high[i]:
                values[i] = min(value, max(self.high[i], rest[i]))


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
