"""Soft Actor-Critic (Haarnoja et al. 2018)."""

from user_learner.algorithms.sac.config import SACConfig
from user_learner.algorithms.sac.learning import SAC

__all__ = ["SAC", "SACConfig"]
