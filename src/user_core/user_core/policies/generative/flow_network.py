"""The network of the policy ``flow``: what algorithms train of it, and its student where it is distilled. Imports
torch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn

from user_core.interfaces import LossNetwork
from user_core.policies.features import FeatureLayout
from user_core.policies.generative.coding import ChunkCode
from user_core.policies.generative.config import FlowConfig
from user_core.policies.generative.mlp import PerceptronLayout
from user_core.policies.generative.network import BatchModel, GenerativeNetwork, mean_of
from user_core.policies.generative.objectives import Flow
from user_core.policies.generative.velocity import PLAIN, Velocity

#: What the names of the network begin with that learns from data.
_TEACHER = "denoiser."


class PathNetwork(LossNetwork, Protocol):
    """A flow whose samples have a density, as the algorithm ``sac_flow`` wants it.

    Attributes:
        code_numbers: Numbers of a chunk as critics see it, T x D.
        path_numbers: Numbers of noise on the way to it, K x T x D.
        no_paths: Why its samples have no density; empty where they have.
    """

    code_numbers: int
    path_numbers: int
    no_paths: str

    def encode(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """What critics see, and :meth:`wander`, (B, F); without gradients."""

    def seen_in(self, features: Tensor) -> Tensor:
        """What :meth:`loss_of` sees, of :meth:`encode`."""

    def loss_of(
        self, seen: Tensor, action: Tensor, weight: Tensor | None, generator: torch.Generator
    ) -> Tensor:
        """As :meth:`loss`, without what sees images."""

    def codes(self, action: Tensor) -> Tensor:
        """What critics see of actions (B, T x A), (B, T x D)."""

    def wander(self, features: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Chunks as critics see them, (B, T x D), by paths with noise, and the log-densities of these, given what they
        began with, (B,); with gradients."""


class FlowNetwork(GenerativeNetwork):
    """Flow matching over chunks; a :class:`PathNetwork` where its steps have noise.

    Args:
        config: Of the policy.
        features: What it sees.
        code: Of its chunks.
        perceptron: Layout of the network that acts; None for a transformer.
        velocity: How what the network says is read that learns from data.
    """

    generation: FlowConfig

    def __init__(
        self, config: FlowConfig, features: FeatureLayout, code: ChunkCode,
        perceptron: PerceptronLayout | None, velocity: Velocity,
    ) -> None:  # fmt: skip
        steps = perceptron
        if config.distill and perceptron is not None:
            steps = PerceptronLayout(
                perceptron.state, perceptron.rows, perceptron.size, perceptron.told,
                perceptron.hidden, velocity.parts,
            )  # fmt: skip
        super().__init__(config, features, code, Flow(), steps, velocity=velocity)
        self.code_numbers = config.rows * code.size
        self.path_numbers = config.steps * self.code_numbers
        self.no_paths = "" if config.path_noise else "path_noise is 0"
        self.student: nn.Module | None = None
        if not config.distill:
            return
        self.student = self._denoiser(perceptron, 1)
        if steps is not None:  # its weights do not go to actors, so that it must begin with some
            first = steps.initial(np.random.default_rng([config.seed, 1]))
            self.denoiser.load_state_dict({n: torch.from_numpy(a) for n, a in first.items()})

    @property
    def acting(self) -> nn.Module:
        return self.denoiser if self.student is None else self.student

    @property
    def acting_velocity(self) -> Velocity:
        return self.velocity if self.student is None else PLAIN

    @property
    def steps(self) -> int:
        return self.generation.steps if self.student is None else 1

    def tensors(self) -> dict[str, Tensor]:
        """What an actor needs: of a distilled flow the student alone."""
        found = super().tensors()
        if self.student is None:
            return found
        return {name: t for name, t in found.items() if not name.startswith(_TEACHER)}

    def loss(
        self, inputs: Mapping[str, Tensor], action: Tensor, weight: Tensor | None,
        generator: torch.Generator,
    ) -> Tensor:  # fmt: skip
        """That of flow matching; distilled, also how far from the end of the steps the student's chunks are.

        The second is the distillation of flow Q-learning (Park et al. 2025): noise goes to the same chunk in one step.
        Half of the noise is smaller than usual, by any share: deterministic chunks begin with such
        (``deterministic_noise``), and a student sees noise as it begins once only, without steps that would mend what
        it does not know.
        """
        if self.student is None:
            return super().loss(inputs, action, weight, generator)
        seen = self.seen_by(self.denoiser, inputs)  # once: images cost
        loss = self.loss_of(seen, action, weight, generator)
        shape = (len(action), self.rows, self.code.size)
        noise = torch.randn(shape, generator=generator, device=action.device)
        size = torch.rand((len(action), 1, 1), generator=generator, device=action.device)
        noise = noise * (2 * size).clamp_max(1)
        with torch.no_grad():
            model = BatchModel(self.denoiser, self.velocity, seen.detach())
            end = self.objective.sample(model, noise, self.generation.steps, self.bounds())
        said = BatchModel(self.student, PLAIN, self.context(inputs))(noise, 0.0, None)
        return loss + mean_of((noise + said - end).square(), None)

    @torch.no_grad()
    def encode(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """The numbers, or where there are images all tokens: their mean would not say where things are."""
        if not self.features.image_names:
            return self.normalised(inputs)
        return self.seen_by(self.denoiser, inputs).flatten(1)

    def seen_in(self, features: Tensor) -> Tensor:
        if self.features.image_names:
            return features.view(len(features), -1, self.config.embedding)
        seen: Tensor = self.denoiser.see(features, {})  # type: ignore[operator]
        return seen

    def wander(self, features: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        seen = self.seen_in(features)
        shape = (self.generation.steps + 1, len(features), self.rows, self.code.size)
        noise = torch.randn(shape, generator=generator, device=features.device)
        made, sizes = Flow().wander(
            BatchModel(self.denoiser, self.velocity, seen), noise[0], noise[1:]
        )
        spread = torch.stack(sizes).log() + 0.5 * (noise[1:].square() + math.log(2 * math.pi))
        code = made / self.action_scale + self.action_offset
        return self.code.settle_batch(code).flatten(1), -spread.sum((0, 2, 3))
