"""RLPD: reinforcement learning with prior data (Ball et al. 2023)."""

from user_learner.algorithms.rlpd.config import RLPDConfig
from user_learner.algorithms.rlpd.learning import RLPD

__all__ = ["RLPD", "RLPDConfig"]
