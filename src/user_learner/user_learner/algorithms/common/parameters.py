"""The parameters of a network in one flat tensor."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from user_core.errors import StoreError
from user_core.specs import Array


class FlatParameters:
    """Named parameters that lie in one tensor, and their gradients in another.

    On a CPU, small networks spend much of an update in the overhead of one small operation per
    parameter. Lying in one tensor, all of them are stepped, averaged over processes, copied
    and moved towards (:meth:`approach`) by one operation each.

    Args:
        arrays: First values, by name.
        device: Where they live.

    Attributes:
        flat: All values, (N,).
        grad: All gradients, (N,); ``backward`` accumulates into it.
        named: Leaves that require a gradient, views of ``flat``.
        frozen: The same views, of which no gradient is asked.
    """

    def __init__(self, arrays: Mapping[str, Array], device: torch.device) -> None:
        values = [np.asarray(array, np.float32).ravel() for array in arrays.values()]
        self.flat = torch.from_numpy(np.concatenate([np.zeros(0, np.float32), *values])).to(device)
        self.grad = torch.zeros_like(self.flat)
        self.shapes = {name: array.shape for name, array in arrays.items()}
        self.frozen = self._split(self.flat)
        self.named = self._split(self.flat)
        for name, gradient in self._split(self.grad).items():
            self.named[name].requires_grad_()
            self.named[name].grad = gradient

    def zero_grad(self) -> None:
        """Set all gradients to zero."""
        self.grad.zero_()

    def approach(self, other: FlatParameters, share: float) -> None:
        """Move by ``share`` of the way towards parameters of the same names (Polyak averaging);
        ``other`` may have more after these."""
        self.flat.lerp_(other.flat[: self.flat.numel()], share)

    def arrays(self) -> dict[str, Array]:
        """A copy of all values, by name."""
        return {name: part.numpy() for name, part in self._split(self.flat.cpu().clone()).items()}

    def load(self, arrays: Mapping[str, Array], where: str) -> None:
        """Take over values; raises StoreError, and changes nothing, unless all fit."""
        came = {name: tuple(np.shape(array)) for name, array in arrays.items()}
        if came != self.shapes:
            raise StoreError(f"parameters of {where}", came=came, expected=self.shapes)
        values = [np.asarray(arrays[name], np.float32).ravel() for name in self.shapes]
        self.flat.copy_(torch.from_numpy(np.concatenate(values)))

    def _split(self, flat: Tensor) -> dict[str, Tensor]:
        parts, start = {}, 0
        for name, shape in self.shapes.items():
            size = int(np.prod(shape))
            parts[name] = flat[start : start + size].view(shape)
            start += size
        return parts
