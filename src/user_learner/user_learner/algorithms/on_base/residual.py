"""Off-policy learning of a correction on top of a frozen policy (Ankile et al. 2025)."""

from __future__ import annotations

from user_core.policies.improving.residual import ResidualPolicy
from user_learner.algorithms.on_base.base import OnBase


class Residual(OnBase):
    """RLPD of the policy ``residual``, with critics that learn alone at first.

    Ankile et al., "Residual Off-Policy RL for Finetuning Behavior Cloning Policies", 2025: critics judge the
    actions that were carried out, so that demonstrations and what the base did alone teach them, too. Of choices they
    give a value for each (see :mod:`user_learner.algorithms.common.choice_values`).
    """

    takes = (ResidualPolicy, "residual")
