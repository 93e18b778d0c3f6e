"""The arrays of a tanh-Gaussian policy: names, shapes, first values, and what shapes them."""

from __future__ import annotations

from itertools import pairwise
from typing import Any, Literal

import numpy as np

from user_core.config import setting
from user_core.errors import ConfigError, PolicyError
from user_core.policies.features import ActionScale, FeatureLayout, SeenConfig
from user_core.policies.image_encoders.config import ImageEncoderConfig, require_same_encoder
from user_core.specs import Array, Arrays, RobotSpec

#: Normalised inputs beyond this grow as their logarithm only: one odd reading must not decide
#: alone, but no two readings may look the same.
INPUT_LIMIT = 10.0
NORM_EPSILON = 1e-5
#: Of depth the network sees how far it is, and where it was measured.
DEPTH_CHANNELS = 2
_LARGEST = float(np.finfo(np.float32).max)


def soft_limit(normalised: Array) -> Array:
    """Inputs as they are up to :data:`INPUT_LIMIT`, beyond it by ``log(1 + excess)`` more.

    Strictly increasing, so that nothing is lost, whatever the range turns out to be.
    """
    if np.vdot(normalised, normalised) < INPUT_LIMIT**2:  # a quarter of the time of looking at each
        return normalised
    size = np.abs(normalised)
    if size.max() <= INPUT_LIMIT:
        return normalised
    beyond = np.log1p(np.clip(size - INPUT_LIMIT, 0, _LARGEST))
    limited: Array = np.copysign(np.minimum(size, INPUT_LIMIT) + beyond, normalised)
    return limited


class TanhGaussianConfig(SeenConfig):
    """Shape of the networks."""

    hidden: tuple[int, ...] = setting(
        (256, 256), doc="Units of the hidden layers.", ge=1, le=8192, min_length=1, max_length=16
    )
    layer_norm: bool = setting(False, doc="Normalise each hidden layer before its bias.")
    log_std_min: float = setting(-10.0, doc="Smallest logarithm of the standard deviation.", ge=-20)
    log_std_max: float = setting(2.0, doc="Largest logarithm of the standard deviation.", le=5)
    normalization: Literal["bounds", "data"] = setting(
        "bounds",
        doc="Numbers are scaled by their bounds in the spec, or by the spread of the data: "
        "for precision work, where an arm moves by centimetres within bounds of metres.",
    )
    normalization_calls: int = setting(
        20,
        doc="Calls of the learner's update that settle the scale from data; then it follows slowly.",
        ge=1,
    )
    image_channels: tuple[int, ...] = setting(
        (32, 32, 64, 64), doc="Channels of the convolutions (3x3, stride 2).", ge=1, min_length=1
    )
    image_embedding: int = setting(64, doc="Numbers that each image is reduced to.", ge=1)
    image_encoder: ImageEncoderConfig = setting(
        factory=ImageEncoderConfig,
        doc="A pretrained network that sees images of three colours instead of convolutions; frozen.",
        late=True,
        formerly="eye",
    )
    seed: int = setting(0, doc="Seed of first weights and exploration noise.", ge=0)

    def validate(self) -> None:
        if self.image_encoder.trained:
            raise ConfigError(
                "image_encoder.trained", got=True, expected="a frozen encoder in this policy",
                hint="flow, diffusion and act can train theirs",
            )  # fmt: skip
        if self.log_std_min > self.log_std_max:
            raise ConfigError(
                "log_std_min", got=self.log_std_min, expected=f"<= log_std_max {self.log_std_max}"
            )


class TanhGaussianLayout:
    """Names, shapes and first values of the arrays of a tanh-Gaussian policy.

    ==========================================  ==============================================
    ``input.offset``, ``input.scale``           (O,); the network sees (x - offset) * scale
    ``layer<i>.weight``, ``layer<i>.bias``      (inputs, units), (units,); hidden layers
    ``head.weight``, ``head.bias``              (units, 2 C + N): mean, then log of the std of the C
                                                elements that are no choices; then the logits of
                                                the choices of the others, N of them in all
    ``encoder.<image>.conv<i>.weight``, ...     (out, in, 3, 3), (out,)
    ``encoder.<image>.embed.weight``, ...       (pixels x channels, Z), (Z,)
    ``input.eye_key``                           (8,), which frozen encoder it was learned with, if any
    ==========================================  ==============================================

    Args:
        config: Shape of the networks.
        spec: The robot's.

    Raises:
        SpecError: The action has no finite bounds, or integers that are no choices.

    Attributes:
        head: Sizes of the parts of the head: mean, log of the std, logits of each categorical element.
    """

    def __init__(self, config: TanhGaussianConfig, spec: RobotSpec) -> None:
        action = spec.action
        self.config, self.action = config, action
        self.scale = ActionScale(spec, choices=True)
        moved = len(self.scale.continuous)
        self.head: tuple[int, ...] = (moved, moved, *self.scale.counts)
        self.features = FeatureLayout(
            spec, config.observations, config.ignored_observations, config.observation_history
        )
        #: What sees images of three colours, where it is frozen; None: convolutions.
        self.image_encoder: Any = None
        if config.image_encoder.used and self.features.image_names:
            from user_core.policies.image_encoders.pretrained import frozen_encoder  # imports torch

            self.image_encoder = frozen_encoder(config.image_encoder)
        self.action_middle, self.action_half = self.scale.middle, self.scale.half
        inputs = self.features.state_size + config.image_embedding * len(self.features.image_names)
        sizes = (inputs, *config.hidden)
        self.feature_size = inputs
        self.shapes: dict[str, tuple[int, ...]] = {
            "input.offset": (self.features.state_size,),
            "input.scale": (self.features.state_size,),
        }
        if self.image_encoder is not None:
            self.shapes["input.eye_key"] = self.image_encoder.key.shape
        for i, (rows, columns) in enumerate(pairwise(sizes)):
            self.shapes[f"layer{i}.weight"] = (rows, columns)
            self.shapes[f"layer{i}.bias"] = (columns,)
        self.shapes["head.weight"] = (sizes[-1], sum(self.head))
        self.shapes["head.bias"] = (sum(self.head),)
        for name in self.features.image_names:
            self.shapes.update(self._encoder_shapes(name))

    def initial(self, rng: np.random.Generator) -> dict[str, Array]:
        """First values: Glorot-uniform weights, a head near zero (the whole range of actions
        is tried at the start), convolutions after He et al. 2015."""
        arrays: dict[str, Array] = {}
        for name, shape in self.shapes.items():
            if name == "input.offset":
                value = self.features.offset
            elif name == "input.scale":
                value = self.features.scale
            elif name == "input.eye_key":
                value = self.image_encoder.key
            elif name.endswith("bias"):
                value = np.zeros(shape)
            elif len(shape) == 4:
                value = rng.standard_normal(shape) * np.sqrt(2 / np.prod(shape[1:]))
            else:
                limit = np.sqrt(6 / sum(shape)) * (0.01 if name == "head.weight" else 1.0)
                value = rng.uniform(-limit, limit, shape)
            arrays[name] = np.array(value, np.float32)
        return arrays

    def check(self, arrays: Arrays) -> None:
        """Raise PolicyError unless these are exactly the arrays of this layout, and finite."""
        if arrays.keys() != self.shapes.keys():
            raise PolicyError(
                "arrays of a tanh-Gaussian policy",
                got=f"missing {sorted(self.shapes.keys() - arrays.keys())}, "
                f"unknown {sorted(arrays.keys() - self.shapes.keys())}",
                expected=sorted(self.shapes),
            )
        if self.image_encoder is not None:
            require_same_encoder(self.image_encoder.key, arrays["input.eye_key"])
        for name, shape in self.shapes.items():
            array = arrays[name]
            if array.shape != shape or array.dtype != np.float32:
                raise PolicyError(
                    f"array {name!r} of a tanh-Gaussian policy",
                    got=f"{array.dtype}{list(array.shape)}",
                    expected=f"float32{list(shape)}",
                )
            if not np.isfinite(array).all():
                raise PolicyError(
                    f"array {name!r} of a tanh-Gaussian policy",
                    got="numbers that are not finite", expected="finite numbers",
                    hint="The training that made it has diverged",
                )  # fmt: skip

    def is_pretrained(self, image: str) -> bool:
        """Whether the pretrained encoder sees this image."""
        return self.image_encoder is not None and self.features.has_colours(image)

    def _encoder_shapes(self, image: str) -> dict[str, tuple[int, ...]]:
        height, width, channels = self.features.specs[image].shape
        history, convolutions = self.features.history, self.config.image_channels
        channels = DEPTH_CHANNELS * history if image in self.features.depths else channels
        shapes: dict[str, tuple[int, ...]] = {}
        if self.is_pretrained(image):
            height, width, convolutions = history * self.image_encoder.places(height, width), 1, ()
            channels = self.image_encoder.channels
        for i, out in enumerate(convolutions):
            shapes[f"encoder.{image}.conv{i}.weight"] = (out, channels, 3, 3)
            shapes[f"encoder.{image}.conv{i}.bias"] = (out,)
            height, width, channels = (height + 1) // 2, (width + 1) // 2, out
        size = self.config.image_embedding
        shapes[f"encoder.{image}.embed.weight"] = (height * width * channels, size)
        shapes[f"encoder.{image}.embed.bias"] = (size,)
        return shapes
