"""The box that the tool stays in."""

from __future__ import annotations

from dataclasses import dataclass

from user_core.config import Config, setting
from user_core.errors import ConfigError
from user_hal.safety.layout import MotionLayout
from user_hal.safety.rules.position import PositionRule


@dataclass(frozen=True)
class WorkspaceConfig(Config):
    """An axis-aligned box in the base frame; without numbers there is none."""

    low: tuple[float, ...] = setting(
        (), doc="Smallest x, y and z of the tool; empty: no box.", unit="m", max_length=3
    )
    high: tuple[float, ...] = setting(
        (), doc="Largest x, y and z of the tool; empty: no box.", unit="m", max_length=3
    )

    tolerance: float = setting(
        0.02,
        doc="How far the tool may overshoot a wall before commands that lead further out are "
        "refused altogether.",
        unit="m",
        ge=0,
    )

    def validate(self) -> None:
        both = len(self.low), len(self.high)
        if both not in ((0, 0), (3, 3)) or not all(a < b for a, b in zip(self.low, self.high)):
            raise ConfigError(
                "workspace",
                got=f"low {self.low}, high {self.high}",
                expected="three numbers each, low < high; or none",
            )

    @property
    def given(self) -> bool:
        """Whether there is a box."""
        return bool(self.low)


class WorkspaceRule(PositionRule):
    """Keeps the tool (``tcp_pose``) inside the box, for actions that move the tool."""

    code = "workspace"

    def __init__(self, config: WorkspaceConfig, layout: MotionLayout, horizon_s: float) -> None:
        count = layout.linear.stop
        names = ("tool x", "tool y", "tool z")
        super().__init__(
            config.low[:count], config.high[:count], names[:count], horizon_s, config.tolerance
        )
