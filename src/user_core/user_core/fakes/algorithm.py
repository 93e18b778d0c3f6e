"""Reward-weighted regression: the shortest honest learning algorithm."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from user_core.config import Config, setting
from user_core.fakes.policy import LinearGaussianPolicy
from user_core.interfaces import Algorithm
from user_core.specs import Array, RobotSpec
from user_core.types import Batch


class RewardWeightedRegressionConfig(Config):
    """Parameters of :class:`RewardWeightedRegression`."""

    temperature: float = setting(0.2, doc="Sharpness of the weights; small: greedy.", gt=0)
    step: float = setting(0.2, doc="Share of the new fit that is taken over.", gt=0, le=1)
    min_std: float = setting(0.5, doc="Exploration that always remains.", ge=0)


class RewardWeightedRegression(Algorithm):
    """Fits a linear policy to the actions in the data, each weighted by what it gained.

    The gain of a step is its reward above what the state alone lets one expect (a linear
    baseline), so that good actions count, not good states. After Peters and Schaal,
    "Reinforcement learning by reward-weighted regression for operational space control",
    ICML 2007, for a horizon of one step.
    """

    Config = RewardWeightedRegressionConfig

    def __init__(
        self, config: RewardWeightedRegressionConfig, spec: RobotSpec, policy: LinearGaussianPolicy
    ) -> None:
        self.config, self.policy = config, policy
        self._updates = 0

    def update(self, batch: Batch) -> Mapping[str, float]:
        x = self.policy.features(batch.observation)
        reward = np.asarray(batch.reward, np.float64)
        # Quadratic in the state: the distance to a goal is no linear function of position.
        state = np.concatenate([x, (x[:, :, None] * x[:, None, :]).reshape(len(x), -1)], axis=1)
        gain = reward - _ridge(state, reward[:, None], np.ones(len(x)))[:, 0] @ state.T
        weight = np.exp(np.clip(gain / (gain.std() + 1e-8) / self.config.temperature, -20, 5))
        fit = _ridge(x, np.asarray(batch.action, np.float64), weight).T
        now = self.policy.arrays()
        error = np.asarray(batch.action) - x @ fit.T
        std = np.sqrt((weight[:, None] * error**2).sum(0) / weight.sum())
        step = self.config.step
        self.policy.load(
            {
                "gain": (1 - step) * now["gain"] + step * fit,
                "std": np.maximum((1 - step) * now["std"] + step * std, self.config.min_std),
            }
        )
        self._updates += 1
        return {"reward": float(reward.mean()), "std": float(std.mean())}

    def policy_arrays(self) -> dict[str, Array]:
        return self.policy.arrays()

    def state(self) -> dict[str, Any]:
        return {"policy": self.policy.arrays(), "updates": self._updates}

    def load_state(self, state: Mapping[str, Any]) -> None:
        self.policy.load(state["policy"])
        self._updates = int(state["updates"])


def _ridge(x: Array, y: Array, weight: Array) -> Array:
    """Weighted least squares with a little regularisation: (N, O), (N, A), (N,) to (O, A)."""
    weighted = x * weight[:, None]
    solution: Array = np.linalg.solve(x.T @ weighted + 1e-3 * np.eye(x.shape[1]), weighted.T @ y)
    return solution
