"""Batches from replay stores: what is drawn, and from which memory it is gathered.

:class:`ReplaySource` is the :class:`~user_core.interfaces.TransitionSource` of a running
learner. The stores themselves are in :mod:`user_learner.replay`.
"""

from user_learner.sampling.config import (
    HALF_DEMONSTRATIONS,
    BalanceConfig,
    HindsightConfig,
    History,
    SamplerConfig,
    Stratum,
)
from user_learner.sampling.share import Share
from user_learner.sampling.source import ReplaySource

__all__ = [
    "HALF_DEMONSTRATIONS",
    "BalanceConfig",
    "HindsightConfig",
    "History",
    "ReplaySource",
    "SamplerConfig",
    "Share",
    "Stratum",
]
