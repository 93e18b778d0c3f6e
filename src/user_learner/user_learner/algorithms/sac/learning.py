"""The update of SAC."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from user_core.errors import PluginError, StoreError
from user_core.interfaces import Algorithm, Policy
from user_core.policies.action_chunks import ActionChunksPolicy
from user_core.policies.tanh_gaussian import TanhGaussianPolicy
from user_core.policies.tanh_gaussian_torch import distribution, squash
from user_core.specs import Array, RobotSpec
from user_core.types import Batch
from user_learner.algorithms.common.generators import (
    generator_state,
    make_generator,
    restore_generator,
)
from user_learner.algorithms.common.minibatches import Minibatch, Minibatcher
from user_learner.algorithms.common.optimizer import FlatAdam
from user_learner.algorithms.sac.config import SACConfig
from user_learner.algorithms.sac.networks import ActorCriticNetworks


@dataclass(frozen=True)
class _Ahead:
    """The next observation's features (B, F), an action there (B, A), its log-probability (B,)."""

    features: Tensor
    action: Tensor
    log_prob: Tensor


class SAC(Algorithm):
    """Soft Actor-Critic: twin critics, automatic temperature.

    Haarnoja et al., "Soft Actor-Critic Algorithms and Applications", 2018. One call makes
    ``critic_updates`` updates of the critics, each on its own minibatch, then one of actor and
    temperature on the last.

    Args:
        config: Parameters.
        spec: The robot's.
        policy: A tanh-Gaussian policy; its weights are the first ones of the actor.
    """

    Config: ClassVar[type[SACConfig]] = SACConfig

    def __init__(self, config: SACConfig, spec: RobotSpec, policy: Policy) -> None:
        if not isinstance(policy, TanhGaussianPolicy) or isinstance(policy, ActionChunksPolicy):
            raise PluginError(
                f"policy of {type(self).__name__}", came=type(policy).__name__,
                expected="the policy plugin tanh_gaussian",
            )  # fmt: skip
        self.config, self.layout = config, policy.layout
        self.updates_per_call = config.critic_updates
        self.device = torch.device(config.device)
        self.networks = ActorCriticNetworks(config, policy.layout, policy.arrays(), self.device)
        self.generator = make_generator(config.seed, self.device)
        self._minibatcher = Minibatcher(policy.layout, self.device)
        networks, norm = self.networks, config.max_grad_norm
        self._optimizers = {
            "actor": FlatAdam(networks.actor, config.actor_learning_rate, norm),
            "critics": FlatAdam(networks.critics, config.critic_learning_rate, norm),
            "temperature": FlatAdam(networks.log_temperature, config.temperature_learning_rate),
        }
        self._target_entropy = config.target_entropy_per_action * spec.action.size
        self._updates = 0

    def update(self, batch: Batch) -> Mapping[str, float]:
        networks = self.networks
        minibatches = self._minibatcher.cut(batch, self.updates_per_call, networks.inputs)
        temperature = networks.log_temperature.flat.exp()
        all_ahead = self._look_ahead_at_once(minibatches)
        for minibatch, ahead in zip(minibatches, all_ahead, strict=True):
            features = networks.features(minibatch.state, minibatch.images, self.generator)
            target = self._target(minibatch, ahead or self._look_ahead(minibatch), temperature)
            metrics = self._update_critics(features, minibatch.action, target)
            self._updates += 1
        metrics |= self._update_actor(features.detach(), temperature)
        values = torch.stack(list(metrics.values())).tolist()  # one copy from the device
        return dict(zip(metrics, values, strict=True))

    def policy_arrays(self) -> dict[str, Array]:
        return self.networks.policy_arrays()

    def state(self) -> dict[str, Any]:
        networks = self.networks
        return {
            "updates": self._updates,
            "actor": networks.actor.arrays(),
            "critics": networks.critics.arrays(),
            "target": networks.target.arrays(),
            "log_temperature": networks.log_temperature.arrays(),
            "inputs": networks.inputs.state(),
            "optimizers": {name: adam.state() for name, adam in self._optimizers.items()},
            "generator": generator_state(self.generator),
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        networks = self.networks
        if set(state) != set(self.state()):
            raise StoreError(
                f"state of {type(self).__name__}", came=sorted(state), expected=sorted(self.state())
            )
        for name in ("actor", "critics", "target", "log_temperature"):
            getattr(networks, name).load(state[name], name)
        for name, adam in self._optimizers.items():
            adam.load_state(state["optimizers"][name], name)
        networks.inputs.load_state(state["inputs"])
        self._updates = int(state["updates"])
        restore_generator(self.generator, state["generator"], self.config.seed + self._updates)

    def _look_ahead_at_once(self, minibatches: list[Minibatch]) -> list[_Ahead | None]:
        """For all minibatches in one pass: the actor stays as it is until all are done. Not with
        pictures, whose encoder changes with every critic update."""
        first = minibatches[0]
        if first.next_images:
            return [None] * len(minibatches)
        states = torch.cat([minibatch.next_state for minibatch in minibatches])
        rows = len(first.next_state)
        whole = self._look_ahead(replace(first, next_state=states))
        parts = (whole.features.split(rows), whole.action.split(rows), whole.log_prob.split(rows))
        return [_Ahead(*part) for part in zip(*parts, strict=True)]

    @torch.no_grad()
    def _look_ahead(self, minibatch: Minibatch) -> _Ahead:
        networks = self.networks
        features = networks.features(minibatch.next_state, minibatch.next_images, self.generator)
        mean, log_std = distribution(networks.actor.frozen, features, self.layout)
        return _Ahead(features, *squash(mean, log_std, self._noise(mean)))

    @torch.no_grad()
    def _target(self, minibatch: Minibatch, ahead: _Ahead, temperature: Tensor) -> Tensor:
        """r + discount x (min over some target critics - temperature x log pi), (B,)."""
        networks, config, members = self.networks, self.config, None
        if config.target_critics < config.critics:
            order = torch.randperm(config.critics, generator=self.generator, device=self.device)
            members = order[: config.target_critics]
        values = networks.values(networks.target.frozen, ahead.features, ahead.action, members)
        value = values.amin(0)
        if config.entropy_in_target:
            value = value - temperature * ahead.log_prob
        target = torch.addcmul(minibatch.reward, minibatch.discount, value)
        if config.value_min is not None or config.value_max is not None:
            target = target.clamp(config.value_min, config.value_max)
        return target

    def _update_critics(
        self, features: Tensor, action: Tensor, target: Tensor
    ) -> dict[str, Tensor]:
        networks = self.networks
        values = networks.values(networks.critics.named, features, action)
        error = values - target
        loss = error.square().mean(1).sum()
        networks.critics.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self._optimizers["critics"].step()
        networks.target.approach(networks.critics, self.config.target_rate)
        return {
            "critic_loss": loss.detach() / self.config.critics,
            "value": values.detach().mean(),
            "target": target.mean(),
        }

    def _update_actor(self, features: Tensor, temperature: Tensor) -> dict[str, Tensor]:
        networks = self.networks
        mean, log_std = distribution(networks.actor.named, features, self.layout)
        action, log_prob = squash(mean, log_std, self._noise(mean))
        value = self._value_of(networks.values(networks.critics.frozen, features, action))
        loss = (temperature * log_prob - value).mean()
        networks.actor.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self._optimizers["actor"].step()
        entropy = -log_prob.detach().mean()
        if self.config.temperature_learning_rate > 0:
            # d/d(log t) of t x (entropy - target): the temperature rises while entropy lacks.
            networks.log_temperature.grad.copy_(temperature * (entropy - self._target_entropy))
            self._optimizers["temperature"].step()
        return {
            "actor_loss": loss.detach(),
            "entropy": entropy,
            "temperature": temperature[0],
        }

    def _value_of(self, values: Tensor) -> Tensor:
        """What the actor climbs, (B,), from the values of all critics, (E, B)."""
        return values.amin(0)

    def _noise(self, like: Tensor) -> Tensor:
        return torch.randn(like.shape, generator=self.generator, device=self.device)
