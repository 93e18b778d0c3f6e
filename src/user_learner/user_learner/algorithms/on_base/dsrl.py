"""Off-policy learning of the noise that a frozen policy makes its chunks from (Wagenmaker et al. 2025)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, cast

import numpy as np
import torch
from torch import Tensor

from user_core.config import setting
from user_core.interfaces import Policy
from user_core.policies.improving.steered import NoiseNetwork, SteeredPolicy
from user_core.specs import RobotSpec
from user_learner.algorithms.common.batches import Minibatch
from user_learner.algorithms.common.distributed import share_
from user_learner.algorithms.common.flat_parameters import FlatAdam, FlatParameters
from user_learner.algorithms.common.torch_tools import ensemble_arrays, evaluate
from user_learner.algorithms.on_base.base import OnBase, OnBaseConfig


class DSRLConfig(OnBaseConfig):
    """As for every policy on a base, and the critics of noise."""

    target_entropy_per_action: float = setting(
        -0.5, doc="Entropy aimed at, per element of the noise.", read_only=False
    )
    noise_critics: int = setting(2, doc="Critics that judge noise.", ge=1, le=100)


class DSRL(OnBase):
    """Diffusion steering by reinforcement learning, with noise aliasing.

    Wagenmaker et al., "Steering Your Diffusion Policy with Latent Space Reinforcement Learning", 2025, algorithm 2:
    critics judge the actions that were carried out, whoever did them (so that demonstrations teach them); critics
    of noise learn what those say of the action that the base makes from it; and the actor climbs these. Nothing is
    differentiated through the base. Choices are the numbers that the base makes them from: critics see which one became
    of these.
    """

    Config: ClassVar[type[DSRLConfig]] = DSRLConfig
    config: DSRLConfig
    takes = (SteeredPolicy, "steered")
    needs = NoiseNetwork

    def __init__(self, config: DSRLConfig, spec: RobotSpec, policy: Policy) -> None:
        super().__init__(config, spec, policy)
        self._network = cast(Any, self.networks.policy)
        self._noise_size: int = self._network.noise_size
        inputs = self.networks.critics.shapes["layer0.weight"][1]
        first = ensemble_arrays(
            config.noise_critics, inputs - self._network.code_numbers + self._noise_size,
            config.critic_hidden, np.random.default_rng(config.seed + 1),
        )  # fmt: skip
        self.noise_critics = FlatParameters(first, self.device)
        share_(self.noise_critics.flat)
        self._optimizers["noise_critics"] = FlatAdam(
            self.noise_critics, config.critic_learning_rate,
            config.max_grad_norm * config.noise_critics,
        )  # fmt: skip

    def _require(self, network: Any, spec: RobotSpec) -> int:
        return int(network.code_numbers)

    def _as_judged(self, action: Tensor) -> Tensor:
        codes: Tensor = self._network.codes(action)
        return codes

    def _made(self, features: Tensor, noise: Tensor) -> Tensor:
        """What the base makes of noise (B, N), as critics see it, (B, T x D)."""
        return self._as_judged(self._network.steered(features, noise))

    def state(self) -> dict[str, Any]:
        return {**super().state(), "noise_critics": self.noise_critics.arrays()}

    def load_state(self, state: Mapping[str, Any]) -> None:
        super().load_state(state)
        self.noise_critics.load(state["noise_critics"], "noise_critics")

    @torch.no_grad()
    def _keep_values(self, factors: Tensor) -> None:
        super()._keep_values(factors)
        weight = "layer0.weight"
        self.noise_critics.frozen[weight][:, : len(factors)] *= factors[:, None]
        self._optimizers["noise_critics"].rescale(weight, factors)

    def _noise(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Of the actor, (B, N) in -1 to 1, and its log-density, (B,)."""
        noise: tuple[Tensor, Tensor] = self._network.noise(features).sample(self.generator)
        return noise

    @torch.no_grad()
    def _sample(self, features: Tensor) -> tuple[Tensor, Tensor]:
        noise, log_prob = self._noise(features)
        return self._made(features, noise), log_prob

    def _update_actor(
        self, features: Tensor, minibatch: Minibatch, temperature: Tensor
    ) -> dict[str, Tensor]:
        loss = self._distil(features)
        found = super()._update_actor(features, minibatch, temperature)
        return {**found, "noise_critic_loss": loss}

    def _distil(self, features: Tensor) -> Tensor:
        """Teach the critics of noise, half by the actor's noise, half by that of the base's training."""
        networks, critics, rows = self.networks, self.noise_critics, len(features)
        with torch.no_grad():
            actors, _ = self._noise(features)
            usual = torch.randn(actors.shape, generator=self.generator, device=self.device)
            usual = (usual / self._network.reach).clamp(-1, 1)
            which = torch.rand((rows, 1), generator=self.generator, device=self.device) < 0.5
            noise = torch.where(which, actors, usual)
            action = self._made(features, noise)
            target = self._value_of(networks.values(networks.critics.frozen, features, action))
        loss = (self._judged(critics.named, features, noise) - target).square().mean(1).sum()
        critics.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self._optimizers["noise_critics"].step()
        return loss.detach() / self.config.noise_critics

    def _judged(self, critics: Mapping[str, Tensor], features: Tensor, noise: Tensor) -> Tensor:
        """Values of noise (B, N), (E, B)."""
        seen = torch.cat([features, noise], 1)
        return evaluate(critics, seen, self.config.layer_norm, None, self.networks.dtype)

    def _worth(self, features: Tensor) -> tuple[Tensor, Tensor]:
        noise, log_prob = self._noise(features)
        values = self._judged(self.noise_critics.frozen, features, noise)
        return -log_prob[None], self._value_of(values)

    def _target_entropies(self, like: Tensor) -> Tensor:
        return like.new_tensor([self.config.target_entropy_per_action * self._noise_size])
