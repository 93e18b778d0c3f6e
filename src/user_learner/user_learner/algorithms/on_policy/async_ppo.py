"""Proximal policy optimisation from robots that act with older policies (decoupled objective, Hilton et al. 2022)."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from user_core.config import Config, setting
from user_core.errors import ConfigError
from user_core.interfaces import Algorithm, DistributionNetwork, Policy
from user_core.reasons import Reason
from user_core.specs import Array, RobotSpec
from user_core.types import Batch
from user_learner.algorithms.common.batches import (
    Minibatch,
    Minibatcher,
    buffers_state,
    load_buffers,
    network_of,
    nothing_seen,
    require_choices,
    shifted,
    tried,
)
from user_learner.algorithms.common.choice_values import entropy
from user_learner.algorithms.common.distributed import share_, together
from user_learner.algorithms.common.flat_parameters import FlatAdam, FlatParameters
from user_learner.algorithms.common.state_values import StateValues, StateValuesConfig
from user_learner.algorithms.common.torch_tools import (
    generator_state,
    make_generator,
    numbers_of,
    require_parts,
    restore_generator,
    training_device,
)


class AsyncPPOConfig(Config):
    """Asynchronous PPO. Settings that are not ``read_only`` may change between two runs."""

    learning_rate: float = setting(
        3e-4, doc="Learning rate of Adam for the policy.", gt=0, read_only=False
    )
    values: StateValuesConfig = setting(
        factory=StateValuesConfig, doc="Critics of states, from which advantages come."
    )
    clip: float = setting(
        0.2,
        doc="How far the probability of an action may move from the proximal policy's, as a share of it.",
        gt=0,
        lt=1,
        read_only=False,
    )
    proximal_rate: float = setting(
        0.05,
        doc="Share by which the proximal policy approaches the policy at each update.",
        gt=0,
        le=1,
        read_only=False,
    )
    importance_bound: float = setting(
        2.0,
        doc="Largest weight of an action that the proximal policy takes more often than the one that acted.",
        ge=1,
        read_only=False,
    )
    entropy_weight: float = setting(
        1e-3, doc="Weight of the policy's entropy.", ge=0, read_only=False
    )
    versions_kept: int = setting(
        16,
        doc="Newest policy versions whose actions are learned from; older ones are passed over.",
        ge=1,
        le=1024,
    )
    max_grad_norm: float = setting(
        0.5, doc="Norm that gradients are cut to; 0: never.", ge=0, read_only=False
    )
    image_shift: int = setting(
        0, doc="Largest random shift of images while learning.", unit="px", ge=0, read_only=False
    )
    device: str = setting(
        "cpu", doc="torch device that learns: cpu, cuda, cuda:1.", read_only=False
    )
    seed: int = setting(0, doc="Seed of first weights of critics and of all noise.", ge=0)


class AsyncPPO(Algorithm):
    """PPO that does not wait for robots, nor they for it.

    Robots act with version b, which is older than what is learned. Schulman et al. (PPO, 2017) keep the new policy near
    the one that acted; for old ones that holds it back. Hilton et al., "Batch size-invariance for policy optimization",
    2022, take two: actions are weighted for the policy that acted, and the step is limited to the neighbourhood of a
    proximal one p, here the moving average of the weights (equation 2):

        loss = -E[ min(p/b, bound) min(r A, clip(r, 1 - c, 1 + c) A) ],   r = pi(a|s) / p(a|s)

    b is found by the number in ``extras["policy_version"]``: the newest versions that were published are kept, and
    their probabilities computed anew. What older ones, persons or chance did counts for nothing; batches should be of
    the newest steps only (``newest_steps``, ``acted_by: [policy]``). A is the advantage over as many steps as the
    sampler sums (``n_step``): V of what came + rewards - V.

    Args:
        config: Parameters.
        spec: The robot's.
        policy: One whose network is a :class:`~user_core.interfaces.DistributionNetwork`; for T actions at once batches
            are windows of T steps.
    """

    Config: ClassVar[type[AsyncPPOConfig]] = AsyncPPOConfig

    def __init__(self, config: AsyncPPOConfig, spec: RobotSpec, policy: Policy) -> None:
        name = type(self).__name__
        self.config, self.device = config, training_device(config.device)
        self.network: Any = network_of(policy, DistributionNetwork, name, self.device)
        require_choices(self.network, spec, name, self.device)
        if (
            together()
        ):  # versions are told to the first alone, and what the others draw would count for nothing
            raise ConfigError(
                "async_ppo in several processes", got="more than one", expected="one",
                hint="Leave learner.gpus and learner.ranks as they are for this algorithm",
            )  # fmt: skip
        self._policy, self._versions = policy, dict[int, dict[str, Array]]()
        self._actors: dict[int, Any] = {}  # networks of these, made when they are needed
        self._lock = threading.Lock()
        seen = tried(self.network, nothing_seen(spec), self.device).shape[1]
        self.values = StateValues(config.values, seen, config.seed, self.device)
        self.parameters = FlatParameters(dict(self.network.named_parameters()), self.device)
        share_(self.parameters.flat)
        self._proximal = FlatParameters(
            {name: part.detach() for name, part in self.parameters.named.items()}, self.device
        )
        self.generator = make_generator(config.seed, self.device)
        self._minibatcher = Minibatcher(self.network, spec, self.device)
        self._optimizer = FlatAdam(self.parameters, config.learning_rate, config.max_grad_norm)
        self._updates = 0

    def published(self, number: int, arrays: Mapping[str, Array]) -> None:
        """A policy version has got a number: robots will act with it. Any thread."""
        with self._lock:
            self._versions[number] = dict(arrays)
            for old in sorted(self._versions)[: -self.config.versions_kept]:
                del self._versions[old]

    def update(self, batch: Batch) -> Mapping[str, float]:
        (minibatch,) = self._minibatcher.cut(batch, 1)
        if (factors := self._minibatcher.factors) is not None:
            self._optimizer.rescale("layer0.weight", factors)
            self._proximal.frozen["layer0.weight"][: len(factors)] *= factors[:, None]
            self.values.rescale(factors)
        inputs = shifted(minibatch.inputs, self.config.image_shift, self.generator)
        proximal = self._of_proximal(minibatch, inputs)
        acted, known = self._of_actors(batch, minibatch, proximal)
        self._updates += 1
        metrics = {"usable": known.mean()}
        if known.any():
            metrics |= self._improve(minibatch, inputs, proximal, acted, known)
        return numbers_of(metrics)

    def _improve(
        self, minibatch: Minibatch, inputs: Mapping[str, Tensor], proximal: Tensor, acted: Tensor,
        known: Tensor,
    ) -> dict[str, Tensor]:  # fmt: skip
        """One update of critics and policy."""
        config, network = self.config, self.network
        features = network.encode(inputs)
        with torch.no_grad():
            ahead = network.encode(minibatch.next_inputs)
        value_loss = self.values.learn(
            features, minibatch.reward, minibatch.discount, ahead, weight=known
        )
        count = known.sum().clamp_min(1)
        here = self.values(features.detach())
        gain = torch.addcmul(minibatch.reward, minibatch.discount, self.values(ahead)) - here
        middle = (gain * known).sum() / count
        spread = ((gain - middle).square() * known).sum().div(count).sqrt()
        advantage = (gain - middle) / (spread + 1e-6)

        distribution = network.distribution(features)
        log_prob = distribution.log_prob(minibatch.action, minibatch.weight)
        ratio = (log_prob - proximal).exp()
        clipped = ratio.clamp(1 - config.clip, 1 + config.clip)
        weight = known * (proximal - acted).exp().clamp(max=config.importance_bound)
        surrogate = (weight * torch.minimum(ratio * advantage, clipped * advantage)).sum() / count
        spread_out = self._entropy(distribution)
        loss = -surrogate - config.entropy_weight * spread_out
        self.parameters.zero_grad()
        loss.backward()
        self._optimizer.step()
        self._proximal.approach(self.parameters, config.proximal_rate)
        return {
            "policy_loss": loss, "value_loss": value_loss, "value": here.mean(),
            "entropy": spread_out, "importance": weight.sum() / count,
            "clipped": ((ratio != clipped).float() * known).sum() / count,
        }  # fmt: skip

    def _entropy(self, distribution: Any) -> Tensor:
        """Of the policy, the mean over what is seen; of numbers by a sample."""
        choices = getattr(distribution, "choice_log_probs", ())
        if not choices:
            return -distribution.sample(self.generator)[1].mean()
        of_numbers: Tensor = -distribution.sample_continuous(self.generator)[1].mean()
        return of_numbers + entropy(choices).mean()

    @torch.no_grad()
    def _log_prob(
        self, network: Any, inputs: Mapping[str, Tensor], action: Tensor, weight: Tensor | None
    ) -> Tensor:
        found: Tensor = network.distribution(network.encode(inputs)).log_prob(action, weight)
        return found

    @torch.no_grad()
    def _of_proximal(self, minibatch: Minibatch, inputs: Mapping[str, Tensor]) -> Tensor:
        """Log-densities of what was done, by the proximal policy, (B,)."""
        mine = self.parameters.flat.clone()
        self.parameters.flat.copy_(self._proximal.flat)
        try:
            return self._log_prob(self.network, inputs, minibatch.action, minibatch.weight)
        finally:
            self.parameters.flat.copy_(mine)

    def _of_actors(
        self, batch: Batch, minibatch: Minibatch, proximal: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Log-densities by the versions that acted, and which are known, (B,) of 0 and 1. Of a source that does not
        tell versions all count as done by the proximal policy."""
        if "policy_version" not in batch.extras:
            return proximal, torch.ones_like(proximal)
        versions = np.asarray(batch.extras["policy_version"])
        with self._lock:
            kept = dict(self._versions)
        self._actors = {number: net for number, net in self._actors.items() if number in kept}
        found, known = proximal.clone(), torch.zeros_like(proximal)
        for number in np.unique(versions).tolist():
            if number not in kept:
                continue
            rows = torch.from_numpy(np.flatnonzero(versions == number)).to(self.device)
            inputs = {name: tensor[rows] for name, tensor in minibatch.inputs.items()}
            weight = None if minibatch.weight is None else minibatch.weight[rows]
            actor = self._actor(number, kept[number])
            found[rows] = self._log_prob(actor, inputs, minibatch.action[rows], weight)
            known[rows] = 1.0
        return found, known

    def _actor(self, number: int, arrays: Mapping[str, Array]) -> Any:
        if number not in self._actors:
            self._policy.load(arrays)
            self._actors[number] = self._policy.network().to(self.device)
        return self._actors[number]

    def warnings(self) -> list[Reason]:
        """What a person should know of the data."""
        return self._minibatcher.warnings()

    def policy_arrays(self) -> dict[str, Array]:
        arrays: dict[str, Array] = self.network.arrays()
        return arrays

    def state(self) -> dict[str, Any]:
        with self._lock:
            versions = {str(number): dict(kept) for number, kept in self._versions.items()}
        return {
            "updates": self._updates,
            "policy": self.parameters.arrays(),
            "proximal": self._proximal.arrays(),
            "values": self.values.state(),
            "versions": versions,
            "inputs": buffers_state(self.network),
            "optimizer": self._optimizer.state(),
            "generator": generator_state(self.generator),
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        name = type(self).__name__
        require_parts(state, self.state(), name)
        self.parameters.load(state["policy"], name)
        self._proximal.load(state["proximal"], "proximal")
        self.values.load_state(state["values"], "values")
        load_buffers(self.network, state["inputs"], name)
        self._optimizer.load_state(state["optimizer"], name)
        with self._lock:
            self._versions = {int(number): dict(a) for number, a in state["versions"].items()}
        self._actors = {}
        self._updates = int(state["updates"])
        restore_generator(self.generator, state["generator"], self.config.seed + self._updates)
