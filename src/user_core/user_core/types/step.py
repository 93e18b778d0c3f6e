"""Steps: one decision, what came of it, and who is answerable."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

from user_core.specs import Array, Arrays
from user_core.types.action import ActedBy


class RewardSource(IntEnum):
    """Where a reward came from. The values are stored and travel; never renumber them."""

    ROBOT = 0
    """The robot's own task."""
    FUNCTION = 1
    """A reward plugin."""
    HUMAN = 2
    """A person's label (key, button)."""
    RELABELLED = 3
    """Computed again on stored data."""


@dataclass(frozen=True)
class Step:
    """What was seen, what was done about it, and what it brought.

    The next observation is not here: it is the observation of the next step of the episode,
    or the episode's :class:`FinalObservation`. So every observation is stored once.

    Attributes:
        observation: Arrays that the decision was based on.
        action: The action that was really sent to the robot, shape (A,).
        proposed_action: The action that the policy proposed, shape (A,).
        acted_by: Who decided ``action``.
        policy_version: Version that proposed, 0 where none did.
        reward: Reward of this action.
        reward_source: Where the reward came from.
        terminated: The episode ended here, and no value lies beyond: bootstrapping stops.
        truncated: The episode was cut here (time limit, operator); values beyond still count.
        stamp_ns: When the observation was taken, nanoseconds.
        action_stamp_ns: When the action was sent, nanoseconds.
    """

    observation: Arrays
    action: Array
    proposed_action: Array
    reward: float
    terminated: bool = False
    truncated: bool = False
    acted_by: ActedBy = ActedBy.POLICY
    policy_version: int = 0
    reward_source: RewardSource = RewardSource.ROBOT
    stamp_ns: int = 0
    action_stamp_ns: int = 0


@dataclass(frozen=True)
class FinalObservation:
    """What was seen after the last step of an episode; kept also after a time-out."""

    observation: Arrays
    stamp_ns: int = 0
