"""The networks of behaviour cloning: the policy's own, all of them trained."""

from __future__ import annotations

import torch
from torch import Tensor

from user_core.policies.tanh_gaussian import TanhGaussianLayout
from user_core.policies.tanh_gaussian_torch import distribution, encode
from user_core.specs import Array, Arrays
from user_learner.algorithms.common.augment import random_shift
from user_learner.algorithms.common.distributed import share_
from user_learner.algorithms.common.minibatches import Minibatch
from user_learner.algorithms.common.normaliser import InputNormaliser
from user_learner.algorithms.common.parameters import FlatParameters


class PolicyNetworks:
    """The policy's parameters, encoder included, and its forward pass."""

    def __init__(self, layout: TanhGaussianLayout, arrays: Arrays, device: torch.device) -> None:
        self.layout = layout
        self.inputs = InputNormaliser(layout, arrays, device)
        trained = {n: a for n, a in arrays.items() if n not in self.inputs.tensors}
        self.policy = FlatParameters(trained, device)
        share_(self.policy.flat)

    def distribution(
        self, minibatch: Minibatch, shift: int, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """Mean and log std before tanh, (B, A) each."""
        features = minibatch.state
        if minibatch.images:
            images = {n: random_shift(i, shift, generator) for n, i in minibatch.images.items()}
            embedding = encode(self.policy.named, images, self.layout.features)
            features = torch.cat([features, embedding], 1)
        return distribution(self.policy.named, features, self.layout)

    def policy_arrays(self) -> dict[str, Array]:
        """What the actor's policy takes; a copy."""
        arrays = self.policy.arrays()
        arrays |= self.inputs.arrays()
        return {name: arrays[name] for name in self.layout.shapes}
