"""Behaviour cloning."""

from user_learner.algorithms.bc.config import BCConfig
from user_learner.algorithms.bc.learning import BC

__all__ = ["BC", "BCConfig"]
