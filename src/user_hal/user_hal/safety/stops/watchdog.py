"""The watchdog on the age of the last command."""

from __future__ import annotations

from user_hal.safety.stops.condition import Stop


class CommandWatchdog:
    """Stops a robot whose commands stay away, for instance because whoever sent them died.

    It watches from the first command until the robot is stopped, whatever for.
    """

    code = "watchdog"

    def __init__(self, limit_s: float) -> None:
        self._limit_ns = int(limit_s * 1e9)
        self._last_ns: int | None = None

    @property
    def due_ns(self) -> int | None:
        """When it will stop the robot unless a command comes; None while it does not watch."""
        return None if self._last_ns is None else self._last_ns + self._limit_ns

    def sent(self, now_ns: int) -> None:
        """A command was sent to the driver."""
        self._last_ns = now_ns

    def disarm(self) -> None:
        """The robot was stopped: no command is expected any more."""
        self._last_ns = None

    def check(self, now_ns: int) -> Stop | None:
        """Whether the last command is too old."""
        if self._last_ns is None or now_ns < self._last_ns + self._limit_ns:
            return None
        age_s, limit_s = (now_ns - self._last_ns) * 1e-9, self._limit_ns * 1e-9
        return Stop(self.code, f"last command is {age_s:.3f} s old, allowed {limit_s:g} s")
