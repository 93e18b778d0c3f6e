"""Observations: named arrays taken together, with one stamp."""

from __future__ import annotations

import math
from dataclasses import dataclass

from user_core.specs import Arrays
from user_core.types.action import AppliedAction
from user_core.types.label import Label


@dataclass(frozen=True)
class TaskFeedback:
    """What the robot itself says about its task; a reward plugin may overrule it.

    Attributes:
        reward: Reward of the last command, NaN where the robot reports none.
        terminated: The task ended in a state from which no value must be bootstrapped.
        truncated: The robot's own time or space limit ended the episode.
        success: Whether the task is solved; None where the robot cannot tell.
        label: What a person said at this moment; the actor adds it.
    """

    reward: float = math.nan
    terminated: bool = False
    truncated: bool = False
    success: bool | None = None
    label: Label = Label.NONE


NO_TASK = TaskFeedback()


@dataclass(frozen=True)
class Observation:
    """One reading of a robot and its cameras.

    Attributes:
        arrays: The named arrays of the robot's observation spec. Not to be written to.
        stamp_ns: When it was taken, nanoseconds since the epoch on the robot host's clock.
        sequence: Counts up by one per reading of one driver.
        episode: How often the robot had been reset when this was taken; tells an
            observation of the new episode from a late one of the old.
        task: What the robot says about its task.
        applied: The last action that reached the driver; None before the first.
    """

    arrays: Arrays
    stamp_ns: int
    sequence: int = 0
    episode: int = 0
    task: TaskFeedback = NO_TASK
    applied: AppliedAction | None = None
