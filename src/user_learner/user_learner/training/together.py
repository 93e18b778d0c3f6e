"""Learner processes that train together (torchrun) go on, wait and stop together."""

from __future__ import annotations

import sys

STOP, WAIT, GO = 0, 1, 2


def agreed(decision: int) -> int:
    """The most hesitant decision of all processes; one's own when alone."""
    if "torch" not in sys.modules:  # an algorithm without torch is alone
        return decision
    from user_learner.algorithms.common import distributed

    return distributed.agreed(decision)


def is_first() -> bool:
    """Whether this process is the one that publishes and keeps checkpoints."""
    if "torch" not in sys.modules:
        return True
    from user_learner.algorithms.common import distributed

    return distributed.rank() == 0
