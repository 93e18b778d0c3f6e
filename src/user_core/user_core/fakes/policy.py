"""A linear-Gaussian policy, in numpy."""

from __future__ import annotations

import numpy as np

from user_core.config import Config, setting
from user_core.errors import PolicyError
from user_core.interfaces import Policy
from user_core.specs import Array, Arrays, RobotSpec


class LinearGaussianConfig(Config):
    """Parameters of :class:`LinearGaussianPolicy`."""

    initial_std: float = setting(1.0, doc="Standard deviation at the start.", ge=0)
    seed: int = setting(0, doc="Seed of the exploration noise.", ge=0)


class LinearGaussianPolicy(Policy):
    """Action = gain x (flattened observation, 1) + noise, clipped to the action bounds.

    Arrays: ``gain`` (A, O + 1) and ``std`` (A,), in the order of the sorted observation names;
    integer arrays (images) are left out.
    """

    Config = LinearGaussianConfig

    def __init__(self, config: LinearGaussianConfig, spec: RobotSpec) -> None:
        self.config, self.spec = config, spec
        self.names = sorted(k for k, v in spec.observation.items() if v.dtype.startswith("float"))
        size = sum(spec.observation[name].size for name in self.names) + 1
        self._rng = np.random.default_rng(config.seed)
        self._gain: Array = np.zeros((spec.action.size, size))
        self._std: Array = np.full(spec.action.size, config.initial_std)

    def features(self, observation: Arrays) -> Array:
        """Flatten observations with any leading dimensions (...) to (..., O + 1)."""
        parts = []
        for name in self.names:
            array = np.asarray(observation[name], dtype=np.float64)
            lead = array.shape[: array.ndim - len(self.spec.observation[name].shape)]
            parts.append(array.reshape(*lead, -1))
        return np.concatenate([*parts, np.ones((*parts[0].shape[:-1], 1))], axis=-1)

    def act(self, observation: Arrays, *, deterministic: bool = False) -> Array:
        action = self._gain @ self.features(observation)
        if not deterministic:
            action = action + self._std * self._rng.standard_normal(action.shape)
        bounds = self.spec.action
        return np.clip(action, bounds.low_array, bounds.high_array).astype(bounds.dtype)[None]

    def arrays(self) -> dict[str, Array]:
        return {"gain": self._gain.copy(), "std": self._std.copy()}

    def load(self, arrays: Arrays) -> None:
        mine = self.arrays()
        shapes = {name: array.shape for name, array in arrays.items()}
        wanted = {name: array.shape for name, array in mine.items()}
        if shapes != wanted:
            raise PolicyError("arrays of a linear-Gaussian policy", got=shapes, expected=wanted)
        self._gain, self._std = np.array(arrays["gain"]), np.array(arrays["std"])
