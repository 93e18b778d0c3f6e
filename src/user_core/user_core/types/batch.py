"""Batches: what a sampler gives to an algorithm."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Batch:
    """B transitions, gathered. Arrays are numpy or torch, all with leading dimension B.

    With n-step returns, ``reward`` is the discounted sum of up to n rewards and ``discount``
    is what is left for the value of ``next_observation``: 0 after a *terminated* step, and
    gamma to the power of the steps taken otherwise, also across a truncation. An algorithm
    therefore never looks at the two flags, and cannot confuse them.

    Attributes:
        observation: Named arrays, each (B, ...).
        action: (B, A), or (B, T, A) for windows.
        reward: (B,), or (B, T) for windows.
        discount: (B,), or (B, T) for windows.
        next_observation: Named arrays, each (B, ...).
        extras: Whatever else was asked for, for instance ``demonstration`` (B,) bool, and
            ``row`` (B,) int64, the place in the store.
    """

    observation: Mapping[str, Any]
    action: Any
    reward: Any
    discount: Any
    next_observation: Mapping[str, Any]
    extras: Mapping[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.reward)
