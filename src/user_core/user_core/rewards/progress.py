"""Progress towards solving a task, learned from demonstrations, as a dense reward.

A network tells from one observation which share of the way to success lies behind, 0 to 1: it was shown successful
episodes, of which time says the order of their frames (as in time-contrastive and value-ordering rewards; SARM, 2025,
does so within labelled stages, which nobody has to label here). The reward of a step is what it gained, as a
potential difference, gamma p(s') - p(s), which does not change what is best to do (Ng et al., 1999) as long as
episodes go on; one that ends keeps what it had gained, so an end near success is worth more than one far from it. A
success is when enough observations in a row look like an end.

The model is one safetensors file: weights, and in its metadata what it looks at. ``user reward train --kind progress``
writes it (:mod:`user_learner.success.progress_training`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from user_core.config import Config, setting
from user_core.errors import SpecError
from user_core.interfaces import Reward, RewardOutcome
from user_core.rewards import model_file
from user_core.rewards.classifier import IMAGE_FEATURES, ClassifierModel, image_input, image_layers
from user_core.specs import Array, Arrays
from user_core.types import TaskFeedback

if TYPE_CHECKING:
    import torch

_METADATA = "user_progress_model"
#: Images are as many features as numbers.
_FEATURES, _MOST_NUMBERS = IMAGE_FEATURES, 4096


@dataclass(frozen=True)
class ProgressModel:
    """What a model file says of itself.

    Attributes:
        cameras: Images that it looks at, with their shapes (height, width, channels).
        numbers: Other observations that it looks at, with how many numbers each has.
        size: Side of the square that each image is reduced to, pixels.
        threshold: Progress from which an observation shows a success.
        trained_on: What it learned from, for people.
    """

    cameras: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    numbers: Mapping[str, int] = field(default_factory=dict)
    size: int = 64
    threshold: float = 0.95
    trained_on: Mapping[str, Any] = field(default_factory=dict)

    @property
    def images(self) -> ClassifierModel:
        """The images alone, as a classifier has them."""
        return ClassifierModel(self.cameras, self.size)


class ProgressConfig(Config):
    """Parameters of :class:`ProgressReward`."""

    model: str = setting(doc="File that `user reward train --kind progress` wrote.", min_length=1)
    scale: float = setting(1.0, doc="Reward of the whole way from nothing to success.", ge=0)
    gamma: float = setting(
        0.99, doc="Discount of the learner, so that what is best to do stays the same.", gt=0, le=1
    )
    threshold: float = setting(
        0.0, doc="Progress from which it is a success; 0: the one chosen in training.", ge=0, le=1
    )
    frames: int = setting(2, doc="Such observations in a row that make a success.", ge=1, le=1000)
    success_reward: float = setting(
        1.0,
        doc="Reward of the step that makes the success, beside and, where that does not end the episode, of each "
        "further one for which it lasts: to stay is worth more than to leave.",
    )
    step_reward: float = setting(0.0, doc="Reward of every step, beside.")
    terminates: bool = setting(True, doc="Whether a success ends the episode.")


class ProgressReward(Reward):
    """What a step gained on the way to success.

    Raises:
        ConfigError: The model is not there, or no such model.
        SpecError: The robot shows other things than the model was trained on.
    """

    Config = ProgressConfig

    def __init__(self, config: ProgressConfig) -> None:
        self.config = config
        self.model, self._net = read_model(config.model)
        self._threshold = config.threshold or self.model.threshold
        self._run = 0

    def reset(self) -> None:
        self._run = 0

    def __call__(
        self, observation: Arrays, action: Array, next_observation: Arrays, task: TaskFeedback
    ) -> RewardOutcome:
        names = [*self.model.cameras, *self.model.numbers]
        pair = {
            name: np.stack([observation[name], next_observation[name]])
            for name in names
            if name in observation and name in next_observation
        }
        before, after = self.progress(pair).tolist()
        config = self.config
        self._run = self._run + 1 if after >= self._threshold else 0
        success = self._run >= config.frames
        reward = config.step_reward + config.scale * (config.gamma * after - before)
        return RewardOutcome(
            reward + (config.success_reward if success else 0.0),
            terminated=success and config.terminates,
            success=success,
        )

    def progress(self, observation: Arrays) -> Array:
        """Progress of observations (B, ...), (B,) float32, 0 to 1."""
        import torch

        with torch.no_grad():
            logits = self._net(*inputs_of(self.model, observation))
        found: Array = torch.sigmoid(logits).numpy()
        return found


def inputs_of(
    model: ProgressModel, observation: Arrays
) -> tuple[torch.Tensor | None, torch.Tensor | None]:
    """Observations (B, ...) as the network wants them: images (B, C, size, size), numbers (B, N).

    Raises SpecError where they are others."""
    import torch

    images = image_input(model.images, observation) if model.cameras else None
    if not model.numbers:
        return images, None
    parts = []
    for name, count in model.numbers.items():
        array = observation.get(name)
        if array is None or array[0].size != count:
            raise SpecError(
                f"observation {name!r} of the progress model",
                got="none" if array is None else f"{array[0].size} numbers", expected=f"{count} numbers",
                hint="Train one on data of this robot: user reward train --kind progress",
            )  # fmt: skip
        parts.append(np.asarray(array, np.float32).reshape(len(array), -1))
    return images, torch.from_numpy(np.concatenate(parts, axis=1))


def make_progress_network(model: ProgressModel) -> torch.nn.Module:
    """The network, with random weights: one logit of progress from images, numbers or both."""
    import torch
    from torch import nn

    class Network(nn.Module):
        """Features of images and of scaled numbers, and a small head."""

        mean: torch.Tensor
        scale: torch.Tensor

        def __init__(self) -> None:
            super().__init__()
            self.eye = nn.Sequential(*image_layers(model.images)) if model.cameras else None
            count = sum(model.numbers.values())
            self.register_buffer("mean", torch.zeros(count))
            self.register_buffer("scale", torch.ones(count))
            self.numbers = None
            if count:
                self.numbers = nn.Sequential(
                    nn.Linear(count, _FEATURES),
                    nn.ReLU(),
                    nn.Linear(_FEATURES, _FEATURES),
                    nn.ReLU(),
                )
            width = _FEATURES * (bool(model.cameras) + bool(count))
            self.head = nn.Sequential(
                nn.Linear(width, _FEATURES), nn.ReLU(), nn.Linear(_FEATURES, 1)
            )

        def forward(self, images: Any, numbers: Any) -> torch.Tensor:
            parts = []
            if self.eye is not None:
                parts.append(self.eye(images))
            if self.numbers is not None:
                scaled = ((numbers - self.mean) / self.scale).clamp(-5, 5)
                parts.append(self.numbers(scaled))
            return self.head(torch.cat(parts, dim=1))[:, 0]  # type: ignore[no-any-return]

    return Network()


def write_progress_model(path: str | Path, model: ProgressModel, network: torch.nn.Module) -> None:
    """Write a model file, whole or not at all. Raises OSError."""
    model_file.write(path, _METADATA, model, network)


def is_progress_model(path: str | Path) -> bool:
    """Whether a file says that it is such a model."""
    return model_file.is_of(path, _METADATA)


def read_model(path: str | Path) -> tuple[ProgressModel, torch.nn.Module]:
    """A model file and its network. Executes nothing that is in it. Raises ConfigError."""
    return model_file.read(
        path, _METADATA, _made, "progress model", "user reward train --kind progress"
    )


def _made(about: dict[str, Any]) -> tuple[ProgressModel, torch.nn.Module]:
    model = ProgressModel(**about)
    count = sum(model.numbers.values())
    if not 16 <= model.size <= 512 or not 0 <= count <= _MOST_NUMBERS:
        raise ValueError(f"size {model.size}, {count} numbers")
    if not model.cameras and not count:
        raise ValueError("it looks at nothing")
    return model, make_progress_network(model)
