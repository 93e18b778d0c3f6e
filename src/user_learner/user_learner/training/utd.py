"""The ratio of gradient updates to environment steps (UTD), kept within limits."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from user_learner.training.config import UtdConfig


class UtdLimiter:
    """Says whether the learner may go on, so that neither side runs away.

    Every environment step after the first ``learning_starts`` earns ``target`` updates. The
    learner may spend those of ``ahead_steps`` steps in advance, so that data which arrives in
    chunks does not make it stutter; then it waits for the robots. Robots never wait for the
    learner. Where it is too slow, it catches up the updates of the last ``behind_steps`` steps
    at most; older ones are forgiven, so that it does not go on training for hours, on what it
    has, once the robots have stopped. (Cassirer et al., "Reverb", 2021, limits both sides of a
    table likewise; here only one side can be stopped.)

    Pure arithmetic: it neither waits nor counts by itself.

    Args:
        config: The limits.
    """

    def __init__(self, config: UtdConfig) -> None:
        self.config = config
        self._steps = 0
        self._moved = 0  # what a smaller count from another store lacks
        self._forgiven = 0.0

    @property
    def target(self) -> float:
        """Updates per environment step aimed at; infinite without a limit."""
        return math.inf if self.config.target is None else self.config.target

    def observe(self, environment_steps: int, updates: int) -> None:
        """Take notice of the counts; a count of steps that falls is taken as another store."""
        if environment_steps + self._moved < self._steps:
            self._moved = self._steps - environment_steps
        self._steps = environment_steps + self._moved
        if self.config.target is not None:
            owed = self._earned() - updates - self.config.target * self.config.behind_steps
            self._forgiven += max(0.0, owed)

    def permits(self, updates: int, more: int) -> bool:
        """Whether ``more`` updates may be made on top of ``updates``, as of the last counts."""
        if self._steps < self.config.learning_starts:
            return updates + more <= self.config.initial_updates
        if self.config.target is None:
            return True
        ahead = self.config.target * self.config.ahead_steps
        # A call of many updates must not be waited for longer than it takes to earn it.
        return updates + more <= self._earned() + max(ahead, more) + 1e-9

    def ratio(self, updates: int) -> float:
        """Updates per environment step over the whole run; 0 before the first step."""
        return updates / self._steps if self._steps else 0.0

    def behind(self, updates: int) -> float:
        """Environment steps whose updates are due and not made; negative: robots are waited for."""
        if self._steps < self.config.learning_starts:
            return float(self._steps - self.config.learning_starts)
        if self.config.target is None:
            return 0.0
        return (self._earned() - updates) / self.config.target

    @property
    def forgiven(self) -> float:
        """Updates that were due and will not be made, because the learner is too slow."""
        return self._forgiven

    def state(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {"steps": self._steps, "moved": self._moved, "forgiven": self._forgiven}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Take over what :meth:`state` gave."""
        self._steps, self._moved = int(state["steps"]), int(state["moved"])
        self._forgiven = float(state["forgiven"])

    def _earned(self) -> float:
        assert self.config.target is not None
        steps = max(0, self._steps - self.config.learning_starts)
        return self.config.initial_updates + self.config.target * steps - self._forgiven
