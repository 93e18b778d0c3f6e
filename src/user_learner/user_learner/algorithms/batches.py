"""Batches of numpy arrays as minibatches of tensors, with actions and states ready for use."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from user_core.errors import SpecError
from user_core.policies.tanh_gaussian import TanhGaussianLayout
from user_core.policies.tanh_gaussian_torch import normalise
from user_core.specs import Array, Arrays
from user_core.types import Batch
from user_learner.algorithms.distributed import average_

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


# --------------------------------------------------------------------------------------------------
# Batches of numpy arrays as minibatches of tensors, with actions and states ready for use
# --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Minibatch:
    """B transitions as tensors.

    Attributes:
        state: Normalised numbers of the observation, (B, O).
        action: (B, A), scaled to -1 to 1.
        reward: (B,).
        discount: (B,), of the value of the next observation; 0 behind a terminal step.
        next_state: (B, O).
        images: Pictures, (B, h, w, 3) uint8 each.
        next_images: Likewise.
    """

    state: Tensor
    action: Tensor
    reward: Tensor
    discount: Tensor
    next_state: Tensor
    images: Mapping[str, Tensor]
    next_images: Mapping[str, Tensor]


class Minibatcher:
    """Cuts batches into minibatches for one layout, on one device."""

    def __init__(self, layout: TanhGaussianLayout, device: torch.device) -> None:
        self.layout, self.device = layout, device
        half = layout.action_half
        self._action_middle = torch.from_numpy(layout.action_middle).to(device)
        self._action_scale = torch.from_numpy(1 / np.where(half > 0, half, 1)).to(device)

    def cut(self, batch: Batch, count: int, normaliser: InputNormaliser) -> list[Minibatch]:
        """Cut into ``count`` minibatches of equal size.

        Minibatch i takes every count-th row from row i on, so that each has the same mixture of
        sources whether the sampler shuffles them or lays them one behind the other.

        Args:
            batch: G x B rows.
            count: G.
            normaliser: Knows the scale of the numbers; sees them first.

        Raises:
            SpecError: The rows cannot be divided, or are windows instead of single steps.
        """
        rows, features = len(batch), self.layout.features
        if rows == 0 or rows % count:
            raise SpecError(
                "rows of a batch", got=rows, expected=f"a positive multiple of {count} (the "
                "gradient updates of one call)",
            )  # fmt: skip
        if np.shape(batch.action) != (rows, *self.layout.action.shape):
            raise SpecError(
                "actions of a batch", got=np.shape(batch.action),
                expected=(rows, *self.layout.action.shape),
            )  # fmt: skip
        vectors = [
            self._tensor(features.vectors(observation, rows))
            for observation in (batch.observation, batch.next_observation)
        ]
        normaliser.observe(*vectors)
        state, next_state = (normalise(normaliser.tensors, vector) for vector in vectors)
        action = (self._tensor(batch.action) - self._action_middle) * self._action_scale
        states, actions, rewards, discounts, next_states = (
            self._strided(tensor, count)
            for tensor in (
                state, action.clamp_(-1, 1), self._tensor(batch.reward),
                self._tensor(batch.discount), next_state,
            )
        )  # fmt: skip
        images = self._images(batch.observation, rows)
        next_images = self._images(batch.next_observation, rows)
        return [
            Minibatch(
                states[i],
                actions[i],
                rewards[i],
                discounts[i],
                next_states[i],
                {name: picture[i::count] for name, picture in images.items()},
                {name: picture[i::count] for name, picture in next_images.items()},
            )
            for i in range(count)
        ]

    def _tensor(self, array: object) -> Tensor:
        return torch.as_tensor(array, dtype=torch.float32).to(self.device, non_blocking=True)

    def _strided(self, tensor: Tensor, count: int) -> Tensor:
        if count == 1:
            return tensor[None]
        return tensor.view(-1, count, *tensor.shape[1:]).transpose(0, 1).contiguous()

    def _images(self, observation: Arrays, rows: int) -> dict[str, Tensor]:
        found = {}
        for name in self.layout.features.image_names:
            picture = torch.as_tensor(observation[name])
            if picture.shape != (rows, *self.layout.features.specs[name].shape):
                raise SpecError(
                    f"pictures {name!r} of a batch", got=tuple(picture.shape),
                    expected=(rows, *self.layout.features.specs[name].shape),
                )  # fmt: skip
            found[name] = picture.to(self.device, non_blocking=True)
        return found


# --------------------------------------------------------------------------------------------------
# Windows of steps as single ones whose action is all of the window's
# --------------------------------------------------------------------------------------------------


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
            "actions of a batch for a policy of chunks", got=tuple(shape),
            expected=f"(B, {rows}, A)", hint=f"Set sampler.window to {rows}, and pad_windows",
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
