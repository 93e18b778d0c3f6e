"""Waiting times between attempts: short at first, then longer."""

from __future__ import annotations

from user_core.config import Config, setting
from user_core.errors import ConfigError


class BackoffConfig(Config):
    """Waiting times between attempts."""

    first_s: float = setting(0.05, doc="Wait before the first attempt.", unit="s", gt=0)
    factor: float = setting(2.0, doc="Growth from one wait to the next.", ge=1)
    longest_s: float = setting(2.0, doc="Longest wait.", unit="s", gt=0)

    def validate(self) -> None:
        if self.longest_s < self.first_s:
            raise ConfigError(
                "longest_s", got=f"{self.longest_s} s", expected=f">= first_s, {self.first_s} s"
            )


class Backoff:
    """Says how long to wait before the next attempt.

    What works for a moment only and fails again (a robot that can be read, but fails at every
    command; a process that dies as soon as it is up) does not start from the shortest wait anew.

    Args:
        first_s: Wait before the first attempt, seconds.
        factor: Growth from one to the next.
        longest_s: Longest wait, seconds.
        healthy_after_s: What has worked for this long counts as healthy: its next failure is a
            first one. None: ``longest_s``.

    Attributes:
        attempts: Failures in a row.
    """

    def __init__(
        self,
        first_s: float,
        factor: float = 2.0,
        longest_s: float = 2.0,
        healthy_after_s: float | None = None,
    ) -> None:
        self._first_s, self._factor, self._longest_s = first_s, factor, longest_s
        self._healthy_after_s = longest_s if healthy_after_s is None else healthy_after_s
        self.attempts = 0

    @classmethod
    def of(cls, config: BackoffConfig) -> Backoff:
        """The one that is configured."""
        return cls(config.first_s, config.factor, config.longest_s)

    def failed(self, worked_s: float = 0.0) -> float:
        """A failure of what had worked for this long: the wait before the next attempt, seconds."""
        if worked_s >= self._healthy_after_s:
            self.attempts = 0
        self.attempts += 1
        wait_s = self._first_s * self._factor ** min(self.attempts - 1, 64)
        return min(wait_s, self._longest_s)
