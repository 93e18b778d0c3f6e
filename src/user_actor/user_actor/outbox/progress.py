"""What is known of an episode while it goes on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from user_core.types import (
    ActedBy,
    EpisodeKey,
    EpisodeResult,
    EpisodeSource,
    FinalObservation,
    Outcome,
    Step,
)

_OVERRULED = (ActedBy.HUMAN, ActedBy.SCRIPT)


@dataclass(frozen=True)
class EpisodeProgress:
    """The sums over the rows of an episode so far; stored with every chunk of it.

    After a crash it is what makes the result of an episode that nobody ended.

    Attributes:
        key: Which episode.
        source: Why it is recorded.
        rows: Rows so far, a final observation included.
        length: Steps so far.
        episode_return: Sum of the rewards so far.
        interventions: Steps on which a person or a script overruled the policy.
        first_version: Policy version of the first step.
        last_version: Policy version of the last step.
        start_ns: Stamp of the first observation, nanoseconds.
        last_ns: Stamp of the last one.
    """

    key: EpisodeKey
    source: EpisodeSource
    rows: int = 0
    length: int = 0
    episode_return: float = 0.0
    interventions: int = 0
    first_version: int = 0
    last_version: int = 0
    start_ns: int = 0
    last_ns: int = 0

    def plus(self, rows: Sequence[Step | FinalObservation]) -> EpisodeProgress:
        """The progress after these rows."""
        steps = [row for row in rows if isinstance(row, Step)]
        if not rows:
            return self
        first = self.rows == 0
        return replace(
            self,
            rows=self.rows + len(rows),
            length=self.length + len(steps),
            episode_return=self.episode_return + sum(float(step.reward) for step in steps),
            interventions=self.interventions + sum(step.acted_by in _OVERRULED for step in steps),
            first_version=steps[0].policy_version if first and steps else self.first_version,
            last_version=steps[-1].policy_version if steps else self.last_version,
            start_ns=rows[0].stamp_ns if first else self.start_ns,
            last_ns=rows[-1].stamp_ns,
        )

    def result(self, outcome: Outcome, reason: str) -> EpisodeResult:
        """The result of an episode that ended at this point."""
        return EpisodeResult(
            key=self.key,
            source=self.source,
            outcome=outcome,
            length=self.length,
            episode_return=self.episode_return,
            interventions=self.interventions,
            first_version=self.first_version,
            last_version=self.last_version,
            start_ns=self.start_ns,
            end_ns=self.last_ns,
            reason=reason,
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> EpisodeProgress:
        """The inverse of :meth:`to_dict`."""
        return cls(
            **{
                **data,
                "key": EpisodeKey(**data["key"]),
                "source": EpisodeSource(data["source"]),
            }
        )
