"""Random actions, for before the policy knows anything."""

from __future__ import annotations

import math

import numpy as np

from user_actor.loop.config import ExplorationConfig
from user_core.specs import Array, ArraySpec


class RandomActions:
    """Uniform within the bounds, each by itself or each like the one before.

    Smooth actions are an autoregressive process of order one with standard normal marginals,
    mapped through its distribution function: so every action taken by itself is uniform, and
    successive ones are correlated.

    Args:
        config: Kind, correlation, seed.
        spec: The robot's action; without bounds, or of integers, ``spec.sample`` decides.
        steps: Steps made before, in earlier processes: who goes on does not begin anew.
    """

    def __init__(self, config: ExplorationConfig, spec: ArraySpec, steps: int = 0) -> None:
        self._config, self._spec = config, spec
        self._rng = np.random.default_rng(None if config.seed < 0 else [config.seed, steps])
        bounded = spec.low is not None and spec.high is not None
        self._smooth = config.kind == "smooth" and bounded and spec.dtype.startswith("float")
        self._state = self._rng.standard_normal(spec.shape)

    def reset(self) -> None:
        """A new episode begins: start anew."""
        self._state = self._rng.standard_normal(self._spec.shape)

    def sample(self) -> Array:
        """One action, (A,)."""
        if not self._smooth:
            return self._spec.sample(self._rng)
        rho = self._config.correlation
        noise = self._rng.standard_normal(self._spec.shape)
        self._state = rho * self._state + math.sqrt(1 - rho * rho) * noise
        share = np.array([(1 + math.erf(z / math.sqrt(2))) / 2 for z in self._state])
        low, high = self._spec.low_array, self._spec.high_array
        action = low + share * (high - low)
        smooth: Array = np.clip(action, low, high).astype(self._spec.dtype)
        return smooth
