"""When a person drives: dead-man switch, entry threshold with hysteresis, hold time."""

from __future__ import annotations

from dataclasses import dataclass

from user_core.config import Config, setting
from user_core.errors import ConfigError


@dataclass(frozen=True)
class EngagementConfig(Config):
    """When a person counts as driving."""

    deadman: bool = setting(
        True, doc="The dead-man switch must be held; only for devices that have one."
    )
    enter: float = setting(
        0.15,
        doc="Deflection at which a person without a held dead-man switch takes over, as a share "
        "of the full one. With a held switch, no deflection is needed.",
        ge=0,
        le=1,
    )
    leave: float = setting(0.05, doc="Deflection below which he lets go, after hold_s.", ge=0, le=1)
    hold_s: float = setting(
        0.5,
        doc="How long he still counts as driving after the deflection fell below leave.",
        unit="s",
        ge=0,
    )

    def validate(self) -> None:
        if self.leave > self.enter:
            raise ConfigError("leave", got=self.leave, expected=f"at most enter, {self.enter}")


class Engagement:
    """Turns switch and deflection into "drives" and "does not drive".

    With a dead-man switch the person drives while it is held, and not a moment longer.
    Without one, a deflection beyond ``enter`` takes over; it ends when the deflection has
    stayed below ``leave`` for ``hold_s``, so that a hand at rest for a moment does not hand
    the robot back.
    """

    def __init__(self, config: EngagementConfig) -> None:
        self._config = config
        self._engaged = False
        self._last_s = 0.0

    def update(self, held: bool | None, deflection: float, now_s: float) -> bool:
        """Whether the person drives now.

        Args:
            held: Whether the dead-man switch is held; None where the device has none.
            deflection: Largest deflection of any axis, 0 to 1.
            now_s: Time of a monotonic clock, seconds.
        """
        if self._config.deadman and held is not None:
            self._engaged = held
            return held
        if deflection >= self._config.enter or (self._engaged and deflection > self._config.leave):
            self._engaged, self._last_s = True, now_s
        elif self._engaged and now_s - self._last_s >= self._config.hold_s:
            self._engaged = False
        return self._engaged

    def release(self) -> None:
        """The device has gone: nobody drives."""
        self._engaged = False
