"""Adam over flat parameters."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from user_core.errors import StoreError
from user_core.specs import Array
from user_learner.algorithms.common.distributed import average_
from user_learner.algorithms.common.parameters import FlatParameters


class FlatAdam:
    """One fused Adam step (Kingma and Ba 2014) for a whole network.

    Args:
        parameters: What is optimised.
        learning_rate: Step size.
        max_grad_norm: The gradient's norm is cut to this; 0: never.
    """

    def __init__(
        self, parameters: FlatParameters, learning_rate: float, max_grad_norm: float = 0.0
    ) -> None:
        self._parameters, self._max_grad_norm = parameters, max_grad_norm
        parameters.flat.grad = parameters.grad
        self._adam = torch.optim.Adam([parameters.flat], lr=learning_rate, fused=True)

    def step(self) -> None:
        """Step along the gradients, averaged over all processes that train together."""
        average_(self._parameters.grad)
        if self._max_grad_norm > 0:
            norm = self._parameters.grad.norm()
            self._parameters.grad.mul_((self._max_grad_norm / (norm + 1e-6)).clamp(max=1.0))
        self._adam.step()

    def state(self) -> dict[str, Array]:
        """Step count and both moments; a copy."""
        state = self._adam.state[self._parameters.flat]
        if not state:
            return {}
        return {name: value.detach().cpu().clone().numpy() for name, value in state.items()}

    def load_state(self, state: Mapping[str, Any], where: str) -> None:
        """Take over what :meth:`state` gave; the learning rate stays as configured."""
        flat = self._parameters.flat
        mine = self._adam.state[flat]
        mine.clear()
        if not state:
            return
        if set(state) != {"step", "exp_avg", "exp_avg_sq"} or any(
            state[name].shape != flat.shape for name in ("exp_avg", "exp_avg_sq")
        ):
            raise StoreError(
                f"optimiser state of {where}",
                came={name: getattr(value, "shape", None) for name, value in state.items()},
                expected=f"step, exp_avg and exp_avg_sq of shape {tuple(flat.shape)}",
            )
        for name in ("step", "exp_avg", "exp_avg_sq"):  # fused Adam wants its step on the device
            mine[name] = torch.tensor(state[name], dtype=torch.float32, device=flat.device)
