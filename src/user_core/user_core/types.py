"""The data that flows: observation, action chunk, step, trajectory chunk, policy version, lease."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any

import numpy as np

from user_core.errors import SpecError
from user_core.specs import Array, Arrays, ArraySpec, RobotSpec, check_arrays, digest


class Label(IntEnum):
    """What a person says by a key or button. The values travel; never renumber them."""

    NONE = 0
    SUCCESS = 1
    """The task is solved."""
    FAILURE = 2
    """The attempt has failed."""
    ABORT = 3
    """End the episode without a verdict."""


@dataclass(frozen=True)
class Lease:
    """The right to use one resource for a limited time.

    Attributes:
        resource: Name of the resource.
        holder: Who holds it.
        token: Fencing number, larger than that of every earlier lease of the resource. The
            resource obeys only the newest, so a holder that was thought dead and comes back
            cannot drive it (Kleppmann, "How to do distributed locking", 2016).
        duration_s: How long it lasts from the grant or the last renewal, seconds.
    """

    resource: str
    holder: str
    token: int
    duration_s: float


@dataclass(frozen=True)
class Task:
    """A task, as a policy is told of it at the start of an episode.

    Attributes:
        name: Short and stable, for files and statistics, such as ``pick_cube``.
        instruction: The task in words, for policies that read, such as "put the red cube into
            the bowl". Empty where none was given.
    """

    name: str = ""
    instruction: str = ""


class ActedBy(IntEnum):
    """Who decided an action. The values are stored and travel; never renumber them."""

    POLICY = 0
    HUMAN = 1
    SCRIPT = 2
    """A scripted expert, or any program that is neither the policy nor a person."""
    RANDOM = 3
    """Uniform random warm-up, before the policy has learned anything."""
    FALLBACK = 4
    """A policy on the robot's host, while the one on another host did not answer."""


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


class EpisodeSource(IntEnum):
    """Why an episode was recorded; samplers mix by it. Stored: never renumber."""

    ONLINE = 0
    DEMONSTRATION = 1
    EVALUATION = 2
    """Deterministic, without exploration or intervention; kept apart from training data."""


#: Rewards larger than this cannot be learned from: their sums have no square in float32.
LARGEST_REWARD = 1e15


class Outcome(IntEnum):
    """How an episode ended. Stored: never renumber."""

    UNFINISHED = 0
    """Still going on, or cut off by a crash."""
    SUCCESS = 1
    FAILURE = 2
    TIMEOUT = 3
    ABORTED = 4
    """Ended by a person, a safety stop or a lost robot."""
    UNKNOWN = 5
    """Ended by the task or a limit, and nobody can tell whether it was solved."""

    @property
    def success(self) -> bool | None:
        """Whether the task was solved; None where nobody can tell, or the episode does not count."""
        if self in (Outcome.UNKNOWN, Outcome.UNFINISHED, Outcome.ABORTED):
            return None
        return self is Outcome.SUCCESS


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
    """The result of an episode.

    Attributes:
        key: Which episode.
        source: Why it was recorded.
        outcome: How it ended.
        length: Number of steps.
        episode_return: Sum of the rewards, undiscounted.
        interventions: Number of steps on which a person or script overruled the policy.
        takeovers: How often a person or script took over from the policy: runs of such steps.
        first_version: Policy version of the first step; 0 where a fallback acted, whose success is not that
            of the learner's versions.
        last_version: Policy version of the last step.
        start_ns: When it started, nanoseconds.
        end_ns: When it ended, nanoseconds.
        reason: Why it ended, for people.
        reason_code: The same for programs (:mod:`user_core.reasons`); empty where the outcome says
            it all, and in older data.
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
    takeovers: int = 0


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
    """One step: the observation, what was done, and what reward it brought.

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
        plan: Which plan of the policy ``proposed_action`` is of, counted within the episode from 1; of means over
            several plans the newest. 0: none, or it is not known.
        plan_row: Its row in that plan.
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
    plan: int = 0
    plan_row: int = 0


@dataclass(frozen=True)
class FinalObservation:
    """The observation after the last step of an episode; kept also after a time-out."""

    observation: Arrays
    stamp_ns: int = 0


@dataclass(frozen=True)
class Batch:
    """B transitions, gathered. Arrays are numpy or torch, all with leading dimension B.

    With n-step returns, ``reward`` is the discounted sum of up to n rewards and ``discount``
    is what is left for the value of ``next_observation``: 0 after a *terminated* step, and
    gamma to the power of the steps taken otherwise, also across a truncation. An algorithm
    therefore never looks at the two flags, and cannot confuse them.

    Attributes:
        observation: Named arrays, each (B, ...).
        action: (B, A), or (B, T, A) for windows.
        reward: (B,), or (B, T) for windows.
        discount: (B,), or (B, T) for windows.
        next_observation: Named arrays, each (B, ...).
        extras: Whatever else was asked for, for instance ``demonstration`` (B,) bool, whether people showed it (in
            demonstrations, or in strata that draw what people alone decided), and ``row`` (B,) int64, the place in the
            store.
    """

    observation: Mapping[str, Any]
    action: Any
    reward: Any
    discount: Any
    next_observation: Mapping[str, Any]
    extras: Mapping[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.reward)


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


@dataclass(frozen=True)
class TrajectoryAck:
    """What a store says about the chunks of one outbox. Cumulative, so the newest one suffices.

    Attributes:
        producer: Name of the actor that this is for.
        incarnation: Identity of its outbox, see :class:`~user_core.types.ChunkId`.
        sequence: All chunks up to and including this one are durable; 0: none yet.
        store: Identity of the store; an outbox counts only the acks of its own store.
        refused: Sequence number of a chunk that was refused, 0 without one.
        error_code: Code of the refusal (``SuiteError.code``), for instance ``schema_mismatch``.
        error: What is wrong with the refused chunk, and what to do.
        arrived_ns: When chunk ``sequence`` came to the store, by the store's monotonic clock,
            nanoseconds; 0 where not known. Differences of it tell how full the way there is,
            whatever the way back does (one-way delays as in LEDBAT, RFC 6817).
        held_ns: Time from then to this answer, so that what the store took to make it durable is
            not taken for the link (QUIC's ACK Delay, RFC 9000 section 13.2.5).
    """

    producer: str
    incarnation: int
    sequence: int
    store: str = ""
    refused: int = 0
    error_code: str = ""
    error: str = ""
    arrived_ns: int = 0
    held_ns: int = 0


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


#: An optional column: plan and row of each step. Stores from before have none: schemas with it and without it fit each
#: other.
PLAN = "plan"
_OPTIONAL: dict[str, ArraySpec] = {PLAN: ArraySpec((2,), "int32")}


@dataclass(frozen=True)
class TrajectorySchema:
    """The columns of a trajectory: one row per observation, the final one included.

    Observation arrays are the columns ``observation.<name>``; ``action`` and
    ``proposed_action`` have the robot's action spec. In the row of a final observation
    (``final`` is true) the action columns are zero and the reward is 0. The column ``plan`` is optional: plan and
    row, (2,); it does not count where schemas are compared.
    """

    columns: Mapping[str, ArraySpec]

    @classmethod
    def of(cls, spec: RobotSpec, plans: bool = False) -> TrajectorySchema:
        """The schema of what a robot with this spec experiences; with ``plans`` also which plan each step is of."""
        columns = {OBSERVATION + name: item for name, item in spec.observation.items()}
        columns["action"] = columns["proposed_action"] = spec.action
        return cls({**columns, **_FIXED, **(_OPTIONAL if plans else {})})

    @property
    def required(self) -> TrajectorySchema:
        """Without optional columns."""
        return TrajectorySchema({n: s for n, s in self.columns.items() if n not in _OPTIONAL})

    def fitted(self, columns: Mapping[str, Array]) -> Mapping[str, Array]:
        """Columns of this schema: optional ones that it does not have are left out, those that are missing are 0."""
        if columns.keys() == self.columns.keys() or "reward" not in columns:
            return columns
        rows = len(columns["reward"])
        left = {n: a for n, a in columns.items() if n in self.columns or n not in _OPTIONAL}
        return left | {
            name: np.zeros((rows, *spec.shape), spec.dtype)
            for name, spec in _OPTIONAL.items()
            if name in self.columns and name not in columns
        }

    @property
    def hash(self) -> str:
        """Equal for equal names, shapes and dtypes; bounds, units and frames do not count."""
        counted = self.required.columns
        return digest({k: [list(v.shape), v.dtype] for k, v in counted.items()})

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
            if PLAN in columns:
                columns[PLAN][row] = step.plan, step.plan_row
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
