"""Settings of policies that generate action chunks."""

from __future__ import annotations

from typing import ClassVar, Literal

from user_core.config import setting
from user_core.errors import ConfigError
from user_core.policies.features import SeenConfig
from user_core.policies.image_encoders.config import ImageEncoderConfig
from user_core.policies.language.config import LanguageConfig

Normalization = Literal["bounds", "data", "quantiles"]


class ChunkConfig(SeenConfig):
    """What all of them have: the chunk, what is seen, and in which scale."""

    NOT_IN_HASH: ClassVar[tuple[str, ...]] = ("device",)

    rows: int = setting(16, doc="Actions that are planned at once, T.", ge=1, le=256)
    normalization: Normalization = setting(
        "data",
        doc="Scale of the numbers seen: their bounds in the spec, mean and spread of the data, or the middle "
        "and half the range between two quantiles of the data.",
    )
    action_normalization: Normalization = setting(
        "data",
        doc="Scale of each element of actions, likewise. Small motions within wide bounds would drown in the "
        "noise that chunks are made from.",
    )
    quantile: float = setting(
        0.01, doc="The lower quantile; the upper one is 1 minus this.", gt=0, lt=0.5
    )
    normalization_calls: int = setting(
        20, doc="Calls of the learner's update that settle scales from data; then they stay.", ge=1
    )
    embedding: int = setting(128, doc="Width of the transformer.", ge=8, le=4096)
    layers: int = setting(3, doc="Layers of the transformer.", ge=1, le=32)
    heads: int = setting(4, doc="Heads of its attention.", ge=1, le=64)
    image_channels: tuple[int, ...] = setting(
        (32, 64, 128, 128),
        doc="Channels of the convolutions (3x3, stride 2); each place of the last is a token.",
        ge=1,
        min_length=1,
    )
    image_encoder: ImageEncoderConfig = setting(
        factory=ImageEncoderConfig,
        doc="A pretrained network that sees the images instead.",
        late=True,
        formerly="eye",
    )
    language: LanguageConfig = setting(
        factory=LanguageConfig, doc="Several tasks, told apart by their instructions.", late=True
    )
    device: str = setting(
        "cpu",
        doc="torch device that acts: cpu, cuda, cuda:1. What learns has a device of its own, and a perceptron acts without "
        "torch.",
    )
    seed: int = setting(0, doc="Seed of first weights and of the noise of actions.", ge=0)

    def validate(self) -> None:
        if self.embedding % self.heads:
            raise ConfigError(
                "embedding", got=self.embedding, expected=f"a multiple of heads, {self.heads}"
            )


class GenerativeConfig(ChunkConfig):
    """Chunks that are made from noise in a few steps."""

    backbone: Literal["auto", "mlp", "transformer"] = setting(
        "auto",
        doc="A multi-layer perceptron, which sees numbers only and acts without torch, or a transformer with "
        "cross-attention to the numbers and each place of each image; auto: by whether there are images.",
    )
    hidden: tuple[int, ...] = setting(
        (256, 256, 256), doc="Units of the perceptron's layers.", ge=1, le=8192, min_length=1
    )
    steps: int = setting(8, doc="Steps from noise to a chunk.", ge=1, le=100)
    deterministic_noise: float = setting(
        0.2,
        doc="Size of the noise that deterministic chunks begin with, always the same; 1: that of any other chunk. Small, "
        "it leads near the middle of one way of doing it, without the unsteadiness of who showed it; 0 is where several "
        "ways meet, which may be none.",
        ge=0,
        le=1,
        read_only=False,
    )
    prefix_rows: int = setting(
        0,
        doc="Trained to go on from up to so many rows that are given (training-time real-time chunking, Black "
        "et al. 2025); 0: given rows guide the sampling of a network that knows nothing of them. The first rows of a window that "
        "do not count (sampler.strata, before_steps) are always given, up to so many.",
        ge=0,
    )
    prefix_weights: Literal["shared", "own"] = setting(
        "shared",
        doc="own: where rows are given, what is seen also counts by weights of its own, so that plans that go on and such "
        "that begin are kept apart; shared: by the same. Of perceptrons with prefix_rows: a transformer tells given rows by "
        "their times, and has none.",
        late=True,
    )
    guidance: float = setting(
        1.0,
        doc="Largest weight of that guidance (Black et al. 2025, beta, who take 5); of a policy that was trained "
        "with prefix_rows, of the rows after those that it is given. It may differ from that of the training: actors only use it.",
        ge=0,
        counts_as=5.0,
    )

    smoothing: float = setting(
        0.0,
        doc="How far each planned row is moved towards the mean of the row before and the row after it; rows that are "
        "carried out in any case, grippers and choices stay. As what comes next is planned, too, nothing is delayed by it. It "
        "may differ from that of the training: actors only use it. 0: not at all.",
        ge=0,
        le=0.5,
        read_only=False,
        late=True,
        counts_as=0.0,
    )

    def validate(self) -> None:
        super().validate()
        if self.prefix_rows >= self.rows and self.prefix_rows:
            raise ConfigError(
                "prefix_rows", got=self.prefix_rows, expected=f"fewer than rows, {self.rows}"
            )
        if self.prefix_weights == "own" and not self.prefix_rows:
            raise ConfigError(
                "prefix_weights", got="own", expected="shared, or prefix_rows above 0"
            )


class FlowConfig(GenerativeConfig):
    """Chunks by flow matching."""

    velocity: Literal["plain", "gated"] = setting(
        "plain",
        doc="What the network says: the velocity, or a candidate and a gate that make it (SAC Flow, Zhang et al. 2025), "
        "through which gradients of rewards pass more evenly.",
        late=True,
    )
    path_noise: float = setting(
        0.0,
        doc="Largest standard deviation of the noise that a sampled chunk gets on its way, in the scale of the data; how "
        "much, the network says. sac_flow needs and trains it; 0: none.",
        ge=0,
        le=2,
        late=True,
    )
    distill: bool = setting(
        False,
        doc="Make chunks in one step, by a second network that learns where the steps lead; only that one goes to actors.",
        late=True,
    )

    def validate(self) -> None:
        super().validate()
        for name in ("path_noise", "prefix_rows"):
            if self.distill and getattr(self, name):
                raise ConfigError(
                    f"distill with {name} {getattr(self, name)}", got="both", expected="one of them",
                    hint=f"A chunk that is made at once has no steps on which {name} could act",
                )  # fmt: skip
