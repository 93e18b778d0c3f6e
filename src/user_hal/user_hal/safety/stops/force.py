"""A limit on the force and torque at the tool."""

from __future__ import annotations

import math
from dataclasses import dataclass

from user_core.config import Config, setting
from user_core.errors import ConfigError
from user_core.specs import Arrays, RobotSpec
from user_hal.safety.stops.condition import Stop


@dataclass(frozen=True)
class ForceConfig(Config):
    """Above ``stop`` the robot stops; below ``resume`` it may go on."""

    stop_force_n: float = setting(40.0, doc="Force at which the robot stops.", unit="N", gt=0)
    resume_force_n: float = setting(25.0, doc="Force below which it may go on.", unit="N", gt=0)
    stop_torque_n_m: float = setting(10.0, doc="Torque at which it stops.", unit="N m", gt=0)
    resume_torque_n_m: float = setting(6.0, doc="Torque below which it may go on.", unit="N m", gt=0)

    def validate(self) -> None:
        if self.resume_force_n > self.stop_force_n or self.resume_torque_n_m > self.stop_torque_n_m:
            raise ConfigError(
                "force",
                came=f"resume {self.resume_force_n} N, {self.resume_torque_n_m} N m",
                expected=f"at most the stop values {self.stop_force_n}, {self.stop_torque_n_m}",
            )


class ForceStop:
    """Watches ``wrench``, with hysteresis, so that a force at the limit gives one stop, not many."""

    code = "force"

    def __init__(self, config: ForceConfig) -> None:
        self._config = config
        self._stop: Stop | None = None

    @classmethod
    def for_robot(cls, config: ForceConfig, spec: RobotSpec) -> ForceStop:
        """Watch a robot. Raises ConfigError when it shows no ``wrench``."""
        wrench = spec.observation.get("wrench")
        if wrench is None or wrench.shape != (6,):
            raise ConfigError(
                "force",
                came=f"an observation of {list(spec.observation)}",
                expected="a robot that shows 'wrench', 6 values",
                cure="Remove force from the safety configuration, or use a driver that reads it.",
            )
        return cls(config)

    def observe(self, arrays: Arrays) -> None:
        """Look at a new reading."""
        fx, fy, fz, tx, ty, tz = arrays["wrench"].tolist()
        force_n, torque_n_m = math.hypot(fx, fy, fz), math.hypot(tx, ty, tz)
        limit = self._config
        if force_n >= limit.stop_force_n or torque_n_m >= limit.stop_torque_n_m:
            over = True
        else:
            over = self._stop is not None and (
                force_n > limit.resume_force_n or torque_n_m > limit.resume_torque_n_m
            )
        self._stop = self._describe(force_n, torque_n_m) if over else None

    def check(self, now_ns: int) -> Stop | None:
        """Why the robot must stand still, or None."""
        return self._stop

    def _describe(self, force_n: float, torque_n_m: float) -> Stop:
        limit = self._config
        return Stop(
            self.code,
            f"tool feels {force_n:.1f} N and {torque_n_m:.2f} N m; stops at "
            f"{limit.stop_force_n:g} N or {limit.stop_torque_n_m:g} N m, goes on below "
            f"{limit.resume_force_n:g} N and {limit.resume_torque_n_m:g} N m",
        )
