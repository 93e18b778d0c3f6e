"""Critics of states: what they bring to whoever goes on as the data do."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from user_core.config import Config, setting
from user_learner.algorithms.common.distributed import share_
from user_learner.algorithms.common.flat_parameters import FlatAdam, FlatParameters
from user_learner.algorithms.common.torch_tools import ensemble_arrays, evaluate


class StateValuesConfig(Config):
    """Critics of states."""

    hidden: tuple[int, ...] = setting(
        (256, 256), doc="Units of their hidden layers.", ge=1, le=8192, min_length=1
    )
    members: int = setting(2, doc="Members of the ensemble; their mean counts.", ge=1, le=100)
    learning_rate: float = setting(3e-4, doc="Learning rate of Adam.", gt=0, read_only=False)
    target_rate: float = setting(
        0.005,
        doc="Share by which their targets approach them at each update; 1: they are their own.",
        gt=0,
        le=1,
        read_only=False,
    )


class StateValues:
    """An ensemble that learns V(s) = r + discount x V'(s'), with layer normalisation.

    Args:
        config: Parameters.
        features: Numbers that it sees, F.
        seed: Of first weights.
        device: Where it lives.
    """

    def __init__(
        self, config: StateValuesConfig, features: int, seed: int, device: torch.device
    ) -> None:
        self._rate = config.target_rate
        rng = np.random.default_rng([seed, 2])
        first = ensemble_arrays(config.members, features, config.hidden, rng)
        self._values, self._target = FlatParameters(first, device), FlatParameters(first, device)
        self._optimizer = FlatAdam(self._values, config.learning_rate)
        for parameters in (self._values, self._target):
            share_(parameters.flat)

    @torch.no_grad()
    def __call__(self, features: Tensor, kept_out: Tensor | None = None) -> Tensor:
        """Values of states (B, F), (B,); without gradients. ``kept_out``: the member that judges each, (B,); below 0,
        or None: their mean does."""
        values = evaluate(self._values.frozen, features, True)
        if kept_out is None:
            return values.mean(0)
        own = values.gather(0, kept_out.clamp_min(0)[None])[0]
        return torch.where(kept_out < 0, values.mean(0), own)

    def learn(
        self, features: Tensor, reward: Tensor, discount: Tensor, ahead: Tensor,
        weight: Tensor | None = None, kept_out: Tensor | None = None,
    ) -> Tensor:  # fmt: skip
        """One update; the loss.

        Args:
            features: Of what was seen, (B, F).
            reward: That came, (B,).
            discount: Of the value of what was seen then, (B,).
            ahead: Its features, (B, F).
            weight: How much each row counts, (B,).
            kept_out: The member that does not learn from each row, (B,); below 0: all do. Each has its own targets
                then, so that what it must not see does not come to it from the others.
        """
        with torch.no_grad():
            beyond = evaluate(self._target.frozen, ahead, True)
            target = torch.addcmul(reward, discount, beyond.mean(0) if kept_out is None else beyond)
        errors = (evaluate(self._values.named, features.detach(), True) - target).square()
        if kept_out is not None:
            members = torch.arange(len(errors), device=errors.device)[:, None]
            errors = errors * (members != kept_out)
        if weight is not None:
            errors = errors * (weight * len(weight) / weight.sum().clamp_min(1e-6))
        loss = errors.mean(1).sum()
        self._values.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self._optimizer.step()
        self._target.approach(self._values, self._rate)
        return loss.detach() / len(errors)

    @torch.no_grad()
    def rescale(self, factors: Tensor) -> None:
        """Features were scaled otherwise; values stay. Factors are those of the first ones."""
        weight = "layer0.weight"
        for parameters in (self._values, self._target):
            parameters.frozen[weight][:, : len(factors)] *= factors[:, None]
        self._optimizer.rescale(weight, factors)

    def state(self) -> dict[str, Any]:
        """For a checkpoint; a copy."""
        return {
            "values": self._values.arrays(),
            "target": self._target.arrays(),
            "optimizer": self._optimizer.state(),
        }

    def load_state(self, state: Mapping[str, Any], where: str) -> None:
        """Take over what :meth:`state` gave."""
        self._values.load(state["values"], where)
        self._target.load(state["target"], where)
        self._optimizer.load_state(state["optimizer"], where)
