"""Actions: what a policy or a person asks for, and what really reached the robot."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import numpy as np

from user_core.errors import SpecError
from user_core.specs import Array


class ActedBy(IntEnum):
    """Who decided an action. The values are stored and travel; never renumber them."""

    POLICY = 0
    HUMAN = 1
    SCRIPT = 2
    """A scripted expert, or any program that is neither the policy nor a person."""
    RANDOM = 3
    """Uniform random warm-up, before the policy has learned anything."""


@dataclass(frozen=True)
class ActionChunk:
    """Actions for the next moments: row ``i`` is meant for ``start_ns + i * period_ns``.

    A plain policy sends one row at a time. More rows let a slow or remote policy drive
    smoothly; when a chunk has been played and no newer one came, the robot stops safely.

    Attributes:
        actions_ta: Actions, shape (T, A), in the units of the robot's action spec.
        period_ns: Time between two rows, nanoseconds.
        start_ns: When row 0 is due, nanoseconds of the robot host's clock; 0 means now.
        sequence: Counts up by one per chunk of one sender; the robot reports it back.
        lease_token: Fencing number of the lease under which this is sent; 0 without a lease.
        acted_by: Who decided.
        policy_version: Version of the policy that decided; 0 where no policy did.
    """

    actions_ta: Array
    period_ns: int
    start_ns: int = 0
    sequence: int = 0
    lease_token: int = 0
    acted_by: ActedBy = ActedBy.POLICY
    policy_version: int = 0

    def __post_init__(self) -> None:
        if not isinstance(self.actions_ta, np.ndarray) or self.actions_ta.ndim != 2:
            shape = getattr(self.actions_ta, "shape", type(self.actions_ta).__name__)
            raise SpecError("actions of a chunk", got=shape, expected="an array of shape (T, A)")
        if len(self.actions_ta) == 0 or self.period_ns <= 0:
            raise SpecError(
                "action chunk",
                got=f"{len(self.actions_ta)} rows, period {self.period_ns} ns",
                expected="at least one row and a positive period",
            )

    @property
    def end_ns(self) -> int:
        """When the last row has been played, on the clock of ``start_ns``."""
        return self.start_ns + len(self.actions_ta) * self.period_ns


@dataclass(frozen=True)
class AppliedAction:
    """The last action that really reached the driver, after the safety gate.

    Attributes:
        action: What was sent to the motors, shape (A,).
        sequence: Sequence number of the chunk it came from; 0 before the first.
        row: Its row in that chunk.
        changed: Whether the safety gate changed it.
        stamp_ns: When it was sent, nanoseconds.
    """

    action: Array
    sequence: int
    row: int = 0
    changed: bool = False
    stamp_ns: int = 0
