"""What a flow's network says, read as a velocity, and as the noise of a path. For numpy arrays and torch tensors alike.

Zhang et al., "SAC Flow: Sample-Efficient Reinforcement Learning of Flow-Based Policies via Velocity-Reparameterized
Sequential Modeling", 2025: a chunk goes through the network once for each step, as a sequence goes through a recurrent
network, and gradients of what it becomes grow or vanish alike. So their remedy is the same, too: a gate. Each step then
moves a chunk x towards a candidate c by a share g, velocity = g (c - x), as a gated recurrent unit does ("Flow-G").
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

#: Least noise of a path, as a share of the largest: its logarithm must stay a number.
_LEAST_SHARE = 0.02


def sigmoid(z: Any) -> Any:
    """1 / (1 + exp(-z)), without overflow."""
    half = 0.5 * z
    return 0.5 * (1 + (np.tanh(half) if isinstance(half, np.ndarray) else half.tanh()))


@dataclass(frozen=True)
class Velocity:
    """How the numbers that a network says of each number of a chunk are read.

    Attributes:
        gated: Whether they are a candidate and a gate; else they are the velocity.
        most_noise: Largest standard deviation of the noise of a path, in the scale of the data, which one more
            number then tells; 0: there is none.
    """

    gated: bool = False
    most_noise: float = 0.0

    @property
    def parts(self) -> int:
        """Numbers for each number of a chunk, P."""
        return 1 + self.gated + (self.most_noise > 0)

    def of(self, said: Any, x: Any) -> Any:
        """Velocities (..., T, D) from what was said, (..., T, P x D), of chunks x."""
        size = x.shape[-1]
        if not self.gated:
            return said if self.parts == 1 else said[..., :size]
        return sigmoid(said[..., size : 2 * size]) * (said[..., :size] - x)

    def noise(self, said: Any, size: int) -> Any:
        """Standard deviations of the noise of a path, (..., T, D)."""
        share = sigmoid(said[..., -size:])
        return self.most_noise * (_LEAST_SHARE + (1 - _LEAST_SHARE) * share)

    def back(self, said: Any, x: Any, wanted: Any) -> tuple[Any, Any]:
        """The product of ``wanted``, (T, D), with the Jacobian of :meth:`of`: for what was said, and for x."""
        size = x.shape[-1]
        parts = [wanted]
        direct = np.zeros_like(x)
        if self.gated:
            gate = sigmoid(said[..., size : 2 * size])
            off = said[..., :size] - x
            parts, direct = [wanted * gate, wanted * off * gate * (1 - gate)], -wanted * gate
        if self.most_noise > 0:
            parts.append(np.zeros_like(x))
        return np.concatenate(parts, -1), direct


#: What the network says is the velocity.
PLAIN = Velocity()
