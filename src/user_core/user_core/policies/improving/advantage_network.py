"""The advantage-conditioned policy in torch, for whole batches."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from user_core.interfaces import LossNetwork
from user_core.policies.generative.network import GenerativeNetwork
from user_core.policies.generative.objectives import Guided, Model

#: Name of the input that says it, (B, 1).
ADVANTAGE = "advantage"


class ConditionedNetwork(LossNetwork, Protocol):
    """A network that may be told how good an action was: what ``advantage_conditioned`` wants."""

    def encode(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """What critics see of observations, (B, F); without gradients."""

    def with_advantage(
        self, inputs: Mapping[str, Tensor], advantage: Tensor | float
    ) -> dict[str, Tensor]:
        """Inputs that also say 1 for good, -1 for what was not, 0 for nothing, (B,)."""


class AdvantageNetwork(GenerativeNetwork):
    """A :class:`ConditionedNetwork`. A perceptron sees one number more, a transformer one token more."""

    def __init__(self, *flow: Any) -> None:
        super().__init__(*flow)
        self._is_perceptron = flow[4] is not None
        if not self._is_perceptron:
            self.told_token = nn.Linear(1, self.config.embedding)

    @torch.no_grad()
    def encode(self, inputs: Mapping[str, Tensor]) -> Tensor:
        return self.summary(inputs, super().context(inputs))

    def with_advantage(
        self, inputs: Mapping[str, Tensor], advantage: Tensor | float
    ) -> dict[str, Tensor]:
        state = inputs["state"]
        said = advantage if isinstance(advantage, Tensor) else state.new_full((), advantage)
        said = said.to(state.device, state.dtype)
        return {**inputs, ADVANTAGE: said.expand(len(state))[:, None]}

    def model(self, inputs: Mapping[str, Tensor]) -> Model:
        good, usual = (
            super(AdvantageNetwork, self).model(self.with_advantage(inputs, said))
            for said in (1.0, 0.0)
        )
        settings: Any = self.generation
        return Guided(good, usual, settings.advantage_weight)

    def context(self, inputs: Mapping[str, Tensor]) -> Tensor:
        seen = super().context(inputs)
        said = inputs.get(ADVANTAGE)
        if said is None:
            said = seen.new_zeros((len(seen), 1))
        if self._is_perceptron:
            return torch.cat([seen, said], 1)
        return torch.cat([seen, self.told_token(said)[:, None]], 1)
