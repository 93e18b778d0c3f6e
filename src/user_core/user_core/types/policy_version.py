"""Policy versions: the weights that an actor needs, numbered and named by their content."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from user_core.specs import Array


@dataclass(frozen=True)
class PolicyVersion:
    """One set of weights of a policy.

    Attributes:
        number: Counts up, also across restarts of the learner; 0 means "none yet".
        arrays: The named arrays that the actor needs, and no others.
        config_hash: Hash of the policy's specs and configuration; an actor refuses weights
            made for another.
        update: Number of gradient updates that led to it.
        environment_steps: Steps that were in the store when it was made.
        created_ns: When it was made, nanoseconds since the epoch.
    """

    number: int
    arrays: Mapping[str, Array] = field(repr=False)
    config_hash: str = ""
    update: int = 0
    environment_steps: int = 0
    created_ns: int = 0
