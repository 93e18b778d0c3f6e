"""Rewards and discounts of transitions and windows, from the rows that follow a step.

A step of an episode is followed by ``after`` rows, the final observation included. So with
n-step returns k = min(n, after) rewards are summed, and the next observation is row k. Nothing
follows a step that terminated or truncated but its final observation; there is no need to
look for the end of the episode.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from user_core.specs import Array


def n_step(reward: Array, terminated: Array, steps: Array, gamma: float) -> tuple[Array, Array]:
    """Discounted sums of rewards, and what is left for the value of the next observation.

    Args:
        reward: Rewards from the drawn step on, (B, >= max(steps)) float32.
        terminated: Whether these steps terminated, same shape.
        steps: Steps to take, k, (B,), at least 1.
        gamma: Discount per step.

    Returns:
        Sum of gamma^j r_j for j < k, (B,) float32; and gamma^k, (B,) float32, which is 0 where
        the last of these steps terminated (not where it was truncated).
    """
    rows = np.arange(len(steps))
    if reward.shape[1] == 1 or (steps == 1).all():
        return reward[:, 0], np.where(terminated[:, 0], 0.0, gamma).astype(np.float32)
    powers = _powers(gamma, reward.shape[1] + 1)
    taken = np.arange(reward.shape[1]) < steps[:, None]
    total = np.where(taken, reward * powers[:-1], 0.0).sum(axis=1, dtype=np.float64)
    discount = np.where(terminated[rows, steps - 1], 0.0, powers[steps])
    return total.astype(np.float32), discount.astype(np.float32)


def windows(reward: Array, terminated: Array, steps: Array, gamma: float) -> tuple[Array, Array]:
    """Rewards and discounts of each step of windows of T steps, of which ``steps`` are there.

    Returns:
        Rewards (B, T) float32, 0 where there is no step; and discounts (B, T) float32: gamma,
        0 for a step that terminated, and 1 where there is no step. So the product along a
        window is what is left for the value of the observation behind it.
    """
    there = np.arange(reward.shape[1]) < steps[:, None]
    discount = np.where(terminated, 0.0, gamma)
    return (
        np.where(there, reward, 0.0).astype(np.float32),
        np.where(there, discount, 1.0).astype(np.float32),
    )


@lru_cache(maxsize=16)
def _powers(gamma: float, count: int) -> Array:
    return gamma ** np.arange(count, dtype=np.float64)
