"""Batches with nothing to be learned from: every field at random within its spec."""

from __future__ import annotations

import numpy as np

from user_core.specs import RobotSpec
from user_core.types import Batch


def random_batch(spec: RobotSpec, rows: int, rng: np.random.Generator, **changes) -> Batch:
    """A batch of a robot; ``changes`` are fields to be other ones."""

    def observation():
        return {
            k: np.stack([v.sample(rng) for _ in range(rows)]) for k, v in spec.observation.items()
        }

    fields = {
        "observation": observation(),
        "action": np.stack([spec.action.sample(rng) for _ in range(rows)]),
        "reward": rng.standard_normal(rows).astype(np.float32),
        "discount": np.full(rows, 0.9, np.float32),
        "next_observation": observation(),
    }
    return Batch(**(fields | changes))
