"""The watchdog on the age of the newest reading."""

from __future__ import annotations

from user_hal.safety.stops.condition import Stop


class ObservationAge:
    """Stops a robot whose readings stay away or are old when they come: nobody sees it move."""

    code = "stale_observation"

    def __init__(self, limit_s: float) -> None:
        self._limit_ns = int(limit_s * 1e9)
        self._taken_ns: int | None = None
        self._suspended = False

    def suspend(self) -> None:
        """No reading is expected until the next comes, for instance during a reset."""
        self._suspended = True

    def observed(self, age_ns: int, now_ns: int) -> None:
        """A reading came that was taken ``age_ns`` ago."""
        self._taken_ns = now_ns - max(age_ns, 0)
        self._suspended = False

    def check(self, now_ns: int) -> Stop | None:
        """Whether the newest reading is too old, or there was none yet."""
        if self._suspended:
            return None
        if self._taken_ns is None:
            return Stop(self.code, "the robot was not read yet")
        age_ns = now_ns - self._taken_ns
        if age_ns <= self._limit_ns:
            return None
        limit_s = self._limit_ns * 1e-9
        return Stop(
            self.code,
            f"newest reading of the robot is {age_ns * 1e-9:.3f} s old, allowed {limit_s:g} s",
        )
