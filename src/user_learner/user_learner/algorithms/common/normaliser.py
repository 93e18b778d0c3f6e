"""The scale on which networks see numbers, taken from the first data and then left alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from user_core.policies.tanh_gaussian import TanhGaussianLayout
from user_core.specs import Array, Arrays
from user_learner.algorithms.common.distributed import average_

#: Least spread, as a share of half the bounds: what hardly moved at first must not be blown up.
_LEAST_SHARE = 0.05
_LEAST_UNBOUNDED = 0.01


class InputNormaliser:
    """Keeps ``input.offset`` and ``input.scale``, which are arrays of the policy.

    With the policy's ``normalization: bounds`` they stay what the specs say. With ``data`` they
    become mean and one over the standard deviation of the rows of the first calls, and are
    then left alone: a network whose inputs keep moving must learn everything again.

    Args:
        layout: Of the policy.
        arrays: First values of the policy.
        device: Where the tensors live.

    Attributes:
        tensors: ``input.offset`` and ``input.scale``.
    """

    def __init__(self, layout: TanhGaussianLayout, arrays: Arrays, device: torch.device) -> None:
        names = ("input.offset", "input.scale")
        self.tensors = {name: torch.from_numpy(np.array(arrays[name])).to(device) for name in names}
        self._calls_left = layout.config.normalization_calls
        if layout.config.normalization == "bounds":
            self._calls_left = 0
        features = layout.features
        bounded = features.scale != 1.0
        self._least = torch.from_numpy(
            np.where(bounded, _LEAST_SHARE / features.scale, _LEAST_UNBOUNDED).astype(np.float32)
        ).to(device)
        self._sums = torch.zeros((3, features.state_size), dtype=torch.float64, device=device)

    def observe(self, *vectors_bo: Tensor) -> None:
        """Take notice of rows, (B, O) each, while the scale is not settled."""
        if not self._calls_left:
            return
        self._calls_left -= 1
        for vectors in vectors_bo:
            exact = vectors.double()
            one = torch.full_like(exact[0], len(exact))
            self._sums += torch.stack([one, exact.sum(0), exact.square().sum(0)])
        sums = self._sums.clone()
        average_(sums)  # the same scale in all processes
        mean = sums[1] / sums[0]
        spread = (sums[2] / sums[0] - mean.square()).clamp_min(0).sqrt()
        self.tensors["input.offset"].copy_(mean)
        self.tensors["input.scale"].copy_(1 / torch.maximum(spread, self._least))

    def arrays(self) -> dict[str, Array]:
        """What the policy takes; a copy."""
        return {name: tensor.cpu().numpy().copy() for name, tensor in self.tensors.items()}

    def state(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {
            **self.arrays(),
            "calls_left": self._calls_left,
            "sums": self._sums.cpu().numpy().copy(),
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Take over what :meth:`state` gave."""
        for name, tensor in self.tensors.items():
            tensor.copy_(torch.from_numpy(np.array(state[name])))
        self._sums.copy_(torch.from_numpy(np.array(state["sums"])))
        self._calls_left = int(state["calls_left"])
