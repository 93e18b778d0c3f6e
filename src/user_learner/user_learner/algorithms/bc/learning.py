"""The update of behaviour cloning."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from user_core.errors import PluginError, StoreError
from user_core.interfaces import Algorithm, Policy
from user_core.policies.action_chunks import ActionChunksPolicy
from user_core.policies.tanh_gaussian import TanhGaussianPolicy
from user_core.policies.tanh_gaussian_torch import log_probability
from user_core.specs import Array, RobotSpec
from user_core.types import Batch
from user_learner.algorithms.bc.config import BCConfig
from user_learner.algorithms.bc.networks import PolicyNetworks
from user_learner.algorithms.common.generators import (
    generator_state,
    make_generator,
    restore_generator,
)
from user_learner.algorithms.common.minibatches import Minibatcher
from user_learner.algorithms.common.optimizer import FlatAdam
from user_learner.algorithms.common.windows import joined


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
                "policy of BC", came=type(policy).__name__,
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
            raise StoreError("state of BC", came=sorted(state), expected=sorted(self.state()))
        self.networks.policy.load(state["policy"], "BC")
        self.networks.inputs.load_state(state["inputs"])
        self._optimizer.load_state(state["optimizer"], "BC")
        self._updates = int(state["updates"])
        restore_generator(self.generator, state["generator"], self.config.seed + self._updates)
