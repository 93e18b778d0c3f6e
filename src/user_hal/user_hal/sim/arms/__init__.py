"""The simulated arms, found by name."""

from __future__ import annotations

from user_core.errors import ConfigError
from user_hal.sim.arms.panda import PANDA
from user_hal.sim.arms.ur5e import UR5E
from user_hal.sim.description import Arm

ARMS: dict[str, Arm] = {arm.name: arm for arm in (PANDA, UR5E)}


def arm_named(name: str) -> Arm:
    """Return the arm of this name; ConfigError lists those there are."""
    if name not in ARMS:
        raise ConfigError("name of a simulated arm", got=name, expected=f"one of {sorted(ARMS)}")
    return ARMS[name]


__all__ = ["ARMS", "PANDA", "UR5E", "arm_named"]
