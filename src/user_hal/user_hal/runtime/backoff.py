"""Waiting times between attempts: short at first, then longer."""

from __future__ import annotations

from user_core.config import Config, setting
from user_core.errors import ConfigError


class BackoffConfig(Config):
    """Waiting times between attempts to get a device back."""

    first_s: float = setting(0.05, doc="Before the first attempt.", unit="s", gt=0)
    factor: float = setting(2.0, doc="Growth from one to the next.", ge=1)
    longest_s: float = setting(2.0, doc="Longest.", unit="s", gt=0)

    def validate(self) -> None:
        if self.longest_s < self.first_s:
            raise ConfigError(
                "longest_s", got=f"{self.longest_s} s", expected=f">= first_s, {self.first_s} s"
            )


class Backoff:
    """Says when the next attempt is due.

    A success that does not last (a robot that can be read, but fails at every command) does
    not start from the shortest wait again.
    """

    def __init__(self, config: BackoffConfig) -> None:
        self._config = config
        self._succeeded_ns: int | None = None
        self.attempts = 0
        self.due_ns = 0

    def failed(self, now_ns: int) -> None:
        """An attempt failed, or the trouble began: wait before the next."""
        config = self._config
        if self._succeeded_ns is not None:
            if now_ns - self._succeeded_ns > config.longest_s * 1e9:
                self.attempts = 0
            self._succeeded_ns = None
        wait_s = min(config.first_s * config.factor**self.attempts, config.longest_s)
        self.attempts += 1
        self.due_ns = now_ns + int(wait_s * 1e9)

    def succeeded(self, now_ns: int) -> None:
        """An attempt succeeded."""
        self._succeeded_ns = now_ns
        self.due_ns = 0
