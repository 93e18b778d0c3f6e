"""Values of choices: what critics give for a robot that has categorical elements in its actions.

A critic sees the observation and the continuous elements, and gives one value for each choice, so that an
expectation over choices is exact and needs no samples (Christodoulou, "Soft Actor-Critic for Discrete Action
Settings", 2019; with continuous elements beside them Delalleau et al., "Discrete and Continuous Action
Representation for Practical RL in Video Games", 2019).

Where an action has several categorical elements, the policy chooses each by itself, given what is seen.
The critic does not, as long as there are few: up to :data:`JOINT_CHOICES` combinations it gives a value for
each of these. Beyond, it gives a value for each choice of each element, and the value of an action is their
mean (Seyde et al., "Solving Continuous Control via Q-Learning", 2023): what only a combination brings, such
critics cannot tell.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

#: Most combinations of choices of which each has a value of its own.
JOINT_CHOICES = 64


class ChoiceValues:
    """The layout of critics' outputs, N values in all.

    Args:
        elements: Which elements of an action are categorical.
        counts: How many choices each has.

    Attributes:
        size: N.
    """

    def __init__(self, elements: Sequence[int], counts: Sequence[int]) -> None:
        self._elements, self._counts = list(elements), list(counts)
        every = list(range(len(counts)))
        together = math.prod(counts) <= JOINT_CHOICES
        self._factors = [every] if together else [[k] for k in every]
        self._sizes = [math.prod(counts[k] for k in factor) for factor in self._factors]
        self.size = sum(self._sizes)

    def expected(self, values: Tensor, log_probs: Sequence[Tensor]) -> Tensor:
        """Mean over choices of values (..., B, N), (..., B).

        Args:
            values: Of each choice.
            log_probs: Of each categorical element, (B, n).
        """
        total: Tensor | float = 0.0
        for factor, part in zip(self._factors, values.split(self._sizes, -1), strict=True):
            joint = log_probs[factor[0]]
            for k in factor[1:]:  # the last element counts fastest
                joint = (joint[:, :, None] + log_probs[k][:, None, :]).flatten(1)
            total = total + (joint.exp() * part).sum(-1)
        mean: Tensor = total / len(self._factors)  # type: ignore[assignment]
        return mean

    def taken(self, values: Tensor, action: Tensor) -> Tensor:
        """Of values (E, B, N) those of the choices in actions (B, A), (E, B)."""
        chosen = action[:, self._elements].round().long()  # (B, K)
        total: Tensor | float = 0.0
        for factor, part in zip(self._factors, values.split(self._sizes, -1), strict=True):
            index = chosen[:, factor[0]]
            for k in factor[1:]:
                index = index * self._counts[k] + chosen[:, k]
            total = total + part.gather(-1, index.expand(len(part), -1)[..., None])[..., 0]
        mean: Tensor = total / len(self._factors)  # type: ignore[assignment]
        return mean

    def log_sum_exp(self, values: Tensor) -> Tensor:
        """Over all combinations of choices the logarithm of the sum of exp of their values (..., B, N), (..., B)."""
        total: Tensor | float = 0.0
        for part in values.split(self._sizes, -1):  # of a mean over factors the sum is a product
            total = total + torch.logsumexp(part / len(self._factors), -1)
        return total  # type: ignore[return-value]


def entropy(log_probs: Sequence[Tensor]) -> Tensor:
    """Of the choices of all categorical elements together, (B,)."""
    each = [-(one.exp() * one).sum(1) for one in log_probs]
    return torch.stack(each).sum(0)


def share_at(update: int, first: float, last: float | None, updates: int) -> float:
    """A share that goes evenly from ``first`` to ``last`` within this many updates."""
    if last is None or updates <= 0:
        return first
    return first + (last - first) * min(update / updates, 1.0)
