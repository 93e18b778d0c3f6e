"""The networks of SAC and RLPD: an actor, an ensemble of critics, its slow copy, an encoder."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from user_core.policies.tanh_gaussian import TanhGaussianLayout
from user_core.policies.tanh_gaussian_torch import encode
from user_core.specs import Array, Arrays
from user_learner.algorithms.common.augment import random_shift
from user_learner.algorithms.common.distributed import share_
from user_learner.algorithms.common.ensemble import ensemble_arrays, evaluate
from user_learner.algorithms.common.normaliser import InputNormaliser
from user_learner.algorithms.common.parameters import FlatParameters
from user_learner.algorithms.sac.config import SACConfig


class ActorCriticNetworks:
    """Parameters and forward passes.

    The encoder of pictures learns with the critics; the actor takes its output as given
    (Kostrikov et al. 2020). The target critics look through the same encoder (Yarats et al.,
    "Mastering visual continuous control", 2021), so that each picture is encoded once.

    Args:
        config: Of the algorithm.
        layout: Of the policy.
        arrays: First values of the policy.
        device: Where they live.
    """

    def __init__(
        self, config: SACConfig, layout: TanhGaussianLayout, arrays: Arrays, device: torch.device
    ) -> None:
        self.config, self.layout, self.device = config, layout, device
        self.dtype = getattr(torch, config.precision)
        encoder = {name: a for name, a in arrays.items() if name.startswith("encoder.")}
        self.inputs = InputNormaliser(layout, arrays, device)
        apart = encoder.keys() | self.inputs.tensors.keys()
        actor = {name: a for name, a in arrays.items() if name not in apart}
        critics = ensemble_arrays(
            config.critics,
            layout.feature_size + layout.action.size,
            config.critic_hidden,
            np.random.default_rng(config.seed),
        )
        self.actor = FlatParameters(actor, device)
        self.critics = FlatParameters({**critics, **encoder}, device)
        self.target = FlatParameters(critics, device)
        self.log_temperature = FlatParameters(
            {"log_temperature": np.log([config.initial_temperature])}, device
        )
        for tensor in (self.actor.flat, self.critics.flat, self.target.flat):
            share_(tensor)

    def features(
        self, state: Tensor, images: Mapping[str, Tensor], generator: torch.Generator
    ) -> Tensor:
        """What actor and critics see, (B, F); pictures are shifted at random, then encoded."""
        if not images:
            return state
        shifted = {
            name: random_shift(image, self.config.image_shift, generator)
            for name, image in images.items()
        }
        with torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32):
            embedding = encode(self.critics.named, shifted, self.layout.features)
        return torch.cat([state, embedding.float()], 1)

    def values(
        self,
        parameters: Mapping[str, Tensor],
        features: Tensor,
        action: Tensor,
        members: Tensor | None = None,
    ) -> Tensor:
        """Values of all critics, or of some, (E, B)."""
        return evaluate(
            parameters,
            torch.cat([features, action], 1),
            self.config.layer_norm,
            members,
            self.dtype,
        )

    def policy_arrays(self) -> dict[str, Array]:
        """What the actor's policy takes; a copy."""
        arrays = self.actor.arrays()
        arrays |= {n: a for n, a in self.critics.arrays().items() if n.startswith("encoder.")}
        arrays |= self.inputs.arrays()
        return {name: arrays[name] for name in self.layout.shapes}
