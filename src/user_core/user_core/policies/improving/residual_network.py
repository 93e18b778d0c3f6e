"""The residual policy in torch, for whole batches and with gradients."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import one_hot

from user_core.interfaces import ActionDistribution
from user_core.policies.choices import MixedActions
from user_core.policies.improving.base import BASE_ACTION, FrozenBase
from user_core.policies.tanh_gaussian_layout import TanhGaussianLayout
from user_core.policies.tanh_gaussian_network import TanhGaussianNetwork
from user_core.specs import Arrays


class ResidualNetwork(TanhGaussianNetwork):
    """A :class:`~user_core.interfaces.DistributionNetwork` of the actions that are carried out.

    Features end with what the base does, in network units. The base is no part of the module: it is neither trained
    nor kept with it, and stays on the CPU.

    Args:
        layout: Of the correction.
        arrays: Its weights.
        base: What it corrects.
        share: Largest correction, in network units.
        leads: Of the base's choice over the others, in logits, of each categorical element.
    """

    def __init__(
        self, layout: TanhGaussianLayout, arrays: Arrays, base: FrozenBase, share: float,
        leads: Sequence[float] = (),
    ) -> None:  # fmt: skip
        super().__init__(layout, arrays)
        self._base, self._share, self._leads = base, share, tuple(leads)
        self._size = layout.action.size

    def inputs(self, observation: Arrays) -> dict[str, Tensor]:
        """As those of :class:`TanhGaussianNetwork`, and ``base``, (B, A)."""
        action = self._base.actions(observation)
        found = super().inputs({**observation, BASE_ACTION: action})
        scale = self.layout.scale
        found["base"] = torch.from_numpy(
            np.clip(scale.unit(action), scale.unit_low, scale.unit_high)
        )
        return found

    def encode(self, inputs: Mapping[str, Tensor]) -> Tensor:
        return torch.cat([super().encode(inputs), inputs["base"]], 1)

    def distribution(self, features: Tensor) -> ActionDistribution:
        correction: Any = super().distribution(features[:, : -self._size])
        base, scale = features[:, -self._size :], self.layout.scale
        if not scale.counts:
            return Corrected(correction, base, self._share)
        logits = [
            said + lead * one_hot(base[:, element].round().long(), said.shape[1])
            for said, element, lead in zip(
                correction.choice_log_probs, scale.categorical, self._leads, strict=True
            )
        ]
        moved = None
        if scale.continuous:
            moved = Corrected(correction.continuous, base[:, scale.continuous], self._share)
        return MixedActions(scale, logits, moved)


class Corrected:
    """Distributions of actions around those of a base: an :class:`~user_core.interfaces.ActionDistribution`.

    Densities are those of the correction, with ``share`` as its unit, so that an entropy means the same for any share.

    Args:
        correction: Of the correction, in -1 to 1.
        base: (B, A), in network units.
        share: Largest correction.
    """

    def __init__(self, correction: ActionDistribution, base: Tensor, share: float) -> None:
        self._correction, self._base, self._share = correction, base, share

    @property
    def mode(self) -> Tensor:
        """The base with the squashed mean of the correction, (B, A)."""
        return self._moved(self._correction.mode)

    def sample(self, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Actions (B, A) and their log-densities (B,)."""
        correction, log_prob = self._correction.sample(generator)
        return self._moved(correction), log_prob

    def log_prob(self, action: Tensor, weight: Tensor | None = None) -> Tensor:
        """Log-densities of actions (B, A), (B,); beyond ``share`` from the base that of the end."""
        return self._correction.log_prob((action - self._base) / self._share, weight)

    def _moved(self, correction: Tensor) -> Tensor:
        return (self._base + self._share * correction).clamp(-1, 1)
