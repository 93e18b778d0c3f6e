"""Soft Actor-Critic (Haarnoja et al. 2018), for actions that are numbers, choices, or both.

With choices the critics give a value for each of them (:mod:`user_learner.algorithms.common.choice_values`), and
what the equations average over actions is averaged exactly (Christodoulou 2019). Choices have a temperature
of their own, since their entropy and that of continuous elements have nothing in common.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from user_core.config import Config, setting
from user_core.errors import ConfigError
from user_core.interfaces import Algorithm, DistributionNetwork, Policy
from user_core.reasons import TEMPERATURE_BOUND, Reason
from user_core.specs import Array, RobotSpec
from user_core.types import Batch
from user_learner.algorithms.common.batches import (
    Inputs,
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
from user_learner.algorithms.common.choice_values import ChoiceValues, entropy, share_at
from user_learner.algorithms.common.cuda_graph import GraphedUpdate, Places
from user_learner.algorithms.common.distributed import share_
from user_learner.algorithms.common.flat_parameters import FlatAdam, FlatParameters
from user_learner.algorithms.common.torch_tools import (
    ensemble_arrays,
    evaluate,
    generator_state,
    make_generator,
    numbers_of,
    require_parts,
    restore_generator,
    training_device,
)

#: Less is none: its logarithm must stay a number.
_MIN_TEMPERATURE = 1e-8


class SACConfig(Config):
    """Soft Actor-Critic with twin critics and automatic temperature.

    Settings that are not ``read_only`` may change between two runs of one training.
    """

    critic_hidden: tuple[int, ...] = setting(
        (256, 256), doc="Units of the critics' hidden layers.", ge=1, le=8192, min_length=1
    )
    critics: int = setting(2, doc="Members of the ensemble of critics.", ge=1, le=100)
    target_critics: int = setting(
        2, doc="Members, drawn anew at every update, whose minimum is the target.", ge=1
    )
    layer_norm: bool = setting(False, doc="Normalise the critics' hidden layers.")
    critic_updates: int = setting(
        1, doc="Critic updates per actor update; a call takes that many minibatches.", ge=1, le=100
    )
    actor_learning_rate: float = setting(
        3e-4, doc="Learning rate of Adam for the actor.", gt=0, read_only=False
    )
    critic_learning_rate: float = setting(
        3e-4, doc="Learning rate of Adam for the critics.", gt=0, read_only=False
    )
    temperature_learning_rate: float = setting(
        3e-4,
        doc="Learning rate of Adam for the temperature; 0: it stays as it is.",
        ge=0,
        read_only=False,
    )
    initial_temperature: float = setting(1.0, doc="Weight of the entropy at the start.", gt=0)
    max_temperature: float = setting(
        1000.0,
        doc="Largest temperature: where the entropy that is aimed at cannot be reached, it would "
        "grow without end. A warning says when it is there.",
        gt=0,
        read_only=False,
    )
    target_entropy_per_action: float = setting(
        -1.0, doc="Entropy aimed at, per element of the action.", read_only=False
    )
    choice_entropy: float = setting(
        0.5,
        doc="Entropy aimed at for choices, as a share of that of choosing evenly. Christodoulou 2019 has "
        "0.98, which is nearly chance.",
        ge=0,
        le=1,
        read_only=False,
    )
    choice_entropy_end: float | None = setting(
        None,
        doc="The share at the end of choice_entropy_updates, which it goes to evenly (Xu et al., Target "
        "Entropy Annealing for Discrete Soft Actor-Critic, 2021).",
        ge=0,
        le=1,
        read_only=False,
    )
    choice_entropy_updates: int = setting(
        0, doc="Critic updates within which it does.", ge=0, read_only=False
    )
    target_reduction: Literal["min", "mean"] = setting(
        "min",
        doc="What the drawn target critics become: their minimum, or their mean, where the minimum "
        "underestimates (of choices: Zhou et al., Revisiting Discrete Soft Actor-Critic, 2022).",
        read_only=False,
    )
    entropy_in_target: bool = setting(
        True, doc="Whether the critics' targets count future entropy as reward.", read_only=False
    )
    target_rate: float = setting(
        0.005, doc="Share by which target critics approach the critics at each update.", gt=0, le=1,
        read_only=False,
    )  # fmt: skip
    value_min: float | None = setting(
        None, doc="Smallest return that is possible; targets are cut there.", read_only=False
    )
    value_max: float | None = setting(
        None, doc="Largest return that is possible; targets are cut there.", read_only=False
    )
    max_grad_norm: float = setting(
        0.0,
        doc="Norm that gradients are cut to; 0: never. That of the critics is that of their mean loss, "
        "so that it means the same for any number of them.",
        ge=0,
        read_only=False,
    )
    image_shift: int = setting(
        4, doc="Largest random shift of images while learning.", unit="px", ge=0, read_only=False
    )
    device: str = setting(
        "cpu", doc="torch device that learns: cpu, cuda, cuda:1.", read_only=False
    )
    precision: Literal["float32", "bfloat16"] = setting(
        "float32", doc="Type that critics and encoders compute in.", read_only=False
    )
    cuda_graph: bool = setting(
        True,
        doc="On a GPU, launch each update as one CUDA graph: small networks are else bound by launches.",
        read_only=False,
    )
    seed: int = setting(0, doc="Seed of first weights and of all noise.", ge=0)

    def validate(self) -> None:
        if self.target_critics > self.critics:
            raise ConfigError(
                "target_critics", got=self.target_critics, expected=f"<= critics {self.critics}"
            )
        if None not in (self.value_min, self.value_max) and self.value_min >= self.value_max:  # type: ignore[operator]
            raise ConfigError("value_min", got=self.value_min, expected=f"< {self.value_max}")


# --------------------------------------------------------------------------------------------------
# The networks of SAC and RLPD: an actor, an ensemble of critics, its slow copy, an encoder
# --------------------------------------------------------------------------------------------------


class ActorCriticNetworks:
    """Parameters and forward passes.

    The encoder of images learns with the critics; the actor takes its output as given
    (Kostrikov et al. 2020). The target critics look through the same encoder (Yarats et al.,
    "Mastering visual continuous control", 2021), so that each image is encoded once.

    Args:
        config: Of the algorithm.
        policy: Its network.
        spec: The robot's.
        device: Where they live.
        action_codes: Numbers that critics see of what is done, among them choices as numbers of their own; None:
            actions as they are, and values of each choice.
    """

    def __init__(
        self, config: SACConfig, policy: DistributionNetwork, spec: RobotSpec, device: torch.device,
        action_codes: int | None = None,
    ) -> None:  # fmt: skip
        self.config, self.policy, self.device = config, policy, device
        self.dtype = getattr(torch, config.precision)
        encoder: dict[str, Tensor] = {}
        actor: dict[str, Tensor] = {}
        for name, parameter in policy.named_parameters():
            (encoder if name.startswith("encoder.") else actor)[name] = parameter
        self.encodes = bool(encoder)
        rows, size, moved, self.choices = policy.rows, spec.action.size, action_codes, None
        if moved is None:
            elements = [row * size + i for row in range(rows) for i in spec.action.categorical]
            counts = rows * list(spec.action.counts)
            moved = rows * size - len(elements)
            self.choices = ChoiceValues(elements, counts) if counts else None
        critics = ensemble_arrays(
            config.critics,
            tried(policy, nothing_seen(spec), device).shape[1] + moved,
            config.critic_hidden,
            np.random.default_rng(config.seed),
            self.choices.size if self.choices else 1,
        )
        self.actor = FlatParameters(actor, device)
        self.critics = FlatParameters({**critics, **encoder}, device)
        self.target = FlatParameters(critics, device)
        first = np.log([config.initial_temperature])
        temperatures = {"log_temperature": first} if moved else {}
        if self.choices:
            temperatures["log_choice_temperature"] = first
        self.log_temperature = FlatParameters(temperatures, device)
        for tensor in (self.actor.flat, self.critics.flat, self.target.flat):
            share_(tensor)

    def features(self, inputs: Inputs, generator: torch.Generator) -> Tensor:
        """What actor and critics see, (B, F); images are shifted at random, then encoded."""
        inputs = shifted(inputs, self.config.image_shift, generator)
        with torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32):
            return self.policy.encode(inputs).float()

    def values(
        self,
        parameters: Mapping[str, Tensor],
        features: Tensor,
        action: Tensor,
        members: Tensor | None = None,
    ) -> Tensor:
        """Values of all critics, or of some, (E, B); of each of N choices, (E, B, N), where there
        are any. ``action`` has the elements that are none."""
        values = evaluate(
            parameters,
            torch.cat([features, action], 1),
            self.config.layer_norm,
            members,
            self.dtype,
        )
        return values if self.choices is None else values.reshape(*values.shape[:2], -1)


# --------------------------------------------------------------------------------------------------
# The update of SAC
# --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Drawn:
    """What the policy does somewhere.

    Attributes:
        action: A sample of the elements that are no choices, (B, C).
        log_prob: Its log-probability density, (B,).
        choices: Log-probabilities of the choices of each categorical element, (B, n) each.
    """

    action: Tensor
    log_prob: Tensor
    choices: tuple[Tensor, ...]

    def entropies(self) -> Tensor:
        """Of the continuous elements, by the sample, and of the choices: those there are, (1 or 2, B)."""
        if not self.choices:
            return -self.log_prob[None]
        of_choices = entropy(self.choices)
        if not self.action.shape[1]:
            return of_choices[None]
        return torch.stack([-self.log_prob, of_choices])


@dataclass(frozen=True)
class Ahead:
    """The next observation's features (B, F), and what the policy does there."""

    features: Tensor
    drawn: Drawn


class SAC(Algorithm):
    """Soft Actor-Critic: twin critics, automatic temperature.

    Haarnoja et al., "Soft Actor-Critic Algorithms and Applications", 2018. One call makes
    ``critic_updates`` updates of the critics, each on its own minibatch, then one of actor and
    temperatures on the last. For choices it is discrete SAC, see the module.

    A policy that plans T actions at once is judged as a whole: critics see all of them, and the target
    has the T rewards that they brought (Li et al., "Reinforcement Learning with Action Chunking", 2025).

    Args:
        config: Parameters.
        spec: The robot's.
        policy: One whose network is a :class:`~user_core.interfaces.DistributionNetwork`; its
            weights are the first ones of the actor. For T actions at once batches are windows of T
            steps (``sampler.window``).
    """

    Config: ClassVar[type[SACConfig]] = SACConfig
    #: What it asks of a policy's network.
    needs: ClassVar[type] = DistributionNetwork

    def __init__(self, config: SACConfig, spec: RobotSpec, policy: Policy) -> None:
        name = type(self).__name__
        self.config, self.device = config, training_device(config.device)
        self.updates_per_call = config.critic_updates
        network: DistributionNetwork = network_of(policy, self.needs, name, self.device)
        codes = self._require(network, spec)
        self._minibatcher = Minibatcher(network, spec, self.device)
        self.networks = ActorCriticNetworks(config, network, spec, self.device, codes)
        size, chosen = spec.action.size, spec.action.categorical
        every = range(network.rows * size)
        self._continuous = [i for i in every if i % size not in chosen]
        self._most_choice_entropy = network.rows * sum(math.log(n) for n in spec.action.counts)
        self.generator = make_generator(config.seed, self.device)
        networks, norm = self.networks, config.max_grad_norm
        self._optimizers = {
            "actor": FlatAdam(networks.actor, config.actor_learning_rate, norm),
            # Their losses are summed, which Adam's step does not feel, and are cut as their mean.
            "critics": FlatAdam(
                networks.critics, config.critic_learning_rate, norm * config.critics
            ),
            "temperature": FlatAdam(networks.log_temperature, config.temperature_learning_rate),
        }
        self._updates = 0
        fixed = self.networks.choices is None  # how even choices are to be changes with time
        self._graphed = GraphedUpdate(self._learn_from, self.generator, config.cuda_graph and fixed)
        largest = max(config.max_temperature, config.initial_temperature)
        self._log_temperature_bounds = (math.log(_MIN_TEMPERATURE), math.log(largest))
        self._temperature, self._largest_temperature = config.initial_temperature, largest

    def _require(self, network: Any, spec: RobotSpec) -> int | None:
        """Raise PluginError unless the network can be trained; says as what critics see actions, see
        :class:`ActorCriticNetworks`."""
        require_choices(network, spec, type(self).__name__, self.device)
        return None

    def warnings(self) -> list[Reason]:
        """What a person should know of the training."""
        found = self._minibatcher.warnings()
        learns = self.config.temperature_learning_rate > 0
        if not learns or self._temperature < 0.99 * self._largest_temperature:
            return found
        return [
            *found,
            Reason(
                TEMPERATURE_BOUND,
                f"the temperature is at its bound, {self._temperature:.3g}: the entropy that is "
                "aimed at is not reached (log_std_max, target_entropy_per_action, the size of "
                "rewards)",
            ),
        ]

    def update(self, batch: Batch) -> Mapping[str, float]:
        minibatches = self._minibatcher.cut(batch, self.updates_per_call)
        if self._minibatcher.factors is not None:
            self._keep_values(self._minibatcher.factors)
        self._observe(minibatches)
        before = self._updates
        metrics = self._graphed(minibatches)
        self._updates = before + len(minibatches)
        found = numbers_of(metrics)
        self._temperature = found["temperature"]
        return found

    def give_way(self, places: Places) -> None:
        """Replay updates in short graphs, and call this between any two."""
        self._graphed.between = places
        self._graphed.forget()

    def _observe(self, minibatches: Sequence[Minibatch]) -> None:
        """Take notice of what will be learned from, before it is."""

    def _learn_from(self, minibatches: Sequence[Minibatch]) -> dict[str, Tensor]:
        """An update of the critics from each minibatch, then one of actor and temperatures."""
        networks = self.networks
        temperature = networks.log_temperature.flat.exp()
        all_ahead, each = self._look_ahead_at_once(minibatches), list[dict[str, Tensor]]()
        for minibatch, ahead in zip(minibatches, all_ahead, strict=True):
            features = networks.features(minibatch.inputs, self.generator)
            ahead = ahead or self._look_ahead(minibatch.next_inputs)
            target = self._target(minibatch, ahead, temperature)
            each.append(self._update_critics(features, minibatch, target, ahead))
            self._updates += 1
        # Of all minibatches: one with NaN must be seen, wherever in the call it was.
        metrics = {name: torch.stack([one[name] for one in each]).mean() for name in each[0]}
        return metrics | self._update_actor(features.detach(), minibatches[-1], temperature)

    @torch.no_grad()
    def _keep_values(self, factors: Tensor) -> None:
        """The critics see the policy's features: where these are scaled otherwise, the first layer
        of all is changed so that values stay, as the policy has done with its own."""
        networks, weight = self.networks, "layer0.weight"
        for critics in (networks.critics, networks.target):
            critics.frozen[weight][:, : len(factors)] *= factors[:, None]
        for name in ("actor", "critics"):
            self._optimizers[name].rescale(weight, factors)

    def policy_arrays(self) -> dict[str, Array]:
        return self.networks.policy.arrays()

    def state(self) -> dict[str, Any]:
        networks = self.networks
        return {
            "updates": self._updates,
            "actor": networks.actor.arrays(),
            "critics": networks.critics.arrays(),
            "target": networks.target.arrays(),
            "log_temperature": networks.log_temperature.arrays(),
            "inputs": buffers_state(networks.policy),
            "optimizers": {name: adam.state() for name, adam in self._optimizers.items()},
            "generator": generator_state(self.generator),
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        networks = self.networks
        require_parts(state, self.state(), type(self).__name__)
        for name in ("actor", "critics", "target", "log_temperature"):
            getattr(networks, name).load(state[name], name)
        for name, adam in self._optimizers.items():
            adam.load_state(state["optimizers"][name], name)
        load_buffers(networks.policy, state["inputs"], type(self).__name__)
        self._updates = int(state["updates"])
        restore_generator(self.generator, state["generator"], self.config.seed + self._updates)
        self._graphed.forget()

    def _look_ahead_at_once(self, minibatches: Sequence[Minibatch]) -> list[Ahead | None]:
        """For all minibatches in one pass: the actor stays as it is until all are done. Not with
        an encoder, which changes with every critic update."""
        if self.networks.encodes:
            return [None] * len(minibatches)
        rows = len(minibatches[0].action)
        inputs = {
            name: torch.cat([minibatch.next_inputs[name] for minibatch in minibatches])
            for name in minibatches[0].next_inputs
        }
        whole = self._look_ahead(inputs)
        drawn = whole.drawn
        parts = zip(
            *(
                t.split(rows)
                for t in (whole.features, drawn.action, drawn.log_prob, *drawn.choices)
            ),
            strict=True,
        )
        return [
            Ahead(features, Drawn(action, log_prob, tuple(choices)))
            for features, action, log_prob, *choices in parts
        ]

    @torch.no_grad()
    def _look_ahead(self, next_inputs: Inputs) -> Ahead:
        features = self.networks.features(next_inputs, self.generator)
        return Ahead(features, self._act(features))

    def _act(self, features: Tensor) -> Drawn:
        """What the policy does, given features (B, F)."""
        if self.networks.choices is None:
            action, log_prob = self._sample(features)
            return Drawn(action, log_prob, ())
        distribution: Any = self.networks.policy.distribution(features)
        action, log_prob = distribution.sample_continuous(self.generator)
        return Drawn(action, log_prob, tuple(distribution.choice_log_probs))

    def _sample(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Actions without choices, (B, A), and log-densities, (B,)."""
        return self.networks.policy.distribution(features).sample(self.generator)

    def _expected(self, values: Tensor, drawn: Drawn) -> Tensor:
        """Values (..., B) of what the policy does, over all of its choices."""
        choices = self.networks.choices
        return values if choices is None else choices.expected(values, drawn.choices)

    @torch.no_grad()
    def _target(self, minibatch: Minibatch, ahead: Ahead, temperature: Tensor) -> Tensor:
        """r + discount x (min over some target critics - temperature x log pi), (B,). With choices
        the minimum is that of each, and its mean over choices is taken."""
        networks, config, members = self.networks, self.config, None
        if config.target_critics < config.critics:
            order = torch.randperm(config.critics, generator=self.generator, device=self.device)
            members = order[: config.target_critics]
        values = networks.values(
            networks.target.frozen, ahead.features, ahead.drawn.action, members
        )
        least = values.amin(0) if config.target_reduction == "min" else values.mean(0)
        value = self._expected(least, ahead.drawn)
        if config.entropy_in_target:
            value = value + temperature @ ahead.drawn.entropies()
        target = torch.addcmul(minibatch.reward, minibatch.discount, value)
        if config.value_min is not None or config.value_max is not None:
            target = target.clamp(config.value_min, config.value_max)
        return target

    def _update_critics(
        self, features: Tensor, minibatch: Minibatch, target: Tensor, ahead: Ahead
    ) -> dict[str, Tensor]:
        networks = self.networks
        action = minibatch.over_the_end(self.generator)
        if networks.choices is None:
            values = networks.values(networks.critics.named, features, self._as_judged(action))
        else:
            continuous = action[:, self._continuous]
            every = networks.values(networks.critics.named, features, continuous)
            values = networks.choices.taken(every, action)
        loss = minibatch.critic_loss(values, target)
        more, metrics = self._more_of_critics(features, values, ahead)
        networks.critics.zero_grad()
        (loss if more is None else loss + more).backward()  # type: ignore[no-untyped-call]
        self._optimizers["critics"].step()
        networks.target.approach(networks.critics, self.config.target_rate)
        return {
            "critic_loss": loss.detach() / self.config.critics,
            "value": values.detach().mean(),
            "target": target.mean(),
            **metrics,
        }

    def _as_judged(self, action: Tensor) -> Tensor:
        """Actions (B, T x A) as critics see them."""
        return action

    def _more_of_critics(
        self, features: Tensor, values: Tensor, ahead: Ahead
    ) -> tuple[Tensor | None, dict[str, Tensor]]:
        """What else critics shall minimise, with metrics of it.

        Args:
            features: Of what is seen, (B, F).
            values: Of what was done there, (E, B), with gradients.
            ahead: The next observation.
        """
        return None, {}

    def _update_actor(
        self, features: Tensor, minibatch: Minibatch, temperature: Tensor
    ) -> dict[str, Tensor]:
        networks = self.networks
        entropies, value = self._worth(features)
        loss = -(temperature @ entropies + value).mean()
        more, more_metrics = self._more_of_actor(features, minibatch)
        self._step_actor(loss if more is None else loss + more)
        entropy_now = entropies.detach().mean(1)
        if self.config.temperature_learning_rate > 0:
            # d/d(log t) of t x (entropy - target): the temperature rises while entropy lacks.
            networks.log_temperature.grad.copy_(
                temperature * (entropy_now - self._target_entropies(entropy_now))
            )
            self._optimizers["temperature"].step()
            networks.log_temperature.flat.clamp_(*self._log_temperature_bounds)
        metrics = {
            "actor_loss": loss.detach(),
            "entropy": entropy_now[0],
            "temperature": temperature[0],
        }
        if len(temperature) > 1:
            metrics |= {"choice_entropy": entropy_now[1], "choice_temperature": temperature[1]}
        return metrics | more_metrics

    def _step_actor(self, loss: Tensor) -> None:
        self.networks.actor.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self._optimizers["actor"].step()

    def _more_of_actor(
        self, features: Tensor, minibatch: Minibatch
    ) -> tuple[Tensor | None, dict[str, Tensor]]:
        """What else the actor shall minimise, with metrics of it; features (B, F) are without gradients."""
        return None, {}

    def _worth(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Entropies of the policy, (1 or 2, B), and values of what it does, (B,); with its gradients."""
        networks, drawn = self.networks, self._act(features)
        values = networks.values(networks.critics.frozen, features, drawn.action)
        return drawn.entropies(), self._expected(self._value_of(values), drawn)

    def _target_entropies(self, like: Tensor) -> Tensor:
        """Entropies that are aimed at, of continuous elements and of choices, as there are any."""
        config, aimed = self.config, []
        if self._continuous:
            aimed.append(config.target_entropy_per_action * len(self._continuous))
        if self.networks.choices is not None:
            share = share_at(
                self._updates, config.choice_entropy, config.choice_entropy_end,
                config.choice_entropy_updates,
            )  # fmt: skip
            aimed.append(share * self._most_choice_entropy)
        return torch.cat([like.new_full((1,), value) for value in aimed])  # stays on its device

    def _value_of(self, values: Tensor) -> Tensor:
        """What the actor climbs, (B, ...), from the values of all critics, (E, B, ...)."""
        return values.amin(0)
