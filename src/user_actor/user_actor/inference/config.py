"""How observations of several robots are answered together."""

from __future__ import annotations

from user_core.config import Config, setting
from user_core.errors import ConfigError


class BatchingConfig(Config):
    """Batches of observations of several robots, and how many robots there is room for."""

    most: int = setting(
        16, doc="Observations that are answered by one pass; 1: one after the other.", ge=1, le=1024
    )
    wait_s: float = setting(
        0.003,
        doc="Time that an observation waits for those of other robots, at most.",
        unit="s",
        ge=0,
        le=1,
    )
    budget_s: float = setting(
        0.1,
        doc="Time from the arrival of an observation to its answer that every robot is promised, even where it comes "
        "when a batch has just begun. A robot with which this could not be kept is refused.",
        unit="s",
        gt=0,
    )
    forget_s: float = setting(
        10.0, doc="A robot that is silent for this long gives its place to another.", unit="s", gt=0
    )

    def validate(self) -> None:
        if self.wait_s >= self.budget_s:
            raise ConfigError(
                "wait_s", got=f"{self.wait_s} s", expected=f"less than budget_s, {self.budget_s} s",
                hint="An observation that waits for others is answered within the budget all the same",
            )  # fmt: skip

    def for_robots(self, count: int) -> BatchingConfig:
        """For no more than so many robots: of each one observation is in a batch, so that larger ones never come, and
        need not be measured or prepared."""
        return self.replace(most=min(self.most, count))
