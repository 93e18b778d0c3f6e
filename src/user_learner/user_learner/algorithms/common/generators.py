"""Random generators, one per process that trains."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from user_core.specs import Array
from user_learner.algorithms.common.distributed import rank


def make_generator(seed: int, device: torch.device) -> torch.Generator:
    """A generator for this process: those that train together draw different noise."""
    return torch.Generator(device).manual_seed(seed + rank())


def generator_state(generator: torch.Generator) -> Array:
    """For a checkpoint; a copy."""
    state: Array = generator.get_state().numpy().copy()
    return state


def restore_generator(generator: torch.Generator, state: Any, fresh_seed: int) -> None:
    """Take over a state; start anew from ``fresh_seed`` where there is none for this process.

    A checkpoint holds the state of the first process only, and a generator of another device
    has another kind of state.
    """
    mine = generator.get_state()
    if rank() == 0 and np.shape(state) == tuple(mine.shape):
        generator.set_state(torch.from_numpy(np.array(state)))
    else:
        generator.manual_seed(fresh_seed + rank())
