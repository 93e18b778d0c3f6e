"""The tanh-Gaussian policy in torch, for whole batches and with gradients.

Functions over named tensors instead of modules: the names are those of the policy's arrays, so
that weights go from learner to actor as they are, and the learner may keep its parameters in
one flat tensor.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from user_core.policies.features import FeatureLayout
from user_core.policies.tanh_gaussian import INPUT_LIMIT, NORM_EPSILON, TanhGaussianLayout
from user_core.specs import Array, Arrays

Tensors = Mapping[str, Tensor]


def normalise(parameters: Tensors, state_bo: Tensor) -> Tensor:
    """Numbers as the network sees them, (B, O) to (B, O)."""
    scaled = (state_bo - parameters["input.offset"]) * parameters["input.scale"]
    return scaled.clamp(-INPUT_LIMIT, INPUT_LIMIT)


def encode(parameters: Tensors, images_bhwc: Tensors, features: FeatureLayout) -> Tensor:
    """Pictures, (B, h, w, 3) uint8 each, to one embedding (B, Z x pictures).

    Convolutions of stride 2, a linear layer, layer normalisation and tanh, as DrQ does
    (Kostrikov et al. 2020), with the stride in every layer to be affordable on a CPU.
    """
    return torch.cat(
        [_encode_one(parameters, f"encoder.{n}", images_bhwc[n]) for n in features.image_names], 1
    )


def distribution(
    parameters: Tensors, features_bf: Tensor, layout: TanhGaussianLayout
) -> tuple[Tensor, Tensor]:
    """Mean and logarithm of the standard deviation before tanh, (B, A) each."""
    x = features_bf
    for i, units in enumerate(layout.config.hidden):
        bias = parameters[f"layer{i}.bias"]
        if layout.config.layer_norm:
            x = F.layer_norm(x @ parameters[f"layer{i}.weight"], (units,), eps=NORM_EPSILON) + bias
        else:
            x = torch.addmm(bias, x, parameters[f"layer{i}.weight"])
        x = torch.relu(x)
    head = torch.addmm(parameters["head.bias"], x, parameters["head.weight"])
    mean, log_std = head.chunk(2, dim=1)
    return mean, log_std.clamp(layout.config.log_std_min, layout.config.log_std_max)


def squash(mean: Tensor, log_std: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    """A sample in -1 to 1, (B, A), and its log-probability density there, (B,).

    ``noise`` is standard normal. log(1 - tanh(x)^2) is written so that it does not overflow.
    """
    raw = mean + log_std.exp() * noise
    return raw.tanh(), _log_densities(raw, log_std, noise).sum(1)


def log_probability(
    mean: Tensor,
    log_std: Tensor,
    action: Tensor,
    weight: Tensor | None = None,
    margin: float = 1e-3,
) -> Tensor:
    """Log-probability density of actions in -1 to 1, (B, A) to (B,).

    Actions at the very bounds are moved inwards by ``margin``: there tanh has no inverse.
    ``weight``, (B, A), says how much each element counts.
    """
    raw = action.clamp(margin - 1, 1 - margin).atanh()
    each = _log_densities(raw, log_std, (raw - mean) / log_std.exp())
    return (each if weight is None else each * weight).sum(1)


def _log_densities(raw: Tensor, log_std: Tensor, noise: Tensor) -> Tensor:
    normal = -0.5 * noise.square() - log_std - 0.5 * math.log(2 * math.pi)
    slope = 2 * (math.log(2) - raw - F.softplus(-2 * raw))
    return normal - slope


def observation_forward(layout: TanhGaussianLayout, arrays: Arrays) -> Callable[[Arrays], Array]:
    """A function from one observation to mean and log std, (2 A,)."""
    parameters = {name: torch.from_numpy(array) for name, array in arrays.items()}
    features = layout.features

    def forward(observation: Arrays) -> Array:
        with torch.inference_mode():
            state = torch.from_numpy(features.vector(observation))[None]
            images = {n: torch.tensor(observation[n])[None] for n in features.image_names}
            x = torch.cat([normalise(parameters, state), encode(parameters, images, features)], 1)
            mean, log_std = distribution(parameters, x, layout)
            head: Array = torch.cat([mean, log_std], 1)[0].numpy()
            return head

    return forward


def _encode_one(parameters: Tensors, prefix: str, image_bhwc: Tensor) -> Tensor:
    x = image_bhwc.permute(0, 3, 1, 2).float().mul_(1 / 127.5).sub_(1)  # channels last: no copy
    i = 0
    while (weight := parameters.get(f"{prefix}.conv{i}.weight")) is not None:
        x = torch.relu(F.conv2d(x, weight, parameters[f"{prefix}.conv{i}.bias"], 2, padding=1))
        i += 1
    x = x.flatten(1) @ parameters[f"{prefix}.embed.weight"]
    x = F.layer_norm(x, (x.shape[1],), eps=NORM_EPSILON) + parameters[f"{prefix}.embed.bias"]
    return x.tanh()
