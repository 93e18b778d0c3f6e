"""The tanh-Gaussian policy of SAC, RLPD and behaviour cloning, as the actor uses it.

A multi-layer perceptron gives mean and standard deviation of a normal distribution, tanh
squashes its sample into the action bounds (Haarnoja et al., "Soft Actor-Critic Algorithms and
Applications", 2018, appendix C). Pictures go through a small convolutional encoder first.

The learner trains the same arrays with torch (:mod:`user_core.policies.tanh_gaussian_torch`).
Here, without pictures, everything is numpy: importing torch would cost a restarted actor
seconds and hundreds of megabytes, and one forward pass is faster without it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np

from user_core.config import Config, setting
from user_core.errors import ConfigError, PolicyError, SpecError
from user_core.interfaces import Policy
from user_core.policies.features import FeatureLayout
from user_core.specs import Array, Arrays, RobotSpec

#: Normalised inputs are cut here: one odd reading must not decide alone.
INPUT_LIMIT = 10.0
NORM_EPSILON = 1e-5

_Forward = Callable[[Arrays], Array]


@dataclass(frozen=True)
class TanhGaussianConfig(Config):
    """Shape of the networks."""

    hidden: tuple[int, ...] = setting(
        (256, 256), doc="Units of the hidden layers.", ge=1, le=8192, min_length=1, max_length=16
    )
    layer_norm: bool = setting(False, doc="Normalise each hidden layer before its bias.")
    log_std_min: float = setting(-10.0, doc="Smallest logarithm of the standard deviation.", ge=-20)
    log_std_max: float = setting(2.0, doc="Largest logarithm of the standard deviation.", le=5)
    observations: tuple[str, ...] = setting(
        (), doc="Observation arrays to use; empty for all that the robot has."
    )
    ignored_observations: tuple[str, ...] = setting(
        (), doc="Observation arrays to leave out, where the robot has them."
    )
    normalization: Literal["bounds", "data"] = setting(
        "bounds",
        doc="Numbers are scaled by their bounds in the spec, or by the spread of the first data: "
        "for precision work, where an arm moves by centimetres within bounds of metres.",
    )
    normalization_calls: int = setting(
        20, doc="Calls of the learner's update that settle the scale from data.", ge=1
    )
    image_channels: tuple[int, ...] = setting(
        (32, 32, 64, 64), doc="Channels of the convolutions (3x3, stride 2).", ge=1, min_length=1
    )
    image_embedding: int = setting(64, doc="Numbers that each picture is reduced to.", ge=1)
    seed: int = setting(0, doc="Seed of first weights and exploration noise.", ge=0)

    def validate(self) -> None:
        if self.log_std_min > self.log_std_max:
            raise ConfigError(
                "log_std_min", got=self.log_std_min, expected=f"<= log_std_max {self.log_std_max}"
            )


class TanhGaussianLayout:
    """Names, shapes and first values of the arrays of a tanh-Gaussian policy.

    ==========================================  ==============================================
    ``input.offset``, ``input.scale``           (O,); the network sees (x - offset) * scale
    ``layer<i>.weight``, ``layer<i>.bias``      (inputs, units), (units,); hidden layers
    ``head.weight``, ``head.bias``              (units, 2 A): mean, then log of the std
    ``encoder.<image>.conv<i>.weight``, ...     (out, in, 3, 3), (out,)
    ``encoder.<image>.embed.weight``, ...       (pixels x channels, Z), (Z,)
    ==========================================  ==============================================

    Args:
        config: Shape of the networks.
        spec: The robot's.

    Raises:
        SpecError: The action has no finite bounds, or is not made of floats.
    """

    def __init__(self, config: TanhGaussianConfig, spec: RobotSpec) -> None:
        action = spec.action
        if not action.dtype.startswith("float") or action.low is None or action.high is None:
            raise SpecError(
                f"action of {spec.robot!r} for a tanh-Gaussian policy",
                got=f"{action.dtype}, low {action.low}, high {action.high}",
                expected="floats with finite bounds",
                hint="Give the robot's action bounds, or choose another policy",
            )
        self.config, self.action = config, action
        self.features = FeatureLayout(spec, config.observations, config.ignored_observations)
        low, high = action.low_array.astype(np.float64), action.high_array.astype(np.float64)
        self.action_middle = ((low + high) / 2).astype(np.float32)
        self.action_half = ((high - low) / 2).astype(np.float32)
        inputs = self.features.state_size + config.image_embedding * len(self.features.image_names)
        sizes = (inputs, *config.hidden)
        self.feature_size = inputs
        self.shapes: dict[str, tuple[int, ...]] = {
            "input.offset": (self.features.state_size,),
            "input.scale": (self.features.state_size,),
        }
        for i, (rows, columns) in enumerate(pairwise(sizes)):
            self.shapes[f"layer{i}.weight"] = (rows, columns)
            self.shapes[f"layer{i}.bias"] = (columns,)
        self.shapes["head.weight"] = (sizes[-1], 2 * action.size)
        self.shapes["head.bias"] = (2 * action.size,)
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

    def _encoder_shapes(self, image: str) -> dict[str, tuple[int, ...]]:
        height, width, channels = self.features.specs[image].shape
        shapes: dict[str, tuple[int, ...]] = {}
        for i, out in enumerate(self.config.image_channels):
            shapes[f"encoder.{image}.conv{i}.weight"] = (out, channels, 3, 3)
            shapes[f"encoder.{image}.conv{i}.bias"] = (out,)
            height, width, channels = (height + 1) // 2, (width + 1) // 2, out
        size = self.config.image_embedding
        shapes[f"encoder.{image}.embed.weight"] = (height * width * channels, size)
        shapes[f"encoder.{image}.embed.bias"] = (size,)
        return shapes


class TanhGaussianPolicy(Policy):
    """Acts; see the module for what it is, and :class:`TanhGaussianLayout` for its arrays."""

    Config = TanhGaussianConfig

    def __init__(self, config: TanhGaussianConfig, spec: RobotSpec) -> None:
        self.config, self.spec = config, spec
        self.layout = TanhGaussianLayout(config, spec)
        self._rng = np.random.default_rng(config.seed)
        self._low, self._high = spec.action.low_array, spec.action.high_array
        self.load(self.layout.initial(np.random.default_rng(config.seed)))

    def act(self, observation: Arrays, *, deterministic: bool = False) -> Array:
        """One action, shape (1, A): a sample, or the squashed mean when ``deterministic``."""
        head = self._forward(observation)
        size = head.size // 2
        raw = head[:size]
        if not deterministic:
            low, high = self.config.log_std_min, self.config.log_std_max
            log_std = np.minimum(np.maximum(head[size:], low), high)
            raw = raw + np.exp(log_std) * self._rng.standard_normal(size, dtype=np.float32)
        action = self.layout.action_middle + self.layout.action_half * np.tanh(raw)
        action = action.astype(self.spec.action.dtype, copy=False)
        bounded: Array = np.minimum(np.maximum(action, self._low), self._high)
        return bounded[None]

    def arrays(self) -> dict[str, Array]:
        return {name: array.copy() for name, array in self._arrays.items()}

    def load(self, arrays: Arrays) -> None:
        self.layout.check(arrays)
        taken = {name: np.array(arrays[name], order="C") for name in self.layout.shapes}
        forward = self._torch(taken) if self.layout.features.image_names else self._numpy(taken)
        self._arrays, self._forward = taken, forward

    def _numpy(self, arrays: dict[str, Array]) -> _Forward:
        """The forward pass in numpy, on buffers of its own: (2 A,) from an observation."""
        vector = self.layout.features.vector
        offset, scale = arrays["input.offset"], arrays["input.scale"]
        layers = [
            (arrays[f"layer{i}.weight"], arrays[f"layer{i}.bias"], np.empty(units, np.float32))
            for i, units in enumerate(self.config.hidden)
        ]
        head_weight, head_bias = arrays["head.weight"], arrays["head.bias"]
        layer_norm = self.config.layer_norm

        def forward(observation: Arrays) -> Array:
            x = (vector(observation) - offset) * scale
            np.minimum(np.maximum(x, -INPUT_LIMIT, out=x), INPUT_LIMIT, out=x)
            for weight, bias, units in layers:
                np.dot(x, weight, out=units)
                if layer_norm:
                    units -= units.mean()
                    units /= np.sqrt(np.dot(units, units) / units.size + NORM_EPSILON)
                np.maximum(np.add(units, bias, out=units), 0, out=units)
                x = units
            head: Array = np.dot(x, head_weight) + head_bias
            return head

        return forward

    def _torch(self, arrays: dict[str, Array]) -> _Forward:
        """The forward pass with torch, where there are pictures: (2 A,) from an observation."""
        from user_core.policies.tanh_gaussian_torch import observation_forward

        return observation_forward(self.layout, arrays)
