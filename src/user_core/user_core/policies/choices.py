"""Distributions of actions of which some elements, or all, are choices. Imports torch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from user_core.interfaces import ActionDistribution
from user_core.policies.features import ActionScale


class MixedActions:
    """Choices beside continuous elements: a :class:`~user_core.interfaces.ChoiceDistribution`.

    Given what is seen, each choice is independent of the others and of the continuous elements: the
    probability of an action is the product (Delalleau et al., "Discrete and Continuous Action
    Representation for Practical RL in Video Games", 2019). What must be chosen together is learned as far
    as it follows from what is seen.

    Args:
        scale: Which elements are choices, and how many there are of each.
        logits: Of each categorical element, (B, n), in their order.
        continuous: Of the other elements, (B, C); None where there are none.
    """

    def __init__(
        self,
        scale: ActionScale,
        logits: Sequence[Tensor],
        continuous: ActionDistribution | None = None,
    ) -> None:
        self._scale = scale
        #: Of the elements that are no choices; None where there are none.
        self.continuous = continuous
        #: Log-probabilities of the choices of each categorical element, (B, n) each.
        self.choice_log_probs = tuple(one.log_softmax(1) for one in logits)

    @property
    def mode(self) -> Tensor:
        """The likeliest choices beside the mode of the rest, (B, A)."""
        choices = [log_probs.argmax(1) for log_probs in self.choice_log_probs]
        return self._joined(self.continuous.mode if self.continuous else None, choices)

    def sample(self, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Actions (B, A), choices as their numbers, and their log-probabilities (B,).

        Gradients pass through the continuous elements, not through the drawing of a choice.
        """
        moved, total = self.sample_continuous(generator)
        choices = []
        for log_probs in self.choice_log_probs:
            drawn = torch.multinomial(log_probs.detach().exp(), 1, generator=generator)
            choices.append(drawn[:, 0])
            total = total + log_probs.gather(1, drawn)[:, 0]
        return self._joined(moved, choices), total

    def sample_continuous(self, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Samples of the elements that are no choices (B, C), and their log-densities (B,)."""
        if self.continuous is None:
            like = self.choice_log_probs[0]
            return like.new_zeros((len(like), 0)), like.new_zeros(len(like))
        return self.continuous.sample(generator)

    def log_prob(self, action: Tensor, weight: Tensor | None = None) -> Tensor:
        """Log-probabilities of actions, (B, A) to (B,): densities of the continuous elements, and
        probabilities of the choices."""
        total = action.new_zeros(len(action))
        if self.continuous is not None:
            part = self._scale.continuous
            shares = None if weight is None else weight[:, part]
            total = self.continuous.log_prob(action[:, part], shares)
        for element, log_probs in zip(self._scale.categorical, self.choice_log_probs, strict=True):
            choice = action[:, element].round().long().clamp(0, log_probs.shape[1] - 1)
            one = log_probs.gather(1, choice[:, None])[:, 0]
            total = total + (one if weight is None else one * weight[:, element])
        return total

    def _joined(self, continuous: Tensor | None, choices: Sequence[Tensor]) -> Tensor:
        scale, like = self._scale, self.choice_log_probs[0]
        action = like.new_empty((len(like), len(scale.middle)))
        if continuous is not None:
            action[:, scale.continuous] = continuous
        action[:, scale.categorical] = torch.stack(list(choices), 1).to(like.dtype)
        return action
