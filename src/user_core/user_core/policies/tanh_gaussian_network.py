"""The tanh-Gaussian policy in torch, for whole batches and with gradients."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from user_core.interfaces import ActionDistribution
from user_core.policies.choices import MixedActions
from user_core.policies.tanh_gaussian_layout import INPUT_LIMIT, NORM_EPSILON, TanhGaussianLayout
from user_core.policies.torch_policy import batch_inputs, in_metres
from user_core.specs import Array, Arrays

#: Steps of uint16 are rounded: the farthest may come out a little farther.
_FAR_ROUNDING = 1 + 1e-5
#: Actions at the very bounds are moved inwards by this: there tanh has no inverse.
_MARGIN = 1e-3
#: Least spread, as a share of half the bounds: what hardly moved at first must not be blown up.
_LEAST_SHARE = 0.05
_LEAST_UNBOUNDED = 0.01
#: After the first calls the statistics go on with a step of calls ** -_CLOSING.
_CLOSING = 0.7
#: The scale follows when the spread of the data has become larger than by what they are scaled.
_GROWTH = 1.25
#: Spread of an input that moves for the first time, as a share of how far it moves.
_FIRST_SHARE = 1 / 3
#: Rows of a batch that are looked at then, about.
_LOOK_ROWS = 256
#: A normalised input that moves by less does not move.
_STILL = 1e-3
#: Calls between two looks for inputs that are far out, the share of a look, and what is many.
_FAR_EVERY, _FAR_STEP, FAR_SHARE = 8, 0.05, 0.01


class TanhGaussianNetwork(nn.Module):
    """A :class:`~user_core.interfaces.DistributionNetwork`.

    Its parameters have the names of the policy's arrays; ``input.offset`` and ``input.scale``
    are buffers. With the policy's ``normalization: bounds`` these stay what the specs say. With
    ``data`` they become mean and one over the standard deviation of the rows of the first
    calls of :meth:`observe`. After that the statistics go on, with a step that slowly closes, and
    the scale of an input follows where its spread has grown: an input that hardly moved at first
    must not stay invisible, or fill the network, for ever. :meth:`keep_outputs` then changes the
    weights so that the outputs are what they were. The offset stays.

    Args:
        layout: Names, shapes and settings.
        arrays: Weights to begin with.
        rows: Actions that are planned at once, T.
    """

    calls_left: Tensor
    sums: Tensor

    def __init__(self, layout: TanhGaussianLayout, arrays: Arrays, rows: int = 1) -> None:
        super().__init__()
        self.layout, self.rows = layout, rows
        for name, array in arrays.items():
            _place(self, name, torch.from_numpy(np.array(array)))
        features, settling = layout.features, layout.config.normalization == "data"
        calls = layout.config.normalization_calls if settling else 0
        self._settling = settling
        self.register_buffer("calls_left", torch.tensor(calls))
        self.register_buffer("sums", torch.zeros((3, features.state_size), dtype=torch.float64))
        least = features.least_spreads(_LEAST_SHARE, _LEAST_UNBOUNDED)
        self._least = torch.from_numpy(least)
        self._observed, self._far = 0, torch.zeros(features.state_size)
        self._collect()

    def inputs(self, observation: Arrays) -> dict[str, Tensor]:
        """``state``, (B, O) float32, and images under their names; depth as float32 in m."""
        return batch_inputs(self.layout.features, observation)

    def observe(self, *inputs: Mapping[str, Tensor]) -> None:
        """Settle offset and scale, while they are not; then let the scale follow the data."""
        if self._observed % _FAR_EVERY == 0:
            self._count_far(inputs)
        self._observed += 1
        if not self._settling:
            return
        self.calls_left -= 1
        if int(self.calls_left) < 0:
            self._follow(torch.cat([_some_rows(one["state"]) for one in inputs]).double())
            return
        for one in inputs:
            exact = one["state"].double()
            self.sums += torch.stack(
                [torch.full_like(exact[0], len(exact)), exact.sum(0), exact.square().sum(0)]
            )
        mean = self.sums[1] / self.sums[0]
        spread = (self.sums[2] / self.sums[0] - mean.square()).clamp_min(0).sqrt()
        self._offset.copy_(mean)
        self._scale.copy_(1 / torch.maximum(spread, self._least.to(spread.device)))

    def statistics(self) -> tuple[Tensor, Tensor] | None:
        """Scale and sums before :meth:`observe`, for :meth:`keep_outputs`; None while they settle."""
        if not self._settling or int(self.calls_left) > 0:
            return None
        return self._scale.clone(), self.sums.clone()

    @torch.no_grad()
    def keep_outputs(self, before: tuple[Tensor, Tensor]) -> Tensor | None:
        """Change the first layer so that another scale gives the outputs of before.

        Args:
            before: What :meth:`statistics` gave.

        Returns:
            What rows of the first layer were multiplied by, (O,), for other networks that have
            the same features; None when nothing changed. 1 for inputs that had never moved:
            weights that no data have shaped yet are no reason to keep anything.
        """
        scale, sums = before
        if torch.equal(scale, self._scale):
            return None
        factors = torch.where(self._constant(sums), 1.0, scale / self._scale)
        self._tensors["layer0.weight"].data[: len(factors)].mul_(factors[:, None])
        return factors

    def far_inputs(self) -> list[tuple[str, float]]:
        """Inputs of which many values lie beyond the limit lately, with the share of these."""
        names = self.layout.features.names()
        shares = zip(names, self._far.tolist(), strict=True)
        return [(name, share) for name, share in shares if share > FAR_SHARE]

    def _follow(self, state: Tensor) -> None:
        """One step of the statistics; the scale of inputs whose spread has grown falls."""
        calls = self.layout.config.normalization_calls - int(self.calls_left)
        step = calls**-_CLOSING
        still, deviation = self._constant(self.sums), state - self._offset
        moments = torch.stack([torch.ones_like(state[0]), state.mean(0), state.square().mean(0)])
        self.sums.copy_((1 - step) * self.sums / self.sums[0] + step * moments)
        moved = deviation.abs() * self._scale > _STILL
        # The first that an input ever moves is the best guess of how far it will; most of the time
        # it does not move, so that its spread is less.
        first = ((deviation.square() * moved).sum(0) / moved.sum(0).clamp_min(1)).sqrt()
        first = _FIRST_SHARE * first
        spread = torch.where(still & moved.any(0), first, self._spread(self.sums)).float()
        scale = 1 / torch.maximum(spread, self._least.to(spread.device))
        self._scale.copy_(torch.where(scale * _GROWTH < self._scale, scale, self._scale))

    def _spread(self, sums: Tensor) -> Tensor:
        """Root of the mean square of what lies between inputs and their offset, (O,)."""
        _, mean, square = sums / sums[0].clamp_min(1e-300)
        offset = self._offset.double()
        spread: Tensor = (square - 2 * offset * mean + offset.square()).clamp_min(0).sqrt()
        return spread

    def _constant(self, sums: Tensor) -> Tensor:
        """Which inputs have never moved, (O,) bool."""
        resolution = 1e-2 * self._least.to(sums.device) + 1e-6 * self._offset.abs()
        return self._spread(sums) < resolution

    @torch.no_grad()
    def _count_far(self, inputs: tuple[Mapping[str, Tensor], ...]) -> None:
        if self._settling and int(self.calls_left) > 0:
            return
        far = torch.zeros_like(self._offset)
        for one in inputs:
            state = (_some_rows(one["state"]) - self._offset) * self._scale
            far += (state.abs() > INPUT_LIMIT).float().mean(0) / len(inputs)
        self._far = self._far.to(far.device).lerp(far, _FAR_STEP)

    def encode(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Normalised numbers, and an embedding of each image, (B, F).

        Images go through convolutions of stride 2, a linear layer, layer normalisation and
        tanh, as in DrQ (Kostrikov et al. 2020), with the stride in every layer to be affordable
        on a CPU.
        """
        state = (inputs["state"] - self._offset) * self._scale
        state = soft_limit_batch(state)
        names = self.layout.features.image_names
        if not names:
            return state
        images = [_encode(self._tensors, f"encoder.{n}", self._seen(n, inputs[n])) for n in names]
        return torch.cat([state, *images], 1)

    def _seen(self, name: str, image: Tensor) -> Tensor:
        """An image as its convolutions see it, or features of a pretrained encoder, (B, N x K, C)."""
        if not self.layout.is_pretrained(name):
            return self._channels(name, image)
        seen: Tensor = self.layout.image_encoder.of_frames(image)
        return seen

    def _channels(self, name: str, image_bhwc: Tensor) -> Tensor:
        """An image as its encoder sees it, (B, C, H, W) float32 from -1 to 1.

        Of depth: its range from 0 to the farthest, and 0 in holes; and 1 where it was measured, -1 in holes.
        A hole is what is not above 0, not finite, or beyond the range.
        """
        depth = self.layout.features.depths.get(name)
        if depth is None:  # channels last: no copy
            return image_bhwc.permute(0, 3, 1, 2).float().mul_(1 / 127.5).sub_(1)
        far_m, metres = depth[1], image_bhwc.permute(0, 3, 1, 2)
        measured = (metres > 0) & (metres <= far_m * _FAR_ROUNDING)
        scaled = torch.where(measured, metres * (2 / far_m) - 1, torch.zeros_like(metres))
        return torch.cat([scaled, measured.to(scaled.dtype) * 2 - 1], 1)

    def distribution(self, features: Tensor) -> ActionDistribution:
        """Of the actions, from features (B, F)."""
        config, scale = self.layout.config, self.layout.scale
        if not scale.counts:
            mean, log_std = self._head(features).chunk(2, dim=1)
            return TanhGaussian(mean, log_std.clamp(config.log_std_min, config.log_std_max))
        mean, log_std, *logits = self._head(features).split_with_sizes(self.layout.head, 1)
        log_std = log_std.clamp(config.log_std_min, config.log_std_max)
        continuous = TanhGaussian(mean, log_std) if scale.continuous else None
        return MixedActions(scale, logits, continuous)

    def arrays(self) -> dict[str, Array]:
        """By the names of the layout; a copy."""
        return {
            name: self._tensors[name].detach().cpu().numpy().copy() for name in self.layout.shapes
        }

    def head_of_one(self, observation: Arrays) -> Array:
        """The output of the head (mean, log of the standard deviation, logits), from one
        observation."""
        with torch.inference_mode():
            features = self.layout.features
            inputs = {"state": torch.from_numpy(features.vector(observation))[None]}
            for name in features.image_names:
                image = torch.tensor(features.image(name, observation))
                inputs[name] = in_metres(features, name, image)[None]
            head: Array = self._head(self.encode(inputs))[0].float().numpy()
            return head

    def heads(self, observation: Arrays) -> Array:
        """The same of several observations, each array (B, ...): (B, H)."""
        with torch.inference_mode():
            heads: Array = self._head(self.encode(self.inputs(observation))).float().numpy()
            return heads

    def _head(self, features: Tensor) -> Tensor:
        x, tensors, config = features, self._tensors, self.layout.config
        for i, units in enumerate(config.hidden):
            weight, bias = tensors[f"layer{i}.weight"], tensors[f"layer{i}.bias"]
            if config.layer_norm:
                x = F.layer_norm(x @ weight, (units,), eps=NORM_EPSILON) + bias
            else:
                x = torch.addmm(bias, x, weight)
            x = torch.relu(x)
        return torch.addmm(tensors["head.bias"], x, tensors["head.weight"])

    def _collect(self) -> None:
        """By name, once: a look-up in a dictionary is faster than one through modules."""
        self._tensors: dict[str, Tensor] = {**dict(self.named_parameters())}
        self._tensors |= {n: b for n, b in self.named_buffers() if n.startswith("input.")}
        self._offset, self._scale = self._tensors["input.offset"], self._tensors["input.scale"]

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self._collect()  # a move to another device makes new buffers
        return self


class TanhGaussian:
    """Normal distributions, squashed by tanh: an :class:`~user_core.interfaces.ActionDistribution`.

    Args:
        mean: Before tanh, (B, A).
        log_std: Logarithm of the standard deviation before tanh, (B, A).
    """

    def __init__(self, mean: Tensor, log_std: Tensor) -> None:
        self.mean, self.log_std = mean, log_std

    @property
    def mode(self) -> Tensor:
        """The squashed mean, (B, A)."""
        return self.mean.tanh()

    def sample(self, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Actions (B, A) and their log-probability densities (B,)."""
        noise = torch.randn(self.mean.shape, generator=generator, device=self.mean.device)
        return self.transform(noise)

    def transform(self, noise: Tensor) -> tuple[Tensor, Tensor]:
        """As :meth:`sample`, from standard normal noise (B, A)."""
        raw = self.mean + self.log_std.exp() * noise
        return raw.tanh(), _log_densities(raw, self.log_std, noise).sum(1)

    def log_prob(
        self, action: Tensor, weight: Tensor | None = None, margin: float = _MARGIN
    ) -> Tensor:
        """Log-probability densities of actions in -1 to 1, (B, A) to (B,)."""
        raw = action.clamp(margin - 1, 1 - margin).atanh()
        each = _log_densities(raw, self.log_std, (raw - self.mean) / self.log_std.exp())
        return (each if weight is None else each * weight).sum(1)


def _log_densities(raw: Tensor, log_std: Tensor, noise: Tensor) -> Tensor:
    """Of tanh(raw); log(1 - tanh(x)^2) is written so that it does not overflow."""
    normal = -0.5 * noise.square() - log_std - 0.5 * math.log(2 * math.pi)
    slope = 2 * (math.log(2) - raw - F.softplus(-2 * raw))
    return normal - slope


def soft_limit_batch(state: Tensor) -> Tensor:
    """:func:`~user_core.policies.tanh_gaussian_layout.soft_limit` in torch."""
    size = state.abs()
    # on a GPU to ask would take longer than to do it
    if not size.is_cuda and (not size.numel() or size.max() <= INPUT_LIMIT):
        return state
    beyond = (size - INPUT_LIMIT).clamp(0, torch.finfo(state.dtype).max).log1p()
    return torch.copysign(size.clamp_max(INPUT_LIMIT) + beyond, state)


def _some_rows(state: Tensor) -> Tensor:
    """About :data:`_LOOK_ROWS` rows, from everywhere in a batch."""
    return state[:: max(1, len(state) // _LOOK_ROWS)]


def _encode(tensors: Mapping[str, Tensor], prefix: str, x: Tensor) -> Tensor:
    """The embedding, (B, Z), of images (B, C, H, W)."""
    i = 0
    while (weight := tensors.get(f"{prefix}.conv{i}.weight")) is not None:
        x = torch.relu(F.conv2d(x, weight, tensors[f"{prefix}.conv{i}.bias"], 2, padding=1))
        i += 1
    x = x.flatten(1) @ tensors[f"{prefix}.embed.weight"]
    x = F.layer_norm(x, (x.shape[1],), eps=NORM_EPSILON) + tensors[f"{prefix}.embed.bias"]
    return x.tanh()


def _place(module: nn.Module, name: str, tensor: Tensor) -> None:
    """Register a tensor under a dotted name, with a module for each part of it."""
    *path, leaf = name.split(".")
    for part in path:
        if part not in module._modules:
            module.add_module(part, nn.Module())
        module = module._modules[part]  # type: ignore[assignment]
    if name.startswith("input."):
        module.register_buffer(leaf, tensor)
    else:
        module.register_parameter(leaf, nn.Parameter(tensor))
