"""A pretrained image encoder for tests: the network of EfficientNet-Lite0, with random weights."""

from __future__ import annotations

from pathlib import Path

import torch

from user_core.policies.image_encoders.efficientnet_lite import EfficientNetLite0


def write_weights(file: Path, seed: int = 0) -> Path:
    """Write weights of it to a file; returns the file."""
    torch.manual_seed(seed)
    torch.save(EfficientNetLite0(32).state_dict(), file)
    return file
