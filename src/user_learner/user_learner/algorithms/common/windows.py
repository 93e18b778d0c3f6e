"""Windows of steps as single ones whose action is all of the window's."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from user_core.errors import SpecError
from user_core.types import Batch


def joined(batch: Batch, rows: int, device: torch.device) -> tuple[Batch, Tensor | None]:
    """Windows (B, T, A) as steps with actions (B, T * A), for a policy that plans T at once.

    Returns them, and how much each element of the actions counts, (B, T * A): what the end of an
    episode cuts off does not. None where all do.

    Raises:
        SpecError: These are no windows of T steps.
    """
    shape = np.shape(batch.action)
    if len(shape) != 3 or shape[1] != rows:
        raise SpecError(
            "actions of a batch for a policy of chunks", came=tuple(shape),
            expected=f"(B, {rows}, A)", cure=f"Set sampler.window to {rows}, and pad_windows",
        )  # fmt: skip
    plain = replace(
        batch,
        action=batch.action.reshape(shape[0], -1),
        reward=batch.reward[:, 0],
        discount=batch.discount[:, 0],
    )
    mask = batch.extras.get("mask")
    if mask is None:
        return plain, None
    weight = torch.as_tensor(mask, dtype=torch.float32).to(device).repeat_interleave(shape[2], 1)
    return plain, weight
