"""The steered policy in torch, for whole batches."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
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

    Features end with what the base sees, as it wants it: normalised numbers, or all tokens of a transformer.

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
        with torch.no_grad():
            shown = {
                n: np.zeros((1, *a.shape), a.dtype) for n, a in policy.spec.observation.items()
            }
            #: Shape of what the base sees, without rows.
            self._seen_shape = self._base.context(self._base.inputs(shown)).shape[1:]
        self._seen = int(self._seen_shape.numel())

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
        """As those of :class:`TanhGaussianNetwork`, and ``base``, (B, O): numbers that the base sees, and images that
        it alone looks at."""
        found, theirs = self._chooser.inputs(observation), self._base.inputs(observation)
        return {**theirs, **found, "base": theirs["state"]}

    def encode(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """What actor and critics see, (B, F)."""
        with torch.no_grad():
            seen = self._base.context({**inputs, "state": inputs["base"]})
        return torch.cat([self._chooser.encode(inputs), seen.flatten(1)], 1)

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
        seen = features[:, -self._seen :].reshape(len(features), *self._seen_shape)
        made = self._base.generate_from(seen, chosen)
        first: Tensor = made[:, : self._action_numbers]
        return first

    def codes(self, action: Tensor) -> Tensor:
        """What critics see of actions (B, T x A), (B, T x D)."""
        return self._code.encode_batch(action).flatten(1)
