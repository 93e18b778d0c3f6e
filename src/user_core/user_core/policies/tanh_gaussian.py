"""The tanh-Gaussian policy of SAC, RLPD and behaviour cloning, as the actor uses it.

A multi-layer perceptron gives mean and standard deviation of a normal distribution, tanh
squashes its sample into the action bounds (Haarnoja et al., "Soft Actor-Critic Algorithms and
Applications", 2018, appendix C). Elements of an action that are choices have a categorical
distribution each, independent of each other and of the rest, given what is seen: for a robot whose
action is nothing but choices this is a plain categorical policy. Images go through a small
convolutional encoder first.

The learner trains the same arrays with torch (:mod:`user_core.policies.tanh_gaussian_network`).
Here, without images, everything is numpy: importing torch would cost a restarted actor
seconds and hundreds of megabytes, and one forward pass is faster without it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from user_core.interfaces import FrozenFeatures, Policy, Query
from user_core.policies.features import encoder_by_image, together
from user_core.policies.tanh_gaussian_layout import (
    NORM_EPSILON,
    TanhGaussianConfig,
    TanhGaussianLayout,
    soft_limit,
)
from user_core.specs import Array, Arrays, RobotSpec

if TYPE_CHECKING:  # imported when it is asked for, with torch
    from user_core.policies.tanh_gaussian_network import TanhGaussianNetwork

_Forward = Callable[[Arrays], Array]

__all__ = ["TanhGaussianConfig", "TanhGaussianPolicy"]


class TanhGaussianPolicy(Policy):
    """Acts; see the module for what it is, and :class:`TanhGaussianLayout` for its arrays."""

    Config = TanhGaussianConfig

    def __init__(self, config: TanhGaussianConfig, spec: RobotSpec) -> None:
        self.config, self.spec = config, spec
        self.layout = TanhGaussianLayout(config, spec)
        self.observation_history = config.observation_history
        self._rng = np.random.default_rng(config.seed)
        self.load(self.layout.initial(np.random.default_rng(config.seed)))
        self._ends = np.cumsum(self.layout.head).tolist()

    #: Actions that are planned at once, T.
    rows = 1

    @property
    def acts_without_torch(self) -> bool:
        """Where there are no images."""
        return not self.layout.features.image_names

    def network(self) -> TanhGaussianNetwork:
        """The same in torch, see :mod:`user_core.policies.tanh_gaussian_network`."""
        from user_core.policies.tanh_gaussian_network import TanhGaussianNetwork

        return TanhGaussianNetwork(self.layout, self.arrays(), self.rows)

    def image_features(self) -> Mapping[str, FrozenFeatures]:
        """A frozen encoder, for each image that it sees."""
        return encoder_by_image(self.layout.features, self.layout.image_encoder)

    def act(self, observation: Arrays, *, deterministic: bool = False) -> Array:
        """One action, shape (1, A): a sample, or when ``deterministic`` the squashed mean and the
        likeliest choices."""
        return self._act(self._forward(observation), deterministic)

    def act_batch(self, queries: Sequence[Query]) -> list[Array]:
        """Actions for several robots by one pass, see :class:`~user_core.interfaces.BatchingPolicy`."""
        heads = self._heads(together([one.observation for one in queries]), len(queries))
        return [self._act(head, one.deterministic) for head, one in zip(heads, queries)]

    def _act(self, head: Array, deterministic: bool) -> Array:
        if self.layout.scale.counts:
            return self.layout.scale.to_robot(self._chosen(head, deterministic))[None]
        return self.layout.scale.to_robot(np.tanh(self._raw(head, deterministic)))[None]

    def _heads(self, observation: Arrays, rows: int) -> Array:
        """The heads (B, H) of observations, each array (B, ...)."""
        features, arrays = self.layout.features, self._arrays
        if self._in_torch is not None:
            return self._in_torch.heads(observation)
        x = (features.vectors(observation, rows) - arrays["input.offset"]) * arrays["input.scale"]
        x = soft_limit(x)
        for i in range(len(self.config.hidden)):
            x = x @ arrays[f"layer{i}.weight"]
            if self.config.layer_norm:
                x = x - x.mean(1, keepdims=True)
                x = x / np.sqrt(np.square(x).mean(1, keepdims=True) + NORM_EPSILON)
            x = np.maximum(x + arrays[f"layer{i}.bias"], 0)
        heads: Array = x @ arrays["head.weight"] + arrays["head.bias"]
        return heads

    def _raw(self, head: Array, deterministic: bool) -> Array:
        """Before tanh, (A,), of a head without choices: its mean, or a sample."""
        size = head.size // 2
        raw = head[:size]
        if not deterministic:
            low, high = self.config.log_std_min, self.config.log_std_max
            log_std = np.minimum(np.maximum(head[size:], low), high)
            raw = raw + np.exp(log_std) * self._rng.standard_normal(size, dtype=np.float32)
        return raw

    def _chosen(self, head: Array, deterministic: bool) -> Array:
        """An action with categorical elements in network units, (A,)."""
        scale, ends = self.layout.scale, self._ends
        unit = np.empty(self.layout.action.size, np.float32)
        size = ends[0]
        raw = head[:size]
        if size and not deterministic:
            low, high = self.config.log_std_min, self.config.log_std_max
            log_std = np.minimum(np.maximum(head[size : 2 * size], low), high)
            raw = raw + np.exp(log_std) * self._rng.standard_normal(size, dtype=np.float32)
        unit[scale.continuous] = np.tanh(raw)
        logits = head[2 * size :]
        if not deterministic:  # the largest of logits with Gumbel noise is a sample
            logits = logits + self._rng.gumbel(size=logits.size)
        start = 0
        for element, count in zip(scale.categorical, scale.counts):
            unit[element] = logits[start : start + count].argmax()
            start += count
        return unit

    def arrays(self) -> dict[str, Array]:
        return {name: array.copy() for name, array in self._arrays.items()}

    def load(self, arrays: Arrays) -> None:
        self.layout.check(arrays)
        taken = {name: np.array(arrays[name], order="C") for name in self.layout.shapes}
        in_torch = self._torch(taken) if self.layout.features.image_names else None
        forward = self._numpy(taken) if in_torch is None else in_torch.head_of_one
        self._arrays, self._in_torch, self._forward = taken, in_torch, forward

    def _numpy(self, arrays: dict[str, Array]) -> _Forward:
        """The forward pass in numpy, on buffers of its own: the head from an observation."""
        vector = self.layout.features.vector
        offset, scale = arrays["input.offset"], arrays["input.scale"]
        layers = [
            (arrays[f"layer{i}.weight"], arrays[f"layer{i}.bias"], np.empty(units, np.float32))
            for i, units in enumerate(self.config.hidden)
        ]
        head_weight, head_bias = arrays["head.weight"], arrays["head.bias"]
        layer_norm = self.config.layer_norm

        def forward(observation: Arrays) -> Array:
            x = soft_limit((vector(observation) - offset) * scale)
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

    def _torch(self, arrays: dict[str, Array]) -> TanhGaussianNetwork:
        """What makes the forward pass with torch, where there are images."""
        from user_core.policies.tanh_gaussian_network import TanhGaussianNetwork

        return TanhGaussianNetwork(self.layout, arrays)
