"""Random shifts of pictures, the augmentation of DrQ (Kostrikov et al. 2020)."""

from __future__ import annotations

import torch
from torch import Tensor


def random_shift(image_bhwc: Tensor, pad: int, generator: torch.Generator) -> Tensor:
    """Shift each picture by up to ``pad`` pixels in both directions; edges are repeated.

    One gather of the bytes, (B, h, w, c) to the same; the picture is not converted first.
    """
    if pad == 0:
        return image_bhwc
    rows, height, width = image_bhwc.shape[:3]
    device = image_bhwc.device
    shift = torch.randint(-pad, pad + 1, (2, rows, 1), generator=generator, device=device)
    y = (torch.arange(height, device=device) + shift[0]).clamp_(0, height - 1)  # (B, h)
    x = (torch.arange(width, device=device) + shift[1]).clamp_(0, width - 1)  # (B, w)
    row = torch.arange(rows, device=device)[:, None, None]
    return image_bhwc[row, y[:, :, None], x[:, None, :]]
