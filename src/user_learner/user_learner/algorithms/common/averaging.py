"""A moving average of weights: what is published of a training whose newest weights go on shaking."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

#: What names of averages begin with in shards of a checkpoint.
AVERAGE = "average/"
#: As the average of Chi et al., "Diffusion Policy", 2023: its decay after n updates is 1 - (1 + n)^-POWER, up to the
#: largest one, so that it is short while weights still move far.
POWER = 0.75
#: So many numbers change places at a time.
_PIECE = 1 << 22


class MovingAverage:
    """The average over the last updates of tensors that are changed in place.

    Args:
        tensors: Gives the weights, always in the same order; it begins with a copy of them.

    Attributes:
        average: The averages, in that order.
    """

    def __init__(self, tensors: Callable[[], Sequence[Tensor]]) -> None:
        self._tensors = tensors
        self.average = [tensor.clone() for tensor in tensors()]

    @torch.no_grad()
    def follow(self, updates: int, decay: float) -> None:
        """Take the weights in after an update.

        Args:
            updates: How many there were before.
            decay: The largest decay.
        """
        share = max(1 - decay, (1 + updates) ** -POWER)
        for average, tensor in zip(self.average, self._tensors(), strict=True):
            average.lerp_(tensor, share)

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
                kept = one.clone()
                one.copy_(other)
                other.copy_(kept)
