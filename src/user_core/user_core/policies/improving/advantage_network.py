"""Advantage-conditioned policies in torch, for whole batches."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d

from user_core.errors import ConfigError
from user_core.interfaces import PolicyNetwork
from user_core.policies.features import FeatureLayout
from user_core.policies.generative.network import GenerativeNetwork
from user_core.policies.generative.objectives import Guided, Model
from user_core.policies.language.config import ADVANTAGE, TASK, TOLD
from user_core.policies.torch_policy import batch_inputs
from user_core.specs import Arrays, RobotSpec

#: What critics see of what the robot shows, (B, F), where the network itself has nothing for them.
_SEEN = "@seen"
#: Side of images there.
_SIDE = 8
#: What is asked of a network with inputs as its first argument.
_OF_INPUTS = ("loss", "ready", "encode", "context", "generate", "sample")
#: Ways of being told, so that the scale of inputs settles to what they will be.
_EVERY_WAY = (-1.0, 0.0, 1.0)


class ConditionedNetwork(PolicyNetwork, Protocol):
    """A network that may be told how good an action was: what ``advantage_conditioned`` wants, beside the loss or the
    distribution that :class:`BC <user_learner.algorithms.imitation.bc.BC>` wants."""

    def seen(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """What critics see of observations, (B, F); without gradients."""

    def with_advantage(
        self, inputs: Mapping[str, Tensor], advantage: Tensor | float
    ) -> dict[str, Tensor]:
        """Inputs that also say 1 for good, -1 for what was not, 0 for nothing, (B,)."""


class AdvantageNetwork(GenerativeNetwork):
    """A :class:`ConditionedNetwork`. A perceptron sees one number more, a transformer one token more."""

    def __init__(self, *flow: Any) -> None:
        super().__init__(*flow)
        self._is_perceptron = flow[4] is not None
        if not self._is_perceptron:
            self.told_token = nn.Linear(1, self.config.embedding)

    @torch.no_grad()
    def seen(self, inputs: Mapping[str, Tensor]) -> Tensor:
        return self.summary(inputs, super().context(inputs))

    def with_advantage(
        self, inputs: Mapping[str, Tensor], advantage: Tensor | float
    ) -> dict[str, Tensor]:
        state = inputs["state"]
        said = advantage if isinstance(advantage, Tensor) else state.new_full((), advantage)
        said = said.to(state.device, state.dtype)
        return {**inputs, ADVANTAGE: said.expand(len(state))[:, None]}

    def model(self, inputs: Mapping[str, Tensor]) -> Model:
        good, usual = (
            super(AdvantageNetwork, self).model(self.with_advantage(inputs, said))
            for said in (1.0, 0.0)
        )
        settings: Any = self.generation
        return Guided(good, usual, settings.advantage_weight)

    def context(self, inputs: Mapping[str, Tensor]) -> Tensor:
        seen = super().context(inputs)
        said = inputs.get(ADVANTAGE)
        if said is None:
            said = seen.new_zeros((len(seen), 1))
        if self._is_perceptron:
            return torch.cat([seen, said], 1)
        return torch.cat([seen, self.told_token(said)[:, None]], 1)


class ToldNetwork:
    """A :class:`ConditionedNetwork`: that of any other policy, told in a number that it sees, or in words.

    All else that it is asked, that network answers.

    Args:
        network: Of a policy for ``spec``.
        spec: The robot's; with :data:`TOLD` among what it shows, unless words tell it.
        history: Observations that are seen at once.
        in_words: Whether the network has an instruction in words.

    Raises:
        ConfigError: The network does not see it.
    """

    def __init__(self, network: Any, spec: RobotSpec, history: int, in_words: bool) -> None:
        self._network, self._spec, self._history = network, spec, history
        self._in_words = in_words
        known = hasattr(network, "distribution") or hasattr(network, "summary")
        self._plain = None if known else FeatureLayout(spec, ignored=(TOLD,), history=history)
        self._columns: dict[str, Tensor] = {} if in_words else self._found()

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):  # of a copy that is not filled yet
            raise AttributeError(name)
        found = getattr(self._network, name)
        if name not in _OF_INPUTS:
            return found

        def of_inputs(inputs: Mapping[str, Tensor], *rest: Any, **keywords: Any) -> Any:
            return found(_bare(inputs), *rest, **keywords)

        return of_inputs

    def to(self, device: torch.device) -> ToldNetwork:
        """Move it to a device."""
        self._network.to(device)
        return self

    def inputs(self, observation: Arrays) -> dict[str, Tensor]:
        """As those of the network, asked for the good, as the policy acts; and what critics see where it does not say
        so itself."""
        found = dict(self._network.inputs(self._asked(observation)))
        if self._in_words:
            found[ADVANTAGE] = torch.ones(len(next(iter(observation.values()))))
        if self._plain is not None:
            found[_SEEN] = _plainly(self._plain, observation)
        return found

    def observe(self, *inputs: Mapping[str, Tensor]) -> None:
        """Let the scale of inputs settle, to one that all that will be said is in."""
        self._network.observe(*(self._in_every_way(one) for one in inputs))

    @torch.no_grad()
    def seen(self, inputs: Mapping[str, Tensor]) -> Tensor:
        if self._plain is not None:
            return inputs[_SEEN]
        inputs = self.with_advantage(inputs, 0.0)
        if hasattr(self._network, "distribution"):
            encoded: Tensor = self._network.encode(inputs)
            return encoded
        summary: Tensor = self._network.summary(inputs, self._network.context(inputs))
        return summary

    def with_advantage(
        self, inputs: Mapping[str, Tensor], advantage: Tensor | float
    ) -> dict[str, Tensor]:
        found = _bare(inputs)
        like = next(iter(found.values()))
        if not isinstance(advantage, Tensor):
            advantage = torch.full((), advantage, device=like.device)
        said = advantage.expand(len(like))
        if self._in_words:
            return {**found, ADVANTAGE: said}
        for name, columns in self._columns.items():
            told = found[name].clone(memory_format=torch.contiguous_format)
            flat = told.view(len(told), -1)
            flat[:, columns.to(flat.device)] = said[:, None].to(flat)
            found[name] = told
        return found

    def _in_every_way(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        rows = len(next(iter(inputs.values())))
        said = torch.tensor(_EVERY_WAY).repeat(-(-rows // len(_EVERY_WAY)))[:rows]
        return _bare(inputs) if self._in_words else self.with_advantage(inputs, said)

    def _asked(self, observation: Arrays) -> Arrays:
        if self._in_words:
            return observation
        rows = len(next(iter(observation.values())))
        lead = (rows, self._history) if self._history > 1 else (rows,)
        return {**observation, TOLD: np.ones((*lead, 1), np.float32)}

    def _found(self) -> dict[str, Tensor]:
        """Where among the inputs it stands, found by trying: columns by the name of the input."""
        lead = (1, self._history) if self._history > 1 else (1,)
        shown = {n: np.zeros((*lead, *a.shape), a.dtype) for n, a in self._spec.observation.items()}
        shown[TASK] = np.zeros(1, np.int64)
        without, told = (
            self._network.inputs({**shown, TOLD: np.full((*lead, 1), said, np.float32)})
            for said in (0.0, 1.0)
        )
        differs = {n: (without[n] != told[n]).flatten().nonzero()[:, 0] for n in without}
        found = {name: columns for name, columns in differs.items() if len(columns)}
        if not found:
            raise ConfigError(
                "policy of advantage", got=f"one that sees {sorted(without)}, and not {TOLD!r}",
                expected=f"one that looks at the number {TOLD!r}, or reads an instruction",
                hint=f"Where it says which observations it sees (observations, mapping), add {TOLD}",
            )  # fmt: skip
        return found


def _bare(inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What the network itself has made."""
    return {name: tensor for name, tensor in inputs.items() if name != _SEEN}


def _plainly(features: FeatureLayout, observation: Arrays) -> Tensor:
    """Observations (B, ...) as critics can see them without a network: numbers by their bounds, and small images, (B,
    F)."""
    inputs = batch_inputs(features, observation)
    offset, scale = torch.from_numpy(features.offset), torch.from_numpy(features.scale)
    parts = [((inputs["state"] - offset) * scale).clamp(-10, 10)]
    for name in features.image_names:
        image = inputs[name].movedim(-1, 1).float()
        largest = 255.0 if features.specs[name].dtype == "uint8" else features.depths[name][1]
        parts.append(adaptive_avg_pool2d(image / largest, _SIDE).flatten(1))
    return torch.cat(parts, 1)
