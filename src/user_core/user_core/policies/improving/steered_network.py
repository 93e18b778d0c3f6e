"""The steered policy in torch, for whole batches."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from user_core.interfaces import ActionDistribution
from user_core.policies.generative.coding import ChunkCode
from user_core.policies.improving.base import FrozenBase
from user_core.policies.tanh_gaussian_layout import TanhGaussianLayout
from user_core.policies.tanh_gaussian_network import TanhGaussianNetwork
from user_core.specs import Arrays


class SteeredNetwork:
    """A :class:`~user_core.policies.improving.steered.NoiseNetwork`: what else it is asked, the network of the
    noise answers.

    Features end with what the base sees, normalised as it wants it.

    Args:
        layout: Of the network that chooses.
        arrays: Its weights.
        base: What makes actions of the noise; neither trained nor kept with it.
        shared: Whether all rows begin with the same noise.
        rows: Actions that are carried out of what the base makes, T.
    """

    def __init__(
        self, layout: TanhGaussianLayout, arrays: Arrays, base: FrozenBase, shared: bool, rows: int
    ) -> None:
        self.rows = rows
        self._chooser = TanhGaussianNetwork(layout, arrays)
        self.noise_size, self.reach = layout.action.size, float(layout.action_half[0])
        policy: Any = base.policy
        self._base: Any = policy.network().requires_grad_(False)
        self._noise_shape, self._shared = policy.noise().shape, shared
        self._action_numbers = rows * policy.spec.action.size
        self._code = ChunkCode(policy.spec, rows)
        self.code_numbers = rows * self._code.size
        self._seen: int = policy.features.state_size

    def __getattr__(self, name: str) -> Any:
        if name == "distribution" or name.startswith("_"):  # that of noise is none of actions
            raise AttributeError(name)
        return getattr(self._chooser, name)

    def to(self, device: torch.device) -> SteeredNetwork:
        """Move it to a device, and the base with it."""
        self._chooser.to(device)
        self._base.to(device)
        return self

    def inputs(self, observation: Arrays) -> dict[str, Tensor]:
        """As those of :class:`TanhGaussianNetwork`, and ``base``, (B, O): what the base sees."""
        found = self._chooser.inputs(observation)
        return {**found, "base": self._base.inputs(observation)["state"]}

    def encode(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """What actor and critics see, (B, F)."""
        with torch.no_grad():
            seen = self._base.context({"state": inputs["base"]})
        return torch.cat([self._chooser.encode(inputs), seen], 1)

    def noise(self, features: Tensor) -> ActionDistribution:
        """Of the noise, (B, N) in -1 to 1."""
        return self._chooser.distribution(features[:, : -self._seen])

    @torch.no_grad()
    def steered(self, features: Tensor, noise: Tensor) -> Tensor:
        """The first actions that the base makes from noise (B, N), (B, T x A)."""
        rows, size = self._noise_shape
        chosen = (self.reach * noise).reshape(len(noise), -1, size)
        if self._shared:
            chosen = chosen.expand(-1, rows, -1)
        made = self._base.generate_from(features[:, -self._seen :], chosen)
        first: Tensor = made[:, : self._action_numbers]
        return first

    def codes(self, action: Tensor) -> Tensor:
        """What critics see of actions (B, T x A), (B, T x D)."""
        return self._code.encode_batch(action).flatten(1)
