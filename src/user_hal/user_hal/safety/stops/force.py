"""A limit on the force and torque at the tool."""

from __future__ import annotations

import math
from dataclasses import dataclass

from user_core.config import Config, setting
from user_core.errors import ConfigError
from user_core.specs import Arrays, RobotSpec
from user_hal.safety.stops.condition import Stop

#: Without a value of its own, the robot may go on below this share of what stopped it.
_RESUME_SHARE = 0.6


@dataclass(frozen=True)
class ForceConfig(Config):
    """Above ``stop`` the robot stops; below ``resume`` it may go on. Not given: not limited."""

    stop_n: float | None = setting(None, doc="Force at which it stops.", unit="N", gt=0)
    resume_n: float | None = setting(
        None, doc="Force below which it may go on; by default 60 % of stop_n.", unit="N", gt=0
    )
    stop_n_m: float | None = setting(None, doc="Torque at which it stops.", unit="N m", gt=0)
    resume_n_m: float | None = setting(
        None, doc="Torque below which it may go on; by default 60 %.", unit="N m", gt=0
    )

    def validate(self) -> None:
        for stop, resume in ((self.stop_n, self.resume_n), (self.stop_n_m, self.resume_n_m)):
            if resume is not None and (stop is None or resume > stop):
                raise ConfigError(
                    "force", got=f"resume at {resume}", expected=f"at most stop, {stop}"
                )

    @property
    def given(self) -> bool:
        """Whether force or torque is limited."""
        return self.stop_n is not None or self.stop_n_m is not None


class ForceStop:
    """Watches ``wrench``, with hysteresis, so that a force at the limit gives one stop, not many."""

    code = "force"

    def __init__(self, config: ForceConfig) -> None:
        none = math.inf
        self._stop_at = (config.stop_n or none, config.stop_n_m or none)
        self._resume_at = (
            config.resume_n or self._stop_at[0] * _RESUME_SHARE,
            config.resume_n_m or self._stop_at[1] * _RESUME_SHARE,
        )
        self._stop: Stop | None = None

    @classmethod
    def for_robot(cls, config: ForceConfig, spec: RobotSpec) -> ForceStop:
        """Watch a robot. Raises ConfigError when it shows no ``wrench``."""
        wrench = spec.observation.get("wrench")
        if wrench is None or wrench.shape != (6,):
            raise ConfigError(
                "force",
                got=f"an observation of {list(spec.observation)}",
                expected="a robot that shows 'wrench', 6 values",
                hint="Remove force from the safety configuration, or use a driver that reads it.",
            )
        return cls(config)

    def observe(self, arrays: Arrays) -> None:
        """Look at a new reading."""
        fx, fy, fz, tx, ty, tz = arrays["wrench"].tolist()
        felt = math.hypot(fx, fy, fz), math.hypot(tx, ty, tz)
        at = self._stop_at if self._stop is None else self._resume_at
        over = any(value >= limit for value, limit in zip(felt, at))
        self._stop = Stop(self.code, self._describe(*felt)) if over else None

    def check(self, now_ns: int) -> Stop | None:
        """Why the robot must stand still, or None."""
        return self._stop

    def _describe(self, force_n: float, torque_n_m: float) -> str:
        stop, resume = self._stop_at, self._resume_at
        return (
            f"tool feels {force_n:.1f} N and {torque_n_m:.2f} N m; stops at {stop[0]:g} N or "
            f"{stop[1]:g} N m, goes on below {resume[0]:g} N and {resume[1]:g} N m"
        )
