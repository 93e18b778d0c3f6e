"""Action chunking with transformers (Zhao et al., "Learning fine-grained bimanual manipulation with low-cost
hardware", 2023): a variational autoencoder of chunks.

While it learns, an encoder reduces a demonstrated chunk to a latent "style"; the decoder gives the chunk from
what is seen and the style. When it acts the style is that of the prior's middle, so its chunk is one answer, and
not one of several: where people did it in several ways, take ``flow``. Its chunks are made to be averaged
(``loop.chunks.execution: ensemble``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from user_core.config import setting
from user_core.interfaces import Query
from user_core.policies.features import FeatureLayout
from user_core.policies.generative.backbones import Block, ObservationEncoder
from user_core.policies.generative.coding import ChunkCode
from user_core.policies.generative.config import ChunkConfig
from user_core.policies.generative.network import ChunkNetwork, mean_of
from user_core.policies.generative.policy import ChunkPolicy
from user_core.specs import Array, Arrays


class ActConfig(ChunkConfig):
    """Action chunking with transformers."""

    latent: int = setting(16, doc="Numbers of the style.", ge=1, le=1024)
    style_weight: float = setting(
        10.0, doc="Weight of the divergence of styles from their prior.", ge=0
    )


class ActNetwork(ChunkNetwork):
    """Encoder of styles, and decoder of chunks."""

    def __init__(self, config: ActConfig, features: FeatureLayout, code: ChunkCode) -> None:
        super().__init__(config, features, code)
        self.settings, width = config, config.embedding
        self.encoder = ObservationEncoder(
            features, width, config.image_channels, config.image_encoder
        )
        self.queries = nn.Parameter(0.02 * torch.randn(config.rows, width))
        self.of_style = nn.Linear(config.latent, width)
        self.looking = nn.ModuleList(
            Block(width, config.heads, cross=False) for _ in range(config.layers)
        )
        self.planning = nn.ModuleList(Block(width, config.heads) for _ in range(config.layers))
        self.norm, self.leave = nn.LayerNorm(width), nn.Linear(width, code.size)
        self.style_enter = nn.Linear(code.size, width)
        self.style_state = nn.Linear(features.conditioning_size, width)
        self.style_places = nn.Parameter(0.02 * torch.randn(config.rows + 2, width))
        self.styles = nn.ModuleList(
            Block(width, config.heads, cross=False) for _ in range(config.layers)
        )
        self.style_leave = nn.Linear(width, 2 * config.latent)

    def loss(
        self, inputs: Mapping[str, Tensor], action: Tensor, weight: Tensor | None,
        generator: torch.Generator,
    ) -> Tensor:  # fmt: skip
        """The mean absolute error of chunks, and the weighted divergence of styles."""
        chunk, state = self.scaled(action), self.normalised(inputs)
        counts = None if weight is None else self.code.weights(weight)
        shown = chunk if counts is None else chunk * counts
        mean, log_variance = self._style(state, shown).chunk(2, -1)
        noise = torch.randn(mean.shape, generator=generator, device=mean.device)
        planned = self._plan(state, inputs, mean + (0.5 * log_variance).exp() * noise)
        divergence = -0.5 * (1 + log_variance - mean.square() - log_variance.exp())
        error = mean_of((planned - chunk).abs(), counts)
        return error + self.settings.style_weight * divergence.sum(1).mean()

    def context(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Tokens of what is seen, (B, N, W)."""
        tokens: Tensor = self.encoder(self.normalised(inputs), inputs)
        return tokens

    def generate(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Chunks (B, T, D) in the scale of the data."""
        state = self.normalised(inputs)
        return self._plan(state, inputs, state.new_zeros((len(state), self.settings.latent)))

    def _style(self, state: Tensor, chunk: Tensor) -> Tensor:
        first = torch.zeros_like(self.style_places[:1]).expand(len(chunk), 1, -1)
        seen = self.style_state(state)[:, None]
        x = torch.cat([first, seen, self.style_enter(chunk)], 1) + self.style_places
        for block in self.styles:
            x = block(x)
        found: Tensor = self.style_leave(x[:, 0])
        return found

    def _plan(self, state: Tensor, inputs: Mapping[str, Tensor], style: Tensor) -> Tensor:
        seen = torch.cat([self.of_style(style)[:, None], self.encoder(state, inputs)], 1)
        for block in self.looking:
            seen = block(seen)
        x = self.queries.expand(len(state), -1, -1)
        for block in self.planning:
            x = block(x, seen)
        planned: Tensor = self.leave(self.norm(x))
        return planned


class ActPolicy(ChunkPolicy):
    """Acts with the middle of the prior as style: the same chunk each time."""

    Config = ActConfig

    def __init__(self, config: ActConfig, spec: Any) -> None:
        self.settings = config
        super().__init__(config, spec)

    def _fresh(self) -> ActNetwork:
        return ActNetwork(self.settings, self.features, self.code)

    def act(self, observation: Arrays, *, deterministic: bool = False) -> Array:
        return self._chunks(self._inputs(observation))[0]

    def act_batch(self, queries: Sequence[Query]) -> list[Array]:
        """Chunks for several robots by one pass, see :class:`~user_core.interfaces.BatchingPolicy`."""
        return self._chunks(self._seen(self._batch(queries)))

    def acting_calls(self) -> list[tuple[Any, str]]:
        return [(self._network, "generate")]

    def _chunks(self, inputs: dict[str, Tensor]) -> list[Array]:
        """Chunks (T, A), one for each row of a batch."""
        network: Any = self._network
        with torch.inference_mode():
            return list(self._to_robot(network.generate(inputs).float().cpu().numpy()))
