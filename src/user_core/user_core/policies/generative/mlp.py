"""The perceptron of generating policies: names and shapes of its arrays, and its passes in numpy.

It sees the numbers of an observation, the time, which rows are given, and the noisy chunk; hidden layers are
residual where their widths allow. Without torch an actor starts within a fraction of a second, and eight passes
of three layers of 256 units take less than a millisecond.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import numpy as np

from user_core.policies.generative.velocity import PLAIN, Velocity, sigmoid
from user_core.specs import Array, Arrays

#: Sines and cosines that tell the time.
TIME_SIZE = 32
_FREQUENCIES = np.exp(np.linspace(0, np.log(200.0), TIME_SIZE // 2)).astype(np.float32)


def time_features(t: float) -> Array:
    """Sines and cosines of a time from 0 to 1, (TIME_SIZE,) float32."""
    angles = np.float32(t) * _FREQUENCIES
    return np.concatenate([np.sin(angles), np.cos(angles)])


def frequencies() -> Array:
    """Of :func:`time_features`, (TIME_SIZE / 2,)."""
    return _FREQUENCIES.copy()


class PerceptronLayout:
    """Names, shapes and first values.

    Args:
        state: Numbers of an observation, O.
        rows: T.
        size: Numbers of a row, D.
        told: Whether it is told which rows are given.
        hidden: Units of its layers.
        parts: Numbers that it says of each number of a chunk, P.
        apart: Whether an observation counts by further weights where rows are given. What is to be done after given
            rows depends on the observation in another way than what is to be done at once, and by one set of weights
            plans that begin repeat motions that given rows would have made: they overshoot.
    """

    def __init__(
        self, state: int, rows: int, size: int, told: bool, hidden: tuple[int, ...], parts: int = 1,
        apart: bool = False,
    ) -> None:  # fmt: skip
        self.state, self.rows, self.size, self.told = state, rows, size, told
        self.apart = apart
        self.masked = rows if told else 0
        self.hidden = hidden
        widths = (state + TIME_SIZE + self.masked + rows * size, *hidden)
        self.shapes: dict[str, tuple[int, ...]] = {}
        for i, (inputs, units) in enumerate(pairwise(widths)):
            self.shapes[f"layer{i}.weight"] = (inputs, units)
            self.shapes[f"layer{i}.bias"] = (units,)
        if apart:
            self.shapes["given.weight"] = (state, widths[1])
        said = rows * parts * size
        self.shapes["head.weight"] = (widths[-1], said)
        self.shapes["head.bias"] = (said,)

    def initial(self, rng: np.random.Generator) -> dict[str, Array]:
        """Glorot-uniform weights; a head of zeros: what is generated at first is its noise."""
        arrays = {}
        for name, shape in self.shapes.items():
            value = np.zeros(shape)
            if len(shape) == 2 and not name.startswith("head"):
                limit = np.sqrt(6 / sum(shape))
                value = rng.uniform(-limit, limit, shape)
            arrays[name] = value.astype(np.float32)
        return arrays


class NumpyPerceptron:
    """The network for one observation and one chunk (T, D), or several (N, T, D): an
    :class:`~user_core.policies.generative.objectives.Model`.

    Args:
        layout: Of its arrays.
        arrays: By the names of the layout.
        velocity: How what it says is read.
    """

    def __init__(
        self, layout: PerceptronLayout, arrays: Arrays, velocity: Velocity = PLAIN
    ) -> None:
        self._layout, self._velocity = layout, velocity
        count = len(layout.hidden)
        self._layers = [
            (arrays[f"layer{i}.weight"], arrays[f"layer{i}.bias"]) for i in range(count)
        ]
        self._head = arrays["head.weight"], arrays["head.bias"]
        first, _ = self._layers[0]
        ends = np.cumsum([layout.state, TIME_SIZE, layout.masked])
        self._of_state, self._of_time, self._of_mask, self._of_chunk = np.split(first, ends)
        self._seen = self._layers[0][1]
        self._given = arrays["given.weight"] if layout.apart else None
        self._seen_given: Array | None = None

    def see(self, state: Array) -> None:
        """The observation, normalised, (O,); of several robots (N, O)."""
        self._seen = state @ self._of_state + self._layers[0][1]
        self._seen_given = None if self._given is None else state @ self._given

    def __call__(self, x: Array, t: float, mask: Array | None) -> Array:
        velocity: Array = self._velocity.of(self._forward(x, t, mask)[0], x)
        return velocity

    def with_noise(self, x: Array, t: float) -> tuple[Array, Array]:
        """Velocity, and the standard deviation of a path's noise, of chunks (..., T, D)."""
        said, _ = self._forward(x, t, None)
        return self._velocity.of(said, x), self._velocity.noise(said, x.shape[-1])

    def with_gradient(
        self, x: Array, t: float, cotangent: Callable[[Array], Array]
    ) -> tuple[Array, Array, Array]:
        said, before = self._forward(x, t, None)
        velocity = self._velocity.of(said, x)
        wanted = cotangent(velocity)
        of_said, direct = self._velocity.back(said, x, wanted)
        grad = of_said.reshape(*of_said.shape[:-2], -1) @ self._head[0].T
        for i in range(len(self._layers) - 1, 0, -1):
            weight = self._layers[i][0]
            through = (grad * _silu_slope(before[i])) @ weight.T
            grad = grad + through if weight.shape[0] == weight.shape[1] else through
        grad = (grad * _silu_slope(before[0])) @ self._of_chunk.T
        return velocity, wanted, direct + grad.reshape(x.shape)

    def _forward(self, x: Array, t: float, mask: Array | None) -> tuple[Array, list[Array]]:
        z = self._seen + time_features(t) @ self._of_time
        z = z + x.reshape(*x.shape[:-2], -1) @ self._of_chunk
        if mask is not None:
            z = z + mask @ self._of_mask
            if self._seen_given is not None:
                z = z + mask[..., :1] * self._seen_given
        before, h = [z], _silu(z)
        for weight, bias in self._layers[1:]:
            z = h @ weight + bias
            before.append(z)
            h = h + _silu(z) if weight.shape[0] == weight.shape[1] else _silu(z)
        said = h @ self._head[0] + self._head[1]
        return said.reshape(*x.shape[:-1], -1), before


def _silu(z: Array) -> Array:
    found: Array = z * sigmoid(z)
    return found


def _silu_slope(z: Array) -> Array:
    share = sigmoid(z)
    slope: Array = share * (1 + z * (1 - share))
    return slope
