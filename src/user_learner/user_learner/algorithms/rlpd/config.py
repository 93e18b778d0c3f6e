"""Parameters of RLPD."""

from __future__ import annotations

from dataclasses import dataclass

from user_core.config import setting
from user_learner.algorithms.sac.config import SACConfig


@dataclass(frozen=True)
class RLPDConfig(SACConfig):
    """SAC's parameters with the values of Ball et al. 2023, table 3."""

    critics: int = setting(10, doc="Members of the ensemble of critics.", ge=1, le=100)
    layer_norm: bool = setting(True, doc="Normalise the critics' hidden layers.")
    critic_updates: int = setting(
        20, doc="Critic updates per actor update; a call takes that many minibatches.", ge=1, le=100
    )
    target_entropy_per_action: float = setting(
        -0.5, doc="Entropy aimed at, per element of the action.", read_only=False
    )
