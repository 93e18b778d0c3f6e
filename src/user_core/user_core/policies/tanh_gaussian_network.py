"""The tanh-Gaussian policy in torch, for whole batches and with gradients."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from user_core.errors import SpecError
from user_core.policies.tanh_gaussian_layout import INPUT_LIMIT, NORM_EPSILON, TanhGaussianLayout
from user_core.specs import Array, Arrays

#: Actions at the very bounds are moved inwards by this: there tanh has no inverse.
_MARGIN = 1e-3
#: Least spread, as a share of half the bounds: what hardly moved at first must not be blown up.
_LEAST_SHARE = 0.05
_LEAST_UNBOUNDED = 0.01


class TanhGaussianNetwork(nn.Module):
    """A :class:`~user_core.interfaces.DistributionNetwork`.

    Its parameters have the names of the policy's arrays; ``input.offset`` and ``input.scale``
    are buffers. With the policy's ``normalization: bounds`` these stay what the specs say. With
    ``data`` they become mean and one over the standard deviation of the rows of the first
    calls of :meth:`observe`, and are then left alone: a network whose inputs keep moving must
    learn everything again.

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
        bounded = features.scale != 1.0
        least = np.where(bounded, _LEAST_SHARE / features.scale, _LEAST_UNBOUNDED)
        self._least = torch.from_numpy(least.astype(np.float32))
        self._collect()

    def inputs(self, observation: Arrays) -> dict[str, Tensor]:
        """``state``, (B, O) float32, and images under their names."""
        features = self.layout.features
        rows = len(observation[next(iter(features.specs))])
        found = {"state": torch.from_numpy(features.vectors(observation, rows))}
        for name in features.image_names:
            image = torch.as_tensor(observation[name])
            if image.shape != (rows, *features.specs[name].shape):
                raise SpecError(
                    f"images {name!r} of a batch", got=tuple(image.shape),
                    expected=(rows, *features.specs[name].shape),
                )  # fmt: skip
            found[name] = image
        return found

    def observe(self, *inputs: Mapping[str, Tensor]) -> None:
        """Settle offset and scale, while they are not."""
        if not self._settling or int(self.calls_left) == 0:
            return
        self.calls_left -= 1
        for one in inputs:
            exact = one["state"].double()
            self.sums += torch.stack(
                [torch.full_like(exact[0], len(exact)), exact.sum(0), exact.square().sum(0)]
            )
        mean = self.sums[1] / self.sums[0]
        spread = (self.sums[2] / self.sums[0] - mean.square()).clamp_min(0).sqrt()
        self._offset.copy_(mean)
        self._scale.copy_(1 / torch.maximum(spread, self._least.to(spread.device)))

    def encode(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Normalised numbers, and an embedding of each image, (B, F).

        Images go through convolutions of stride 2, a linear layer, layer normalisation and
        tanh, as in DrQ (Kostrikov et al. 2020), with the stride in every layer to be affordable
        on a CPU.
        """
        state = (inputs["state"] - self._offset) * self._scale
        state = state.clamp(-INPUT_LIMIT, INPUT_LIMIT)
        names = self.layout.features.image_names
        if not names:
            return state
        images = [_encode(self._tensors, f"encoder.{name}", inputs[name]) for name in names]
        return torch.cat([state, *images], 1)

    def distribution(self, features: Tensor) -> TanhGaussian:
        """Of the actions, from features (B, F)."""
        config = self.layout.config
        mean, log_std = self._head(features).chunk(2, dim=1)
        return TanhGaussian(mean, log_std.clamp(config.log_std_min, config.log_std_max))

    def arrays(self) -> dict[str, Array]:
        """By the names of the layout; a copy."""
        return {
            name: self._tensors[name].detach().cpu().numpy().copy() for name in self.layout.shapes
        }

    def head_of_one(self, observation: Arrays) -> Array:
        """Mean and logarithm of the standard deviation, (2 A,), from one observation."""
        with torch.inference_mode():
            features = self.layout.features
            inputs = {"state": torch.from_numpy(features.vector(observation))[None]}
            for name in features.image_names:
                inputs[name] = torch.tensor(observation[name])[None]
            head: Array = self._head(self.encode(inputs))[0].numpy()
            return head

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


def _encode(tensors: Mapping[str, Tensor], prefix: str, image_bhwc: Tensor) -> Tensor:
    x = image_bhwc.permute(0, 3, 1, 2).float().mul_(1 / 127.5).sub_(1)  # channels last: no copy
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
