"""A classifier of success from images: small, trained on labelled episodes, judged on the CPU.

The model is one safetensors file: weights, and in its metadata the cameras and sizes that it was
trained on and the threshold that was chosen for it. ``user reward train`` writes it
(:mod:`user_learner.success`): several small networks, which judge together.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from user_core.config import Config, setting
from user_core.errors import SpecError
from user_core.interfaces import Reward, RewardOutcome
from user_core.rewards import model_file
from user_core.specs import Array, Arrays
from user_core.types import TaskFeedback

if TYPE_CHECKING:
    import torch

_METADATA = "user_success_classifier"
#: Layers: channels of each; every one halves the image.
_CHANNELS = (16, 32, 48, 64)
#: Numbers that images are reduced to before they are judged.
IMAGE_FEATURES = 64
#: Networks that judge together, at most: each costs as much time per step.
MOST_NETWORKS = 20


@dataclass(frozen=True)
class ClassifierModel:
    """What a model file says of itself.

    Attributes:
        cameras: Observation arrays that it looks at, with their shapes (height, width, channels).
        size: Side of the square that each image is reduced to, pixels.
        threshold: Score from which a frame shows a success, 0 to 1.
        trained_on: What it learned from, for people.
        networks: How many judge together, by the mean of their logits. Files that do not say it have one.
    """

    cameras: Mapping[str, tuple[int, ...]]
    size: int = 64
    threshold: float = 0.5
    trained_on: Mapping[str, Any] = field(default_factory=dict)
    networks: int = 1


class ClassifierConfig(Config):
    """Parameters of :class:`ClassifierReward`."""

    model: str = setting(doc="File that `user reward train` wrote.", min_length=1)
    threshold: float = setting(
        0.0,
        doc="Score from which a frame shows a success; 0: the one chosen in training.",
        ge=0,
        le=1,
    )
    hysteresis: float = setting(
        0.1, doc="A run of such frames goes on until the score is lower by this.", ge=0, le=1
    )
    frames: int = setting(2, doc="Such frames in a row that make a success.", ge=1, le=1000)
    success_reward: float = setting(
        1.0,
        doc="Reward of the step that makes the success and, where that does not end the episode, of each further one "
        "for which it lasts: to stay is worth more than to leave.",
    )
    step_reward: float = setting(0.0, doc="Reward of every other step.")
    terminates: bool = setting(True, doc="Whether a success ends the episode.")


class ClassifierReward(Reward):
    """Success when enough frames in a row look like one.

    Raises:
        ConfigError: The model is not there, or no such model.
        SpecError: The robot has other cameras than the model was trained on.
    """

    Config = ClassifierConfig

    def __init__(self, config: ClassifierConfig) -> None:
        self.config = config
        self.model, self._net = read_model(config.model)
        self._threshold = config.threshold or self.model.threshold
        self._run = 0

    def reset(self) -> None:
        self._run = 0

    def __call__(
        self, observation: Arrays, action: Array, next_observation: Arrays, task: TaskFeedback
    ) -> RewardOutcome:
        score = float(self.scores({n: a[None] for n, a in next_observation.items()})[0])
        config = self.config
        needed = self._threshold - (config.hysteresis if self._run else 0.0)
        self._run = self._run + 1 if score >= needed else 0
        success = self._run >= config.frames
        return RewardOutcome(
            config.success_reward if success else config.step_reward,
            terminated=success and config.terminates,
            success=success,
        )

    def scores(self, observation: Arrays) -> Array:
        """How much frames (B, ...) look like a success, (B,) float32, 0 to 1."""
        return score_frames(self.model, self._net, observation)


def score_frames(model: ClassifierModel, network: torch.nn.Module, observation: Arrays) -> Array:
    """How much frames (B, ...) look like a success to a network, (B,) float32, 0 to 1."""
    import torch

    with torch.no_grad():
        logits = network(image_input(model, observation))
    found: Array = torch.sigmoid(logits).numpy()
    return found


def image_input(model: ClassifierModel, observation: Arrays) -> torch.Tensor:
    """Images (B, h, w, c) as the network wants them: all cameras, reduced, (B, C, size, size), -1 to 1.

    Raises SpecError where the cameras are others."""
    import torch

    parts = []
    for name, shape in model.cameras.items():
        images = observation.get(name)
        if images is None or images.shape[1:] != tuple(shape) or images.dtype != np.uint8:
            there = {
                n: list(a.shape[1:])
                for n, a in observation.items()
                if a.ndim == 4 and a.dtype == np.uint8
            }
            raise SpecError(
                "cameras of the success classifier", got=f"{there}",
                expected=f"{ {n: list(s) for n, s in model.cameras.items()} }",
                hint="Train one on data of this robot: user reward train",
            )  # fmt: skip
        pixels = torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2).float()
        parts.append(torch.nn.functional.adaptive_avg_pool2d(pixels, model.size))
    return torch.cat(parts, dim=1) / 127.5 - 1.0


def make_network(model: ClassifierModel) -> torch.nn.Module:
    """The network, with random weights: the layers of images, and one logit; or the mean of several."""
    from torch import nn

    members = [
        nn.Sequential(*image_layers(model), nn.Linear(IMAGE_FEATURES, 1), nn.Flatten(0))
        for _ in range(model.networks)
    ]
    return members[0] if model.networks == 1 else mean_of(members)


def mean_of(members: Sequence[torch.nn.Module]) -> torch.nn.Module:
    """A network whose logit is the mean of those of its members."""
    import torch
    from torch import nn

    class Mean(nn.Module):
        """Members that judge together."""

        def __init__(self) -> None:
            super().__init__()
            self.members = nn.ModuleList(members)

        def forward(self, images: Any) -> torch.Tensor:
            return torch.stack([member(images) for member in self.members]).mean(dim=0)

    return Mean()


def image_layers(model: ClassifierModel) -> list[torch.nn.Module]:
    """From images to IMAGE_FEATURES numbers: four convolutions of stride 2, then where the most is seen."""
    from torch import nn

    channels, layers = sum(shape[-1] for shape in model.cameras.values()), list[nn.Module]()
    for out in _CHANNELS:
        layers += [nn.Conv2d(channels, out, 3, 2, 1), nn.GroupNorm(8, out), nn.ReLU()]
        channels = out
    inputs = channels * (model.size // 2 ** len(_CHANNELS)) ** 2
    return [*layers, nn.Flatten(), nn.Linear(inputs, IMAGE_FEATURES), nn.ReLU(), nn.Dropout(0.3)]


def write_model(path: str | Path, model: ClassifierModel, network: torch.nn.Module) -> None:
    """Write a model file, whole or not at all. Raises OSError."""
    model_file.write(path, _METADATA, model, network)


def read_model(path: str | Path) -> tuple[ClassifierModel, torch.nn.Module]:
    """A model file and its network. Executes nothing that is in it. Raises ConfigError."""
    return model_file.read(path, _METADATA, _made, "success classifier", "user reward train")


def _made(about: dict[str, Any]) -> tuple[ClassifierModel, torch.nn.Module]:
    model = ClassifierModel(**about)
    if not 16 <= model.size <= 512 or not model.cameras:
        raise ValueError(f"size {model.size}, cameras {model.cameras}")
    if not 1 <= model.networks <= MOST_NETWORKS:
        raise ValueError(f"{model.networks} networks")
    return model, make_network(model)
