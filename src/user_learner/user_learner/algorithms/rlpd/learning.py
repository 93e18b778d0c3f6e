"""The update of RLPD."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from user_learner.algorithms.rlpd.config import RLPDConfig
from user_learner.algorithms.sac.learning import SAC


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
