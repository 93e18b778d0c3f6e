"""Batches with nothing to be learned from: every field at random within its spec."""

from __future__ import annotations

import numpy as np

from user_core.specs import RobotSpec
from user_core.types import Batch


def random_batch(
    spec: RobotSpec, rows: int, rng: np.random.Generator, window: int = 0, **changes
) -> Batch:
    """A batch of a robot, of whole windows where ``window`` says of how many steps; ``changes`` are fields to be
    others."""

    def observation():
        return {
            k: np.stack([v.sample(rng) for _ in range(rows)]) for k, v in spec.observation.items()
        }

    shape = (rows, window) if window else (rows,)
    seen = observation()
    action = np.stack([spec.action.sample(rng) for _ in range(rows * (window or 1))])
    fields = {
        "observation": seen,
        "action": action.reshape(*shape, *action.shape[1:]),
        "reward": rng.standard_normal(shape).astype(np.float32),
        "discount": np.full(shape, 0.9, np.float32),
        "next_observation": observation(),
        "extras": {"mask": np.ones(shape, bool)} if window else {},
    }
    return Batch(**(fields | changes))
