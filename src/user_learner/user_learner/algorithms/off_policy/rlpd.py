"""RLPD: reinforcement learning with prior data (Ball et al. 2023)."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from user_core.config import setting
from user_learner.algorithms.off_policy.sac import SAC, SACConfig


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


# --------------------------------------------------------------------------------------------------
# The update of RLPD
# --------------------------------------------------------------------------------------------------


class RLPD(SAC):
    """SAC that makes the most of demonstrations and of every step.

    Ball et al., "Efficient Online Reinforcement Learning with Offline Data", 2023: an ensemble
    of critics with layer normalisation, of which a random pair makes the target (Chen et al.,
    REDQ, 2021), many critic updates per actor update, and an actor that climbs the mean of all
    critics. That half of each batch comes from demonstrations is the sampler's part.
    """

    Config: ClassVar[type[RLPDConfig]] = RLPDConfig

    def _value_of(self, values: Tensor) -> Tensor:
        return values.mean(0)
