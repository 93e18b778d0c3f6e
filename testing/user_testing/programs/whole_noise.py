"""Algorithms whose noise is that of the whole batch, also where several processes share it.

Processes that train together draw different noise. To be compared with one process to the last
digit they must have the same, so here each draws what one process would, and takes its rows.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from user_core.types import Batch
from user_learner.algorithms.common.distributed import rank, world
from user_learner.algorithms.imitation.bc import BC
from user_learner.algorithms.off_policy.rlpd import RLPD

_DRAWS = (torch.randn, torch.rand, torch.randint)


class _WholeNoise(TorchFunctionMode):
    """Rows of noise, (B / W, ...) of one minibatch or (G x B / W, ...) of all, one behind the other.

    Args:
        rows: Own rows of one minibatch, B / W.
    """

    def __init__(self, rows: int) -> None:
        super().__init__()
        self._rows = rows

    def __torch_function__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        if function not in _DRAWS or "generator" not in kwargs:
            return function(*args, **kwargs)
        *before, shape = args
        # Shifts of images have the shape (2, B, 1).
        *outer, rows = (*shape, 1)[: 2 if function is torch.randint else 1]
        count = rows // self._rows
        whole = list(shape)
        whole[len(outer)] = rows * world()
        drawn = function(*before, tuple(whole), **kwargs)
        dim = len(outer)
        parts = drawn.unflatten(dim, (count, self._rows, world())).select(dim + 2, rank())
        return parts.flatten(dim, dim + 1)


class _Whole:
    config: Any
    generator: torch.Generator
    updates_per_call: int

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.generator.manual_seed(self.config.seed)

    def update(self, batch: Batch) -> Mapping[str, float]:
        with _WholeNoise(len(batch) // self.updates_per_call):
            return super().update(batch)  # type: ignore[misc, no-any-return]


class WholeBC(_Whole, BC):
    """Behaviour cloning."""


class SpoiltBC(WholeBC):
    """Of which one loss is no number: that of the seventh update, in the last process."""

    def _loss(self, *given: Any) -> Any:
        loss, metrics = super()._loss(*given)
        if self._updates != 6 or rank() != world() - 1:
            return loss, metrics
        return loss * torch.nan, {name: one * torch.nan for name, one in metrics.items()}


class WholeRLPD(_Whole, RLPD):
    """RLPD."""
