"""The box that the tool stays in."""

from __future__ import annotations

from dataclasses import dataclass

from user_core.config import Config, setting
from user_core.errors import ConfigError
from user_hal.safety.layout import MotionLayout
from user_hal.safety.rules.position import PositionRule


@dataclass(frozen=True)
class WorkspaceConfig(Config):
    """An axis-aligned box in the base frame."""

    low: tuple[float, float, float] = setting(doc="Smallest x, y and z of the tool.", unit="m")
    high: tuple[float, float, float] = setting(doc="Largest x, y and z of the tool.", unit="m")

    def validate(self) -> None:
        if not all(low < high for low, high in zip(self.low, self.high)):
            raise ConfigError("workspace", came=f"{self.low}, {self.high}", expected="low < high")


class WorkspaceRule(PositionRule):
    """Keeps the tool (``tcp_pose``) inside the box, for actions that move the tool."""

    code = "workspace"

    def __init__(self, config: WorkspaceConfig, layout: MotionLayout, horizon_s: float) -> None:
        count = layout.linear.stop
        names = ("tool x", "tool y", "tool z")
        super().__init__(config.low[:count], config.high[:count], names[:count], horizon_s)
