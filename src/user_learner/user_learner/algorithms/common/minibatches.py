"""Batches of numpy arrays as minibatches of tensors, with actions and states ready for use."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from user_core.errors import SpecError
from user_core.policies.tanh_gaussian import TanhGaussianLayout
from user_core.policies.tanh_gaussian_torch import normalise
from user_core.specs import Arrays
from user_core.types import Batch
from user_learner.algorithms.common.normaliser import InputNormaliser


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
                "rows of a batch", came=rows, expected=f"a positive multiple of {count} (the "
                "gradient updates of one call)",
            )  # fmt: skip
        if np.shape(batch.action) != (rows, *self.layout.action.shape):
            raise SpecError(
                "actions of a batch", came=np.shape(batch.action),
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
                    f"pictures {name!r} of a batch", came=tuple(picture.shape),
                    expected=(rows, *self.layout.features.specs[name].shape),
                )  # fmt: skip
            found[name] = picture.to(self.device, non_blocking=True)
        return found
