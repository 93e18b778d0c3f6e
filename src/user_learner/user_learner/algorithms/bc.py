"""Behaviour cloning."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from user_core.config import Config, setting
from user_core.errors import PluginError, StoreError
from user_core.interfaces import Algorithm, Policy
from user_core.policies.action_chunks import ActionChunksPolicy
from user_core.policies.tanh_gaussian import TanhGaussianLayout, TanhGaussianPolicy
from user_core.policies.tanh_gaussian_torch import distribution, encode, log_probability
from user_core.specs import Array, Arrays, RobotSpec
from user_core.types import Batch
from user_learner.algorithms.batches import InputNormaliser, Minibatch, Minibatcher, joined
from user_learner.algorithms.distributed import share_
from user_learner.algorithms.torch_tools import (
    FlatAdam,
    FlatParameters,
    generator_state,
    make_generator,
    random_shift,
    restore_generator,
)


@dataclass(frozen=True)
class BCConfig(Config):
    """Behaviour cloning. Settings that are not ``read_only`` may change between two runs."""

    loss: Literal["likelihood", "squared_error"] = setting(
        "likelihood",
        doc="Negative log-likelihood of the action, which also teaches the spread, or the "
        "squared error of the squashed mean.",
    )
    learning_rate: float = setting(3e-4, doc="Of Adam.", gt=0, read_only=False)
    max_grad_norm: float = setting(
        10.0, doc="Norm that gradients are cut to; 0: never.", ge=0, read_only=False
    )
    image_shift: int = setting(
        4, doc="Largest random shift of pictures while learning.", unit="px", ge=0, read_only=False
    )
    device: str = setting(
        "cpu", doc="torch device that learns: cpu, cuda, cuda:1.", read_only=False
    )
    seed: int = setting(0, doc="Seed of the random shifts.", ge=0)


# --------------------------------------------------------------------------------------------------
# The networks of behaviour cloning: the policy's own, all of them trained
# --------------------------------------------------------------------------------------------------


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


# --------------------------------------------------------------------------------------------------
# The update of behaviour cloning
# --------------------------------------------------------------------------------------------------


class BC(Algorithm):
    """Makes the actions in the data likely. Draw from demonstrations only to clone these.

    Args:
        config: Parameters.
        spec: The robot's.
        policy: A tanh-Gaussian policy, or one of action chunks; its weights are the first ones.
            For chunks of T actions batches are windows of T steps (``sampler.window``).
    """

    Config = BCConfig

    def __init__(self, config: BCConfig, spec: RobotSpec, policy: Policy) -> None:
        if not isinstance(policy, TanhGaussianPolicy):
            raise PluginError(
                "policy of BC", got=type(policy).__name__,
                expected="the policy plugin tanh_gaussian or action_chunks",
            )  # fmt: skip
        self.config = config
        self._rows = policy.rows if isinstance(policy, ActionChunksPolicy) else 0
        device = torch.device(config.device)
        self.networks = PolicyNetworks(policy.layout, policy.arrays(), device)
        self.generator = make_generator(config.seed, device)
        self._minibatcher = Minibatcher(policy.layout, device)
        self._optimizer = FlatAdam(self.networks.policy, config.learning_rate, config.max_grad_norm)
        self._updates = 0

    def update(self, batch: Batch) -> Mapping[str, float]:
        weight = None
        if self._rows:
            batch, weight = joined(batch, self._rows, self._minibatcher.device)
        (minibatch,) = self._minibatcher.cut(batch, 1, self.networks.inputs)
        mean, log_std = self.networks.distribution(
            minibatch, self.config.image_shift, self.generator
        )
        errors = (mean.tanh() - minibatch.action).square()
        error = (errors if weight is None else errors * weight).mean()
        likelihood = log_probability(mean, log_std, minibatch.action, weight).mean()
        loss = -likelihood if self.config.loss == "likelihood" else error
        self.networks.policy.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self._optimizer.step()
        self._updates += 1
        values = torch.stack([likelihood.detach(), error.detach()]).tolist()
        return {"log_likelihood": values[0], "squared_error": values[1]}

    def policy_arrays(self) -> dict[str, Array]:
        return self.networks.policy_arrays()

    def state(self) -> dict[str, Any]:
        return {
            "updates": self._updates,
            "policy": self.networks.policy.arrays(),
            "inputs": self.networks.inputs.state(),
            "optimizer": self._optimizer.state(),
            "generator": generator_state(self.generator),
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        if set(state) != set(self.state()):
            raise StoreError("state of BC", got=sorted(state), expected=sorted(self.state()))
        self.networks.policy.load(state["policy"], "BC")
        self.networks.inputs.load_state(state["inputs"])
        self._optimizer.load_state(state["optimizer"], "BC")
        self._updates = int(state["updates"])
        restore_generator(self.generator, state["generator"], self.config.seed + self._updates)
