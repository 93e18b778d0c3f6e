"""Networks behind generating policies: a perceptron, a transformer, an encoder of images. Imports torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from user_core.policies.features import FeatureLayout
from user_core.policies.generative.mlp import TIME_SIZE, PerceptronLayout, frequencies
from user_core.policies.image_encoders.config import ImageEncoderConfig
from user_core.policies.tanh_gaussian_layout import DEPTH_CHANNELS

#: Steps of uint16 are rounded: the farthest may come out a little farther.
_FAR_ROUNDING = 1 + 1e-5


class TimeFeatures(nn.Module):
    """Sines and cosines of times (B,), (B, TIME_SIZE)."""

    frequencies: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("frequencies", torch.from_numpy(frequencies()), persistent=False)

    def forward(self, t: Tensor) -> Tensor:
        angles = t[..., None] * self.frequencies
        return torch.cat([angles.sin(), angles.cos()], -1)


class Perceptron(nn.Module):
    """:class:`~user_core.policies.generative.mlp.NumpyPerceptron` for batches, with gradients.

    Args:
        layout: Of its arrays, which are its parameters.
    """

    def __init__(self, layout: PerceptronLayout) -> None:
        super().__init__()
        self.layout, self.time = layout, TimeFeatures()
        for name, shape in layout.shapes.items():
            layer, leaf = name.split(".")
            if layer not in self._modules:
                self.add_module(layer, nn.Module())
            self.get_submodule(layer).register_parameter(leaf, nn.Parameter(torch.zeros(shape)))

    def see(self, state: Tensor, inputs: Mapping[str, Tensor]) -> Tensor:
        """The numbers, (B, O)."""
        return state

    def forward(self, seen: Tensor, x: Tensor, t: Tensor, mask: Tensor | None) -> Tensor:
        """What it says of chunks (B, T, D) at times (B,), (B, T, P x D)."""
        parts = [seen, self.time(t)]
        if self.layout.told:
            parts.append(x.new_zeros(x.shape[:2]) if mask is None else mask)
        h = torch.cat([*parts, x.flatten(1)], 1)
        for i in range(len(self.layout.hidden)):
            z = self._linear(f"layer{i}", h)
            if i == 0 and self.layout.apart and mask is not None:
                given: Any = self._modules["given"]
                z = z + (mask[:, :1] * seen) @ given.weight
            after = F.silu(z)
            square = i > 0 and h.shape[1] == after.shape[1]
            h = h + after if square else after
        return self._linear("head", h).view(*x.shape[:2], -1)

    def _linear(self, name: str, h: Tensor) -> Tensor:
        layer: Any = self._modules[name]
        found: Tensor = torch.addmm(layer.bias, h, layer.weight)
        return found


class Attention(nn.Module):
    """Attention of queries (B, Q, E) to what is seen (B, K, E), with several heads."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.memory = nn.Linear(width, width), nn.Linear(width, 2 * width)
        self.out = nn.Linear(width, width)

    def forward(self, query: Tensor, memory: Tensor) -> Tensor:
        def split(x: Tensor) -> Tensor:
            return x.view(*x.shape[:2], self.heads, -1).transpose(1, 2)

        keys, values = self.memory(memory).chunk(2, -1)
        found = F.scaled_dot_product_attention(split(self.query(query)), split(keys), split(values))
        out: Tensor = self.out(found.transpose(1, 2).flatten(2))
        return out


class Block(nn.Module):
    """Self-attention, cross-attention where there is something to look at, and a perceptron."""

    def __init__(self, width: int, heads: int, cross: bool = True) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(3 if cross else 2))
        self.own = Attention(width, heads)
        self.cross = Attention(width, heads) if cross else None
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor, memory: Tensor | None = None) -> Tensor:
        normed = self.norms[0](x)
        x = x + self.own(normed, normed)
        if self.cross is not None and memory is not None:
            x = x + self.cross(self.norms[1](x), memory)
        found: Tensor = x + self.down(F.gelu(self.up(self.norms[-1](x))))
        return found


class ObservationEncoder(nn.Module):
    """Observations as tokens: one for the numbers, one for each place of each image, (B, K, E).

    Args:
        features: What is seen.
        width: E.
        channels: Of the convolutions, each with stride 2.
        image_encoder: What sees images of three colours instead.
    """

    def __init__(
        self,
        features: FeatureLayout,
        width: int,
        channels: Sequence[int],
        image_encoder: ImageEncoderConfig,
    ) -> None:
        super().__init__()
        self.features = features
        self.pretrained: Any = None
        if image_encoder.used and features.image_names:
            from user_core.policies.image_encoders.pretrained import (
                PretrainedEncoder,
                frozen_encoder,
            )

            self.pretrained = (
                PretrainedEncoder(image_encoder)
                if image_encoder.trained
                else frozen_encoder(image_encoder)
            )
        self.state = nn.Sequential(
            nn.Linear(features.conditioning_size, width), nn.GELU(), nn.Linear(width, width)
        )
        # Files of weights that exist say ``eyes``.
        self.eyes, self.places = nn.ModuleList(), nn.ParameterList()
        for name in features.image_names:
            height, wide, depth = features.specs[name].shape
            if self._is_pretrained(name):
                seen = self.pretrained.channels
                self.eyes.append(nn.Sequential(nn.LayerNorm(seen), nn.Linear(seen, width)))
                count = features.history * self.pretrained.places(height, wide)
                self.places.append(nn.Parameter(0.02 * torch.randn(count, width)))
                continue
            depth = DEPTH_CHANNELS * features.history if name in features.depths else depth
            layers: list[nn.Module] = []
            for before, after in pairwise((depth, *channels)):
                groups = 8 if after % 8 == 0 else 1
                layers += [
                    nn.Conv2d(before, after, 3, 2, 1), nn.GroupNorm(groups, after), nn.ReLU()
                ]  # fmt: skip
                height, wide = (height + 1) // 2, (wide + 1) // 2
            self.eyes.append(nn.Sequential(*layers, nn.Conv2d(channels[-1], width, 1)))
            self.places.append(nn.Parameter(0.02 * torch.randn(height * wide, width)))

    def forward(self, state: Tensor, inputs: Mapping[str, Tensor]) -> Tensor:
        tokens = [self.state(state)[:, None]] if self.features.conditioning_size else []
        for name, encoder, places in zip(
            self.features.image_names, self.eyes, self.places, strict=True
        ):
            if self._is_pretrained(name):
                tokens.append(encoder(self.pretrained.of_frames(inputs[name])) + places)
                continue
            seen = encoder(self._channels(name, inputs[name]))
            tokens.append(seen.flatten(2).transpose(1, 2) + places)
        return torch.cat(tokens, 1)

    def _is_pretrained(self, name: str) -> bool:
        """Whether a pretrained encoder sees it."""
        return self.pretrained is not None and self.features.has_colours(name)

    def _channels(self, name: str, image_bhwc: Tensor) -> Tensor:
        """(B, C, H, W) float32 from -1 to 1; of depth also where it was measured."""
        depth = self.features.depths.get(name)
        image = image_bhwc.permute(0, 3, 1, 2)
        if depth is None:
            return image.float() / 127.5 - 1
        far_m = depth[1]
        measured = (image > 0) & (image <= far_m * _FAR_ROUNDING)
        scaled = torch.where(measured, image * (2 / far_m) - 1, torch.zeros_like(image))
        return torch.cat([scaled, measured.to(scaled.dtype) * 2 - 1], 1)


class Transformer(nn.Module):
    """Tokens of the rows of a chunk, which look at each other and at what is seen.

    Each row has its own time: a row that is given is there already, at time 1.
    """

    def __init__(
        self, features: FeatureLayout, rows: int, size: int, width: int, layers: int, heads: int,
        channels: Sequence[int], image_encoder: ImageEncoderConfig, parts: int = 1,
    ) -> None:  # fmt: skip
        super().__init__()
        self.encoder = ObservationEncoder(features, width, channels, image_encoder)
        self.enter = nn.Linear(size, width)
        self.time = nn.Sequential(
            TimeFeatures(), nn.Linear(TIME_SIZE, width), nn.SiLU(), nn.Linear(width, width)
        )
        self.places = nn.Parameter(0.02 * torch.randn(rows, width))
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(layers))
        self.norm, self.leave = nn.LayerNorm(width), nn.Linear(width, parts * size)
        nn.init.zeros_(self.leave.weight)
        nn.init.zeros_(self.leave.bias)

    def see(self, state: Tensor, inputs: Mapping[str, Tensor]) -> Tensor:
        """Tokens of what is seen, (B, K, E)."""
        tokens: Tensor = self.encoder(state, inputs)
        return tokens

    def forward(self, seen: Tensor, x: Tensor, t: Tensor, mask: Tensor | None) -> Tensor:
        """What it says of chunks (B, T, D) at times (B,), (B, T, P x D)."""
        times = t[:, None].expand(x.shape[:2])
        if mask is not None:
            times = torch.where(mask > 0, torch.ones_like(times), times)
        h = self.enter(x) + self.time(times) + self.places
        for block in self.blocks:
            h = block(h, seen)
        said: Tensor = self.leave(self.norm(h))
        return said
