"""The range of each joint."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from user_core.config import Config, setting
from user_core.errors import ConfigError
from user_core.specs import Array, ArraySpec, RobotSpec
from user_hal.safety.layout import MotionLayout
from user_hal.safety.rules.position import PositionRule


@dataclass(frozen=True)
class JointLimitsConfig(Config):
    """Ranges of the joints; without ``low`` and ``high`` those of the spec of ``joint_position``.

    There are no limits while nothing at all is given.
    """

    low: tuple[float, ...] = setting((), doc="Smallest position of each joint.", unit="rad")
    high: tuple[float, ...] = setting((), doc="Largest position of each joint.", unit="rad")
    margin: float | None = setting(
        None, doc="Distance that is kept from both ends.", unit="rad", ge=0
    )

    tolerance: float = setting(
        0.05,
        doc="How far a joint may overshoot its limit before commands that lead further out are "
        "refused altogether.",
        unit="rad",
        ge=0,
    )

    @property
    def given(self) -> bool:
        """Whether the joints are limited."""
        return bool(self.low or self.high) or self.margin is not None


class JointLimitsRule(PositionRule):
    """Keeps the joints in their ranges, for actions that move joints."""

    code = "joint_limits"

    def __init__(
        self, config: JointLimitsConfig, layout: MotionLayout, spec: RobotSpec, horizon_s: float
    ) -> None:
        rows = layout.joint_rows
        low, high = joint_range(config, spec.observation["joint_position"], rows)
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
