"""How a chunk is made from noise, and what a network is trained to say for it.

Time t goes from 0, pure noise, to 1, the chunk. All is written for numpy arrays and torch tensors alike.

* Flow matching (Lipman et al. 2022; for chunks: Black et al., "pi0", 2024): x_t = (1 - t) noise + t chunk, and the
  network says the velocity, chunk - noise; sampling follows it in Euler steps.
* Diffusion (Chi et al., "Diffusion Policy", 2023) with a cosine schedule (Nichol and Dhariwal 2021): x_t = a chunk +
  s noise with a = sin(pi t / 2), s = cos(pi t / 2). The network says a noise - s chunk ("v" of Salimans and Ho 2022),
  from which both follow at every t; sampling is DDIM (Song et al. 2020), without noise of its own.

Rows of a plan that goes on may be given. A network that was trained for it is told which rows will be carried out, and
sees them as they are; its estimate of the rows after them is moved towards the plan before, less and less the
later they are. For any other network the sampling is guided: of a flow by the gradient of the distance between its
estimate of the chunk and the given rows (Black et al., "Real-Time Execution of Action Chunking Flow Policies", 2025),
of a diffusion by moving that estimate towards them, as in-painting does.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol


class Model(Protocol):
    """A network for one observation, or for a batch of them."""

    def __call__(self, x: Any, t: float, mask: Any) -> Any:
        """What it says of chunks ``x``, (..., T, D); ``mask`` (T,) or None: rows that are given."""

    def with_gradient(
        self, x: Any, t: float, cotangent: Callable[[Any], Any]
    ) -> tuple[Any, Any, Any]:
        """What it says, a cotangent made from this, and the product of that with its Jacobian."""


class Guided:
    """What two networks say together: usual + weight x (good - usual). A :class:`Model`."""

    def __init__(self, good: Model, usual: Model, weight: float) -> None:
        self._good, self._usual, self._weight = good, usual, weight

    def __call__(self, x: Any, t: float, mask: Any) -> Any:
        return self._mixed(self._good(x, t, mask), self._usual(x, t, mask))

    def with_gradient(
        self, x: Any, t: float, cotangent: Callable[[Any], Any]
    ) -> tuple[Any, Any, Any]:
        said = self(x, t, None)
        wanted = cotangent(said)
        products = (
            model.with_gradient(x, t, lambda _: wanted)[2] for model in (self._good, self._usual)
        )
        return said, wanted, self._mixed(*products)

    def _mixed(self, good: Any, usual: Any) -> Any:
        return usual + self._weight * (good - usual)


class PathModel(Protocol):
    """A network of paths with noise."""

    def with_noise(self, x: Any, t: float) -> tuple[Any, Any]:
        """The velocity of chunks ``x``, (..., T, D), and the standard deviation of noise there, for a unit of time."""


@dataclass(frozen=True)
class Given:
    """Rows of the plan before, for a chunk in codes; of several chunks each array has a leading dimension.

    Attributes:
        code: The rows, (T, D), of any value where the weight is 0.
        weight: How much each is to be held to, (T, 1); 1: it will be carried out.
        frozen: Which will be carried out, (T, 1) of 0 and 1.
        told: Whether the network knows of given rows.
        strength: Largest weight of guidance.
    """

    code: Any
    weight: Any
    frozen: Any
    told: bool
    strength: float


class Objective(Protocol):
    """How noise becomes a chunk."""

    def noisy(self, chunk: Any, noise: Any, t: Any) -> tuple[Any, Any]:
        """Chunks as they are at times t, and what a network should say of them."""

    def sample(
        self, model: Model, x: Any, steps: int, bounds: tuple[Any, Any], given: Given | None = None
    ) -> Any:
        """A chunk from noise ``x``; ``bounds`` (D,) of codes."""


class Flow:
    """Conditional flow matching with straight paths."""

    def noisy(self, chunk: Any, noise: Any, t: Any) -> tuple[Any, Any]:
        return (1 - t) * noise + t * chunk, chunk - noise

    def sample(
        self, model: Model, x: Any, steps: int, bounds: tuple[Any, Any], given: Given | None = None
    ) -> Any:
        for k in range(steps):
            t = k / steps
            if given is None:
                velocity = model(x, t, None)
            elif given.told:
                x = _replaced(x, given)
                velocity = self._held(model(x, t, given.frozen[..., 0]), x, t, given)
            else:
                velocity = self._guided(model, x, t, given)
            x = x + velocity / steps
        if given is not None and given.told:
            x = _replaced(x, given)
        return x

    def wander(self, model: PathModel, x: Any, noises: Any) -> tuple[Any, list[Any]]:
        """A chunk from noise ``x`` along a path with noise of its own, and the size of that in each step.

        Zhang et al., "SAC Flow", 2025: what a straight flow generates has the score (t velocity - x) / (1 - t), so that
        steps dx = (velocity + sigma^2 / 2 score) dt + sigma dW generate the same chunks as those without
        noise, and a path, given its beginning, has a density: a Gaussian's in each step.

        Args:
            model: Of a network that was told to give noise.
            x: Noise, (..., T, D).
            noises: Of the steps, from a normal distribution, (K, ..., T, D).
        """
        steps, sizes = len(noises), []
        for k in range(steps):
            t = k / steps
            velocity, sigma = model.with_noise(x, t)
            score = (t * velocity - x) / (1 - t)
            size = sigma / math.sqrt(steps)
            x = x + (velocity + 0.5 * sigma**2 * score) / steps + size * noises[k]
            sizes.append(size)
        return x, sizes

    def _guided(self, model: Model, x: Any, t: float, given: Given) -> Any:
        """Equations 2 to 4 of the paper."""

        def off(velocity: Any) -> Any:
            return (given.code - (x + (1 - t) * velocity)) * given.weight

        velocity, error, product = model.with_gradient(x, t, off)
        return velocity + _guidance(t, given) * (error + (1 - t) * product)

    def _held(self, velocity: Any, x: Any, t: float, given: Given) -> Any:
        """The velocity of a network that is told the frozen rows, with the others held to the plan before by the soft
        mask of the paper. The gradient through the network is left out: the frozen rows are seen, and need no
        guidance."""
        if not given.strength:
            return velocity
        error = (given.code - (x + (1 - t) * velocity)) * (given.weight - given.frozen)
        return velocity + _guidance(t, given) * error


class Diffusion:
    """DDIM over a cosine schedule."""

    def noisy(self, chunk: Any, noise: Any, t: Any) -> tuple[Any, Any]:
        a, s = (t * (math.pi / 2)).sin(), (t * (math.pi / 2)).cos()
        return a * chunk + s * noise, a * noise - s * chunk

    def sample(
        self, model: Model, x: Any, steps: int, bounds: tuple[Any, Any], given: Given | None = None
    ) -> Any:
        chunk = x
        for k in range(steps):
            a, s = _schedule(k / steps)
            told = given is not None and given.told
            if told and given is not None:
                x = _replaced(x, given)
            said = model(x, k / steps, given.frozen[..., 0] if told and given is not None else None)
            chunk = (a * x - s * said).clip(*bounds)
            if given is not None:
                weight = _painted(given)
                chunk = weight * given.code + (1 - weight) * chunk
            noise = (x - a * chunk) / s
            a, s = _schedule((k + 1) / steps)
            x = a * chunk + s * noise
        return chunk


def _guidance(t: float, given: Given) -> float:
    """How much a step at time t is guided: equation 2 of the paper, at most ``strength``."""
    left = 1 - t
    spread = left**2 / (t**2 + left**2)
    return min(given.strength, left / (t * spread)) if t > 0 else given.strength


def _painted(given: Given) -> Any:
    """How much of each row of a diffusion's estimate is the plan before: of a network that is told the frozen rows,
    those, and of the rows after them as much as a flow takes up by the same soft mask: one that is moved towards them at
    a rate of ``strength`` x weight leaves exp(-strength x weight) of what is between."""
    if not given.told:
        return given.weight
    rate = given.strength * (given.weight - given.frozen)
    return given.frozen + (1 - math.e ** (-rate))


def _schedule(t: float) -> tuple[float, float]:
    return math.sin(t * math.pi / 2), math.cos(t * math.pi / 2)


def _replaced(x: Any, given: Given) -> Any:
    return given.frozen * given.code + (1 - given.frozen) * x
