"""The emergency stop: latched until somebody resets it."""

from __future__ import annotations

from user_hal.safety.stops.condition import Stop


class EmergencyStop:
    """Once pressed, forbids all motion until :meth:`reset`, whatever else happens."""

    code = "emergency"

    def __init__(self) -> None:
        self._stop: Stop | None = None

    @property
    def pressed(self) -> bool:
        """Whether it is latched."""
        return self._stop is not None

    def press(self, who: str) -> None:
        """Latch it."""
        self._stop = Stop(self.code, f"emergency stop pressed by {who}; reset it to go on")

    def reset(self) -> None:
        """Release it. The robot stays where it is until new commands come."""
        self._stop = None

    def check(self, now_ns: int) -> Stop | None:
        """Whether it is latched."""
        return self._stop
