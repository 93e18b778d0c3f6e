"""Episodes: one attempt at a task, from reset to end."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum


class EpisodeSource(IntEnum):
    """Why an episode was recorded; samplers mix by it. Stored: never renumber."""

    ONLINE = 0
    DEMONSTRATION = 1
    EVALUATION = 2
    """Deterministic, without exploration or intervention; kept apart from training data."""


class Outcome(IntEnum):
    """How an episode ended. Stored: never renumber."""

    UNFINISHED = 0
    """Still going on, or cut off by a crash."""
    SUCCESS = 1
    FAILURE = 2
    TIMEOUT = 3
    ABORTED = 4
    """Ended by a person, a safety stop or a lost robot."""


@dataclass(frozen=True, order=True)
class EpisodeKey:
    """Identity of an episode, the same everywhere and for ever.

    Attributes:
        producer: Name of the actor that recorded it, unique in a deployment.
        incarnation: Start of that actor's process, nanoseconds since the epoch.
        number: Counts the episodes of that incarnation, from 0.
    """

    producer: str
    incarnation: int
    number: int

    def __str__(self) -> str:
        return f"{self.producer}/{self.incarnation}/{self.number}"


@dataclass(frozen=True)
class EpisodeResult:
    """What came of an episode.

    Attributes:
        key: Which episode.
        source: Why it was recorded.
        outcome: How it ended.
        length: Number of steps.
        episode_return: Sum of the rewards, undiscounted.
        interventions: Number of steps on which a person or script overruled the policy.
        first_version: Policy version of the first step.
        last_version: Policy version of the last step.
        start_ns: When it started, nanoseconds.
        end_ns: When it ended, nanoseconds.
        reason: Why it ended, for people.
        reason_code: The same for programs (:mod:`user_core.reasons`); empty where the outcome says
            it all. It is announced, not stored.
    """

    key: EpisodeKey
    source: EpisodeSource
    outcome: Outcome
    length: int
    episode_return: float
    interventions: int = 0
    first_version: int = 0
    last_version: int = 0
    start_ns: int = 0
    end_ns: int = 0
    reason: str = ""
    reason_code: str = ""
