"""Parameters of behaviour cloning."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from user_core.config import Config, setting


@dataclass(frozen=True)
class BCConfig(Config):
    """Behaviour cloning. Settings that are not ``read_only`` may change between two runs."""

    loss: Literal["likelihood", "squared_error"] = setting(
        "likelihood",
        doc="Negative log-likelihood of the action, which also teaches the spread, or the "
        "squared error of the squashed mean.",
    )
    learning_rate: float = setting(3e-4, doc="Of Adam.", gt=0, read_only=False)
    max_grad_norm: float = setting(
        10.0, doc="Norm that gradients are cut to; 0: never.", ge=0, read_only=False
    )
    image_shift: int = setting(
        4, doc="Largest random shift of pictures while learning.", unit="px", ge=0, read_only=False
    )
    device: str = setting(
        "cpu", doc="torch device that learns: cpu, cuda, cuda:1.", read_only=False
    )
    seed: int = setting(0, doc="Seed of the random shifts.", ge=0)
