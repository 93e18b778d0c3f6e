"""How a robot is run."""

from __future__ import annotations

from dataclasses import dataclass

from user_core.config import Config, setting
from user_hal.runtime.driver_guard import DriverLimits


@dataclass(frozen=True)
class LoopConfig(Config):
    """How a robot is run."""

    rate_hz: float = setting(
        0.0,
        doc="Observations a second; 0: one per control period of the robot. A robot in lockstep "
        "gives one per command instead.",
        unit="Hz",
        ge=0,
    )
    idle_s: float = setting(
        0.5,
        doc="A robot in lockstep that waits for commands shows its last observation again after "
        "this time, for those that missed it.",
        unit="s",
        gt=0,
    )
    blend_rows: int = setting(
        0, doc="Over how many rows a new chunk fades over from the one before.", ge=0
    )
    driver: DriverLimits = setting(factory=DriverLimits, doc="Deadlines of the driver's calls.")
