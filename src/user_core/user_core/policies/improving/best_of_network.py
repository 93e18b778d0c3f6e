"""The best-of policy in torch, for whole batches."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from user_core.interfaces import LossNetwork
from user_core.policies.generative.network import GenerativeNetwork
from user_core.specs import Array, Arrays


class CandidateNetwork(LossNetwork, Protocol):
    """A network that draws chunks, and has the critics that choose among them: what ``q_chunking`` wants.

    Attributes:
        critics: The parameters of an ensemble, ``layer<i>.weight`` and ``layer<i>.bias``, see
            :mod:`user_core.policies.critics`; they see :meth:`encode` and :meth:`codes`.
        layer_norm: Whether their hidden layers are normalised.
    """

    critics: nn.Module
    layer_norm: bool

    def encode(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """What critics see of observations, (B, F); without gradients."""

    def codes(self, action: Tensor) -> Tensor:
        """What critics see of actions (B, T x A), (B, T x D)."""

    def propose(
        self, inputs: Mapping[str, Tensor], count: int, generator: torch.Generator
    ) -> Tensor:
        """Chunks, (B, N, T x A), without gradients."""


class BestOfNetwork(GenerativeNetwork):
    """A :class:`CandidateNetwork`: the flow, and its critics as a submodule.

    Args:
        critics: First values of these.
    """

    def __init__(self, *flow: Any, critics: Arrays) -> None:
        super().__init__(*flow)
        self.layer_norm: bool = self.generation.layer_norm  # type: ignore[attr-defined]
        self.critics = nn.Module()
        for name, array in critics.items():
            layer, leaf = name.split(".")
            if not hasattr(self.critics, layer):
                self.critics.add_module(layer, nn.Module())
            values = nn.Parameter(torch.from_numpy(np.array(array)))
            self.critics.get_submodule(layer).register_parameter(leaf, values)

    @torch.no_grad()
    def encode(self, inputs: Mapping[str, Tensor]) -> Tensor:
        return self.summary(inputs, self.context(inputs))

    @torch.no_grad()
    def propose(
        self, inputs: Mapping[str, Tensor], count: int, generator: torch.Generator
    ) -> Tensor:
        context = self.context(inputs).repeat_interleave(count, 0)
        shape = (len(context), self.rows, self.code.size)
        noise = torch.randn(shape, generator=generator, device=context.device)
        made = self.generate_from(context, noise)
        return made.view(-1, count, made.shape[1])

    @torch.no_grad()
    def candidates(self, inputs: Mapping[str, Tensor], noise: Array) -> tuple[Array, Array]:
        """What critics see of one observation, (F,), and codes of chunks from noise (N, T, D)."""
        context = self.context(inputs)
        seen = self.summary(inputs, context)[0]
        many = context.expand(len(noise), *context.shape[1:])
        made = self.codes_from(many, torch.from_numpy(noise).to(many.device))
        return seen.cpu().numpy(), made.cpu().numpy()
