"""Trajectory chunks: a few rows of one episode, by column, as they travel and are stored."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from user_core.errors import SpecError
from user_core.specs import Array, ArraySpec, RobotSpec, check_arrays, digest
from user_core.types.episode import EpisodeKey, EpisodeResult, EpisodeSource
from user_core.types.step import FinalObservation, Step

OBSERVATION = "observation."

_FIXED: dict[str, ArraySpec] = {
    "reward": ArraySpec((), "float32"),
    "terminated": ArraySpec((), "bool"),
    "truncated": ArraySpec((), "bool"),
    "final": ArraySpec((), "bool"),
    "acted_by": ArraySpec((), "uint8"),
    "reward_source": ArraySpec((), "uint8"),
    "policy_version": ArraySpec((), "int64"),
    "stamp_ns": ArraySpec((), "int64", unit="ns"),
    "action_stamp_ns": ArraySpec((), "int64", unit="ns"),
}


@dataclass(frozen=True)
class TrajectorySchema:
    """The columns of a trajectory: one row per observation, the final one included.

    Observation arrays are the columns ``observation.<name>``; ``action`` and
    ``proposed_action`` have the robot's action spec. In the row of a final observation
    (``final`` is true) the action columns are zero and the reward is 0.
    """

    columns: Mapping[str, ArraySpec]

    @classmethod
    def of(cls, spec: RobotSpec) -> TrajectorySchema:
        """The schema of what a robot with this spec experiences."""
        columns = {OBSERVATION + name: item for name, item in spec.observation.items()}
        columns["action"] = columns["proposed_action"] = spec.action
        return cls({**columns, **_FIXED})

    @property
    def hash(self) -> str:
        """Equal for equal names, shapes and dtypes; bounds, units and frames do not count."""
        return digest({k: [list(v.shape), v.dtype] for k, v in self.columns.items()})

    @property
    def row_nbytes(self) -> int:
        """Bytes of one row over all columns."""
        return sum(spec.nbytes for spec in self.columns.values())

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {name: spec.to_dict() for name, spec in self.columns.items()}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> TrajectorySchema:
        """Build from plain data; raises SpecError on anything else."""
        return cls({str(k): ArraySpec.from_dict(v, str(k)) for k, v in data.items()})

    def rows(self, steps: Sequence[Step | FinalObservation]) -> dict[str, Array]:
        """Put steps into columns, each (n, ...), checking every array against its spec."""
        names = [name for name in self.columns if name.startswith(OBSERVATION)]
        specs = {name[len(OBSERVATION) :]: self.columns[name] for name in names}
        columns = {
            name: np.zeros((len(steps), *spec.shape), spec.dtype)
            for name, spec in self.columns.items()
        }
        for row, step in enumerate(steps):
            check_arrays(step.observation, specs)
            for name in names:
                columns[name][row] = step.observation[name[len(OBSERVATION) :]]
            columns["stamp_ns"][row] = step.stamp_ns
            if isinstance(step, FinalObservation):
                columns["final"][row] = True
                continue
            self.columns["action"].check(step.action, "action")
            self.columns["action"].check(step.proposed_action, "proposed_action")
            if not np.isfinite(step.reward):
                raise SpecError("reward of a step", got=step.reward, expected="a finite number")
            for name in (
                "action", "proposed_action", "reward", "terminated", "truncated",
                "acted_by", "reward_source", "policy_version", "action_stamp_ns",
            ):  # fmt: skip
                columns[name][row] = getattr(step, name)
        return columns

    def check(self, columns: Mapping[str, Array]) -> int:
        """Raise SpecError unless these are whole rows of this schema; return how many."""
        if columns.keys() != self.columns.keys():
            raise SpecError(
                "columns of a trajectory",
                got=f"missing {sorted(self.columns.keys() - columns.keys())}, "
                f"unknown {sorted(columns.keys() - self.columns.keys())}",
                expected=sorted(self.columns),
            )
        count = len(columns["reward"]) if columns["reward"].ndim else 0
        for name, spec in self.columns.items():
            array = columns[name]
            if array.dtype != spec.dtype or array.shape != (count, *spec.shape):
                raise SpecError(
                    f"column {name!r}",
                    got=f"{array.dtype}{list(array.shape)}",
                    expected=f"{spec.dtype}{[count, *spec.shape]}",
                )
        return count


@dataclass(frozen=True, order=True)
class ChunkId:
    """Identity of a trajectory chunk; a store keeps each at most once.

    Attributes:
        producer: Name of the actor, unique in a deployment.
        incarnation: Identity of that actor's outbox, nanoseconds since the epoch when it was
            created. It outlives restarts of the process.
        sequence: Counts up by one per chunk of that outbox, from 1, without gaps.
    """

    producer: str
    incarnation: int
    sequence: int


@dataclass(frozen=True)
class TrajectoryChunk:
    """Consecutive rows of one episode.

    Attributes:
        id: Identity for exactly-once delivery.
        episode: Which episode.
        source: Why the episode is recorded.
        first_row: Index of the first row within the episode.
        columns: The rows by column, each (n, ...); see :class:`TrajectorySchema`.
        schema_hash: Hash of the schema the producer used.
        result: What came of the episode, on its last chunk; None on the others.
        robot: Name of the robot.
        task: Name of the task.
        codings: How image columns travel, or came, by name
            (:mod:`user_core.codecs.images`); those that are not named travel as they are.
    """

    id: ChunkId
    episode: EpisodeKey
    source: EpisodeSource
    first_row: int
    columns: Mapping[str, Array] = field(repr=False)
    schema_hash: str
    result: EpisodeResult | None = None
    robot: str = ""
    task: str = ""
    codings: Mapping[str, str] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.columns["reward"])

    @property
    def nbytes(self) -> int:
        """Bytes of all columns."""
        return sum(array.nbytes for array in self.columns.values())
