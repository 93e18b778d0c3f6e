"""A moving average of weights: what is published of a training whose newest weights go on shaking."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from user_learner.algorithms.common.flat_parameters import in_pieces

#: What names of averages begin with in shards of a checkpoint.
AVERAGE = "average/"
#: As the average of Chi et al., "Diffusion Policy", 2023: its decay after n updates is 1 - (1 + n)^-POWER, up to the
#: largest one, so that it is short while weights still move far.
POWER = 0.75
#: This many numbers change places at a time.
_PIECE = 1 << 22


def share_after(updates: int, decay: float) -> float:
    """How much the newest weights count in an average.

    Args:
        updates: How many there were before.
        decay: The largest decay.
    """
    return max(1 - decay, (1 + updates) ** -POWER)


class MovingAverage:
    """The average over the last updates of tensors that are changed in place.

    Args:
        tensors: Gives the weights, always in the same order; it begins with a copy of them.

    Attributes:
        average: The averages, in that order.
        between: Called between two pieces of work.
    """

    def __init__(self, tensors: Callable[[], Sequence[Tensor]]) -> None:
        self._tensors = tensors
        self.between: Callable[[], object] = lambda: None
        self.average = [tensor.clone() for tensor in tensors()]

    @torch.no_grad()
    def follow(self, share: float | Tensor) -> None:
        """Take the weights in after an update, with a share as :func:`share_after` says it."""
        for average, tensor in zip(self.average, self._tensors(), strict=True):
            for one, other in in_pieces(average, tensor):
                self.between()
                one.lerp_(other, share)

    @torch.no_grad()
    def begin_anew(self) -> None:
        """It is the weights as they are now."""
        for average, tensor in zip(self.average, self._tensors(), strict=True):
            average.copy_(tensor)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """The averages stand where the weights stood, for as long as this lasts."""
        self._exchange()
        try:
            yield
        finally:
            self._exchange()

    @torch.no_grad()
    def _exchange(self) -> None:
        for average, tensor in zip(self.average, self._tensors(), strict=True):
            pieces = tensor.view(-1).split(_PIECE), average.view(-1).split(_PIECE)
            for one, other in zip(*pieces, strict=True):  # a copy of all would take a GPU's memory
                self.between()
                kept = one.clone()
                one.copy_(other)
                other.copy_(kept)
