"""Action chunks as generating networks have them: numbers only, choices as one number for each.

A categorical element of n choices becomes n numbers, 1 for the one that is chosen and -1 for the others
("analog bits", Chen et al., "Analog Bits: Generating Discrete Data using Diffusion Models", 2022); what is
generated is the largest of them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from user_core.policies.features import ActionScale
from user_core.specs import Array, RobotSpec

if TYPE_CHECKING:
    import torch
    from torch import Tensor


class ChunkCode:
    """Between chunks in network units (choices as their numbers) and codes of D numbers a row.

    Args:
        spec: The robot's.
        rows: Actions of a chunk, T.

    Attributes:
        scale: Actions of the robot in network units.
        size: Numbers that code one action, D: C continuous ones first, then those of choices.
        moved: C.
    """

    def __init__(self, spec: RobotSpec, rows: int) -> None:
        self.scale, self.rows = ActionScale(spec, choices=True), rows
        self.moved = len(self.scale.continuous)
        self.size = self.moved + sum(self.scale.counts)
        self._action_size = spec.action.size
        self._elements_on: dict[torch.device, Tensor] = {}

    def encode(self, unit: Array) -> Array:
        """Actions (..., A) in network units, as codes (..., D) float32."""
        parts = [unit[..., self.scale.continuous]]
        for element, count in zip(self.scale.categorical, self.scale.counts, strict=True):
            chosen = np.clip(np.rint(unit[..., element]).astype(int), 0, count - 1)
            parts.append(2.0 * np.eye(count)[chosen] - 1.0)
        return np.concatenate(parts, -1, dtype=np.float32)

    def decode(self, code: Array) -> Array:
        """Codes (..., D) as actions (..., A) in network units, within their bounds."""
        unit = np.empty((*code.shape[:-1], self._action_size), np.float32)
        unit[..., self.scale.continuous] = np.clip(code[..., : self.moved], -1, 1)
        start = self.moved
        for element, count in zip(self.scale.categorical, self.scale.counts, strict=True):
            unit[..., element] = code[..., start : start + count].argmax(-1)
            start += count
        return unit

    def encode_batch(self, action: Tensor) -> Tensor:
        """Actions (B, T x A) in network units as codes (B, T, D)."""
        import torch
        from torch.nn.functional import one_hot

        rows = action.reshape(len(action), self.rows, -1)
        parts = [self._moving(rows)]
        for element, count in zip(self.scale.categorical, self.scale.counts, strict=True):
            chosen = rows[..., element].round().long().clamp(0, count - 1)
            parts.append(2.0 * one_hot(chosen, count).to(rows.dtype) - 1.0)
        return torch.cat(parts, -1)

    def decode_batch(self, code: Tensor) -> Tensor:
        """Codes (B, T, D) as actions (B, T x A) in network units; gradients pass where they move."""
        moving = code[..., : self.moved].clamp(-1, 1)
        if self.moved == self._action_size:
            return moving.flatten(1)
        unit = code.new_empty((*code.shape[:-1], self._action_size))
        unit.index_copy_(-1, self._elements(code.device), moving)
        start = self.moved
        for element, count in zip(self.scale.categorical, self.scale.counts, strict=True):
            unit[..., element] = code[..., start : start + count].argmax(-1).to(code.dtype)
            start += count
        return unit.flatten(1)

    def _moving(self, rows: Tensor) -> Tensor:
        """Continuous elements of actions (B, T, A)."""
        if self.moved == self._action_size:
            return rows
        return rows.index_select(-1, self._elements(rows.device))

    def _elements(self, device: torch.device) -> Tensor:
        """Which they are. What is recorded as a CUDA graph must find it on the GPU."""
        import torch

        found = self._elements_on.get(device)
        if found is None:
            with torch.inference_mode(
                False
            ):  # who acts may be first, and training saves it for the way back
                found = torch.tensor(self.scale.continuous, dtype=torch.int64, device=device)
            self._elements_on[device] = found
        return found

    def settle_batch(self, code: Tensor) -> Tensor:
        """Codes (B, T, D) as those of the actions that they become. Gradients of a choice are those of the softmax of
        its numbers (the straight-through estimator of Jang et al. 2017), which end where it is clear."""
        import torch

        settled = self.encode_batch(self.decode_batch(code.detach()))
        parts, start = [code[..., : self.moved].clamp(-1, 1)], self.moved
        for count in self.scale.counts:
            share = 2 * code[..., start : start + count].softmax(-1)
            parts.append(settled[..., start : start + count] + (share - share.detach()))
            start += count
        return torch.cat(parts, -1)

    def weights(self, weight: Tensor) -> Tensor:
        """Of the elements of actions, (B, T x A), those of their codes, (B, T, D)."""
        import torch

        rows = weight.reshape(len(weight), self.rows, -1)
        parts = [self._moving(rows)]
        for element, count in zip(self.scale.categorical, self.scale.counts, strict=True):
            parts.append(rows[..., element, None].expand(*rows.shape[:-1], count))
        return torch.cat(parts, -1)


def soft_mask(rows: int, given: int, frozen: int) -> Array:
    """How much each row of a new chunk is held to the plan before, (T,) float32.

    Black et al., "Real-Time Execution of Action Chunking Flow Policies", 2025, equation 5: 1 for the rows that
    will be carried out before the new chunk can begin, then falling to 0 where the plan before ends.

    Args:
        rows: T.
        given: Rows of the plan before that are left.
        frozen: How many of these will be carried out in any case.
    """
    i = np.arange(rows)
    share = np.clip((given - i) / (given - frozen + 1), 0, 1)
    falling = share * np.expm1(share) / np.expm1(1.0)
    mask: Array = np.where(i < frozen, 1.0, np.where(i < given, falling, 0.0)).astype(np.float32)
    return mask
