"""What algorithms train of policies that generate chunks: scales from data, and the loss. Imports torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from user_core.errors import SpecError
from user_core.policies.features import FeatureLayout
from user_core.policies.generative.backbones import Perceptron, Transformer
from user_core.policies.generative.coding import ChunkCode
from user_core.policies.generative.config import ChunkConfig, GenerativeConfig
from user_core.policies.generative.mlp import PerceptronLayout
from user_core.policies.generative.objectives import Given, Model, Objective
from user_core.policies.generative.velocity import PLAIN, Velocity
from user_core.policies.image_encoders.config import require_same_encoder
from user_core.policies.language.config import INSTRUCTION, TASK
from user_core.policies.settling import SettlingScales, quantiles
from user_core.policies.tanh_gaussian_network import soft_limit_batch
from user_core.policies.torch_policy import batch_inputs
from user_core.specs import Array, Arrays

#: Least half width of what data show, as a share of half the bounds, and where there are none.
_LEAST_SHARE, _LEAST_UNBOUNDED = 0.02, 0.01
#: Actions within half a thousandth of their range do not move.
_LEAST_ACTION = 1e-3
#: In the order of ``statistics_calls``.
_SCALES = ("inputs", "actions")


class ChunkNetwork(SettlingScales):
    """Inputs, scales and arrays of a :class:`~user_core.interfaces.LossNetwork` over chunks.

    Scales settle within the first ``normalization_calls`` calls of :meth:`observe` and
    :meth:`observe_actions`, and then stay: weights that were learned go on meaning what they did.

    Args:
        config: Of the policy.
        features: What it sees.
        code: Of its chunks.
    """

    eye_key: Tensor
    instructions: Tensor
    input_offset: Tensor
    input_scale: Tensor
    action_offset: Tensor
    action_scale: Tensor
    statistics_inputs: Tensor
    statistics_actions: Tensor
    statistics_calls: Tensor

    def __init__(self, config: ChunkConfig, features: FeatureLayout, code: ChunkCode) -> None:
        super().__init__(config.normalization_calls)
        self.config, self.features, self.code, self.rows = config, features, code, config.rows
        size = code.size
        self.register_buffer("input_offset", torch.from_numpy(features.offset.copy()))
        self.register_buffer("input_scale", torch.from_numpy(features.scale.copy()))
        self.register_buffer("action_offset", torch.zeros(size))
        self.register_buffer("action_scale", torch.ones(size))
        self.register_buffer("statistics_inputs", torch.zeros((2, features.state_size)).double())
        self.register_buffer("statistics_actions", torch.zeros((2, size)).double())
        self.register_buffer("statistics_calls", torch.zeros(2, dtype=torch.int64))
        #: Instructions on the host, where batches say which task each row is of.
        self._table: Tensor | None = None
        least = features.least_spreads(_LEAST_SHARE, _LEAST_UNBOUNDED)
        self._least = torch.from_numpy(least)
        #: Embeddings of the tasks' instructions, and none, (n + 1, I).
        table = np.zeros((len(config.language.tasks) + 1, config.language.size), np.float32)
        if config.language.tasks:
            self.register_buffer("instructions", torch.from_numpy(table))
        #: What features of images are stored by, beside the images; None: it sees pixels.
        self.frozen_encoder: Any = None
        self._encoder_unknown = False
        if config.image_encoder.frozen and features.image_names:
            from user_core.policies.image_encoders.pretrained import frozen_encoder

            self.frozen_encoder = frozen_encoder(config.image_encoder)
            self._encoder_unknown = True
            key = self.frozen_encoder.key.astype("f4")
            self.register_buffer("eye_key", torch.from_numpy(key))  # the name in weights that exist

    def inputs(self, observation: Arrays) -> dict[str, Tensor]:
        """``state``, (B, O) float32, and images under their names; depth as float32 in m; an instruction, (B, I)."""
        found = batch_inputs(self.features, observation)
        if not self.config.language.tasks:
            return found
        if INSTRUCTION in observation:
            found[INSTRUCTION] = torch.as_tensor(observation[INSTRUCTION])
        elif TASK in observation:
            if self._table is None:
                self._table = self.instructions.cpu()
            table = self._table
            found[INSTRUCTION] = table[torch.as_tensor(observation[TASK]).clamp_max(len(table) - 1)]
        else:
            raise SpecError(
                "observations of a batch for a policy of several tasks", got=sorted(observation),
                expected=f"{TASK}, which task each is of",
                hint="A ReplaySource gives it, told of policy.tasks",
            )  # fmt: skip
        return found

    def observe(self, *inputs: Mapping[str, Tensor]) -> None:
        """Settle the scale of what is seen."""
        if self._encoder_unknown:  # a checkpoint may have brought another key
            require_same_encoder(self.frozen_encoder.key, self.eye_key.cpu().numpy())
            self._encoder_unknown = False
        state = torch.cat([one["state"] for one in inputs])
        self._settle(
            "inputs", self.config.normalization, state, self.statistics_inputs, self._least,
            self.input_offset, self.input_scale,
        )  # fmt: skip

    def observe_actions(self, action: Tensor, weight: Tensor | None) -> None:
        """Settle the scale of actions (B, T x A), of which ``weight`` says which are there."""
        how = self.config.action_normalization
        if how == "bounds" or self.has_settled("actions"):
            return
        moved = self.code.moved
        rows = self.code.encode_batch(action)[..., :moved].flatten(0, 1)
        if weight is not None:
            rows = rows[self.code.weights(weight).flatten(0, 1)[:, :moved].sum(1) > 0]
        if not moved or not len(rows):
            return
        least = torch.full_like(rows[0], _LEAST_ACTION)
        self._settle(
            "actions", how, rows, self.statistics_actions[:, :moved], least,
            self.action_offset[:moved], self.action_scale[:moved],
        )  # fmt: skip

    @torch.no_grad()
    def keep_settled(self) -> None:
        """Scales that weights brought with them stay: what was learned means what it did."""
        features, most = self.features, self.config.normalization_calls
        first = (
            torch.from_numpy(a).to(self.input_offset) for a in (features.offset, features.scale)
        )
        seen = (self.input_offset, self.input_scale)
        if not all(torch.equal(now, then) for now, then in zip(seen, first, strict=True)):
            self.statistics_calls[0] = most
        if self.action_offset.any() or not (self.action_scale == 1).all():
            self.statistics_calls[1] = most

    def buffers_changed(self) -> None:
        """Buffers have been loaded: which scales have settled, and the instructions, are looked up again."""
        super().buffers_changed()
        self._table = None

    @torch.no_grad()
    def _settle(
        self, name: str, how: str, rows: Tensor, sums: Tensor, least: Tensor,
        offset: Tensor, scale: Tensor,
    ) -> None:  # fmt: skip
        if how == "bounds":
            return
        count = self.statistics_calls[_SCALES.index(name)]
        if (found := self.counted(name, count, rows)) is None:
            return
        calls, exact = found
        if how == "data":
            seen = torch.stack([exact.mean(0), exact.square().mean(0)])
        else:
            seen = quantiles(exact, (self.config.quantile, 1 - self.config.quantile))
        sums.lerp_(seen, 1 / (calls + 1))
        if how == "data":
            middle, half = sums[0], (sums[1] - sums[0].square()).clamp_min(0).sqrt()
        else:
            middle, half = sums.mean(0), (sums[1] - sums[0]) / 2
        offset.copy_(middle)
        scale.copy_(1 / torch.maximum(half.float(), least.to(half.device)))

    def arrays(self) -> dict[str, Array]:
        """What an actor needs, by the names that torch gives; a copy."""
        return {name: tensor.cpu().numpy().copy() for name, tensor in self.tensors().items()}

    def tensors(self) -> dict[str, Tensor]:
        """The same, where they are; not copies."""
        return {
            name: tensor.detach()
            for name, tensor in self.state_dict().items()
            if not name.startswith("statistics_")
        }

    def normalised(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """The numbers, (B, O), and those of the instruction behind them."""
        state = soft_limit_batch((inputs["state"] - self.input_offset) * self.input_scale)
        return torch.cat([state, inputs[INSTRUCTION]], 1) if INSTRUCTION in inputs else state

    def summary(self, inputs: Mapping[str, Tensor], context: Tensor) -> Tensor:
        """What critics may see, (B, F): numbers, and where there are tokens their mean."""
        state = self.normalised(inputs)
        return state if context.dim() == 2 else torch.cat([state, context.mean(1)], 1)

    def scaled(self, action: Tensor) -> Tensor:
        """Actions (B, T x A) as codes in the scale of the data, (B, T, D)."""
        return (self.code.encode_batch(action) - self.action_offset) * self.action_scale

    def unscaled(self, code: Tensor) -> Tensor:
        """The way back."""
        return self.code.decode_batch(code / self.action_scale + self.action_offset)

    def bounds(self) -> tuple[Tensor, Tensor]:
        """Of codes in the scale of the data, (D,) each."""
        offset, scale = self.action_offset, self.action_scale
        return (-1 - offset) * scale, (1 - offset) * scale


def mean_of(errors: Tensor, weight: Tensor | None) -> Tensor:
    """The mean of errors (B, T, D) where they count."""
    if weight is None:
        return errors.mean()
    return (errors * weight).sum() / weight.sum().clamp_min(1e-6)


class GenerativeNetwork(ChunkNetwork):
    """Flow matching or diffusion over chunks.

    Args:
        config: Of the policy.
        features: What it sees.
        code: Of its chunks.
        objective: How noise becomes a chunk.
        perceptron: Layout of the perceptron; None for a transformer.
        velocity: How what it says is read.
    """

    def __init__(
        self, config: GenerativeConfig, features: FeatureLayout, code: ChunkCode,
        objective: Objective, perceptron: PerceptronLayout | None, arrays: Arrays | None = None,
        velocity: Velocity = PLAIN,
    ) -> None:  # fmt: skip
        super().__init__(config, features, code)
        self.generation, self.objective, self.velocity = config, objective, velocity
        self.denoiser = self._denoiser(perceptron, velocity.parts)
        if arrays is not None:
            state = {name: torch.from_numpy(np.array(array)) for name, array in arrays.items()}
            self.load_state_dict(state, strict=False)

    def _denoiser(self, perceptron: PerceptronLayout | None, parts: int) -> nn.Module:
        """A network that says ``parts`` numbers of each number of a chunk."""
        if perceptron is not None:
            return Perceptron(perceptron)
        config = self.generation
        return Transformer(
            self.features, config.rows, self.code.size, config.embedding, config.layers, config.heads,
            config.image_channels, config.image_encoder, parts,
        )  # fmt: skip

    def decaying(self) -> list[str]:
        """Names of weights that may become smaller of themselves while they learn: the matrices of perceptrons. How
        much transformers would bear was not measured."""
        return [
            f"{part}.{name}"
            for part, module in self.named_children()
            if isinstance(module, Perceptron)
            for name, parameter in module.named_parameters()
            if parameter.dim() > 1
        ]

    @property
    def acting(self) -> nn.Module:
        """The network that makes chunks, which need not be the one that learns from data."""
        return self.denoiser

    @property
    def acting_velocity(self) -> Velocity:
        """How what that one says is read."""
        return self.velocity

    @property
    def steps(self) -> int:
        """Steps in which it does."""
        return self.generation.steps

    def loss(
        self, inputs: Mapping[str, Tensor], action: Tensor, weight: Tensor | None,
        generator: torch.Generator,
    ) -> Tensor:  # fmt: skip
        """The mean squared error of what it says of noisy chunks."""
        return self.loss_of(self.context(inputs), action, weight, generator)

    def loss_of(
        self, seen: Tensor, action: Tensor, weight: Tensor | None, generator: torch.Generator
    ) -> Tensor:
        """As :meth:`loss`, from what the network sees that learns from data."""
        chunk = self.scaled(action)
        count, rows, device = len(chunk), self.rows, chunk.device
        noise = torch.randn(chunk.shape, generator=generator, device=device)
        t = torch.rand((count, 1, 1), generator=generator, device=device)
        noisy, target = self.objective.noisy(chunk, noise, t)
        counts, mask, most = None, None, self.generation.prefix_rows
        if weight is not None:
            counts = self.code.weights(weight)
        if most:
            # In half of the windows nothing is given: so plans begin, and all go on from these.
            given = torch.randint(-most, most + 1, (count, 1), generator=generator, device=device)
            given = given.clamp_min(0)
            if counts is not None:
                # The first rows that do not count are what led to the others: they are given, and not one to be
                # guessed.
                idle = (counts.amax(2).cumsum(1) == 0).sum(1, keepdim=True).clamp_max(most)
                given = idle + given * (most - idle + 1) // (most + 1)
            mask = (torch.arange(rows, device=device) < given).to(chunk.dtype)
            noisy = torch.where(mask[:, :, None] > 0, chunk, noisy)
            open_rows = (1 - mask)[:, :, None].expand_as(chunk)
            counts = open_rows if counts is None else counts * open_rows
        said = self.velocity.of(self.denoiser(seen, noisy, t[:, 0, 0], mask), noisy)
        return mean_of((said - target).square(), counts)

    def context(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """What the denoiser sees of observations; once for all steps."""
        return self.seen_by(self.acting, inputs)

    def seen_by(self, denoiser: nn.Module, inputs: Mapping[str, Tensor]) -> Tensor:
        """What one of several denoisers sees."""
        seen: Tensor = denoiser.see(self.normalised(inputs), inputs)  # type: ignore[operator]
        return seen

    def codes(self, action: Tensor) -> Tensor:
        """What critics may see of actions (B, T x A), (B, T x D)."""
        return self.code.encode_batch(action).flatten(1)

    def model(self, inputs: Mapping[str, Tensor]) -> Model:
        """What says, for what is seen, how noise becomes a chunk."""
        return BatchModel(self.acting, self.acting_velocity, self.context(inputs))

    def sample(
        self, inputs: Mapping[str, Tensor], noise: Tensor, steps: int, given: Given | None = None
    ) -> Tensor:
        """Codes of chunks in the scale of the data, (B, T, D), from noise, as it acts: all that an answer takes."""
        made: Tensor = self.objective.sample(self.model(inputs), noise, steps, self.bounds(), given)
        return made

    def generate(self, inputs: Mapping[str, Tensor], noise: Tensor) -> Tensor:
        """Chunks (B, T x A) in network units from noise (B, T, D); with gradients of both."""
        return self.generate_from(self.context(inputs), noise)

    def generate_from(self, context: Tensor, noise: Tensor) -> Tensor:
        """As :meth:`generate`, from what the denoiser sees."""
        return self.unscaled(self.codes_from(context, noise))

    def codes_from(self, context: Tensor, noise: Tensor) -> Tensor:
        """Codes of chunks in the scale of the data, (B, T, D), likewise."""
        model = BatchModel(self.acting, self.acting_velocity, context)
        made: Tensor = self.objective.sample(model, noise, self.steps, self.bounds())
        return made


class BatchModel:
    """A network with what it sees: a :class:`~user_core.policies.generative.objectives.Model`."""

    def __init__(self, denoiser: nn.Module, velocity: Velocity, context: Tensor) -> None:
        self._denoiser, self._velocity, self._context = denoiser, velocity, context

    def __call__(self, x: Tensor, t: float, mask: Tensor | None) -> Tensor:
        velocity: Tensor = self._velocity.of(self._said(x, t, mask), x)
        return velocity

    def with_noise(self, x: Tensor, t: float) -> tuple[Tensor, Tensor]:
        """Velocity, and the standard deviation of a path's noise, of chunks (B, T, D)."""
        said = self._said(x, t, None)
        return self._velocity.of(said, x), self._velocity.noise(said, x.shape[-1])

    def _said(self, x: Tensor, t: float, mask: Tensor | None) -> Tensor:
        times = x.new_full((len(x),), t)
        rows = None if mask is None else mask.expand(len(x), -1)
        said: Tensor = self._denoiser(self._context, x, times, rows)
        return said

    def with_gradient(
        self, x: Tensor, t: float, cotangent: Callable[[Tensor], Tensor]
    ) -> tuple[Tensor, Tensor, Any]:
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            said = self(x, t, None)
        wanted = cotangent(said.detach()).detach()
        (product,) = torch.autograd.grad(said, x, wanted)
        return said.detach(), wanted, product


def model_of(network: GenerativeNetwork, inputs: Mapping[str, Tensor]) -> Any:
    """The network with what it sees, without gradients of that."""
    with torch.no_grad():
        return network.model(inputs)
