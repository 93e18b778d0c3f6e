"""How an episode ends, and how its steps are recorded with the action that was really in effect."""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass, replace
from enum import Enum

from user_actor.loop.config import ActorLoopConfig
from user_actor.loop.ports import EpisodeSink
from user_core.interfaces import RewardOutcome
from user_core.reasons import PERSON_ENDED, Reason
from user_core.specs import Array, Arrays
from user_core.types import (
    ActedBy,
    AppliedAction,
    EpisodeKey,
    EpisodeResult,
    EpisodeSource,
    FinalObservation,
    Label,
    Observation,
    Outcome,
    Step,
    TaskFeedback,
)

_REMEMBERED = 64
_OVERRULED = (ActedBy.HUMAN, ActedBy.SCRIPT)


@dataclass(frozen=True)
class Ending:
    """The end of an episode.

    Attributes:
        outcome: How it ended.
        terminated: No value lies beyond the last step: bootstrapping stops.
        reason: For people.
        reason_code: The same for programs; empty where the outcome says it all.
    """

    outcome: Outcome
    terminated: bool
    reason: str
    reason_code: str = ""

    @property
    def truncated(self) -> bool:
        """It was cut; values beyond the last step still count."""
        return not self.terminated


def aborted(reason: Reason) -> Ending:
    """The end of an episode that was not judged."""
    return Ending(Outcome.ABORTED, False, reason.text, reason.code)


class EndRules:
    """Decides after each step whether the episode ends there. Pure.

    In this order: what a person says; what the reward says (only these terminate); what the
    robot says about its own limits; our limits of steps and time. Where the robot says that its
    task is over and the reward does not, nothing more comes of the episode (a simulation in real
    time may pass its goal between two readings; an environment refuses further steps): it is
    cut.
    """

    def __init__(self, config: ActorLoopConfig) -> None:
        self._config = config

    def after_step(
        self, verdict: RewardOutcome, task: TaskFeedback, steps: int, elapsed_s: float
    ) -> Ending | None:
        """The ending, or None: it goes on.

        Args:
            verdict: What the reward says about the step.
            task: What robot and person say.
            steps: Steps of the episode so far.
            elapsed_s: Its duration so far, seconds.
        """
        config = self._config
        if task.label is Label.SUCCESS:
            return Ending(Outcome.SUCCESS, True, "a person called it a success")
        if task.label is Label.FAILURE:
            return Ending(
                Outcome.FAILURE, config.failure_terminates, "a person called it a failure"
            )
        if task.label is Label.ABORT:
            return aborted(Reason(PERSON_ENDED, "a person ended it"))
        if verdict.terminated:
            if verdict.success is None:
                return Ending(Outcome.UNKNOWN, True, "the task is over")
            if verdict.success:
                return Ending(Outcome.SUCCESS, True, "the task is solved")
            return Ending(Outcome.FAILURE, True, "the task has failed")
        outcome = Outcome.SUCCESS if verdict.success else Outcome.TIMEOUT
        if verdict.success is None:
            outcome = Outcome.UNKNOWN
        if task.truncated:
            return Ending(outcome, False, "the robot's own limit")
        if task.terminated:
            return Ending(outcome, False, "the robot's task is over, the reward saw no end")
        if config.max_episode_steps and steps >= config.max_episode_steps:
            return Ending(outcome, False, f"{steps} steps")
        if config.max_episode_s and elapsed_s >= config.max_episode_s:
            return Ending(outcome, False, f"{elapsed_s:.1f} s")
        return None


# --- Recording ---


@dataclass(frozen=True)
class Decision:
    """What was decided on an observation, and sent.

    Attributes:
        observation: What was seen.
        proposed: What the policy proposed, (A,).
        sent: What was sent, (A,).
        acted_by: Who decided ``sent``.
        version: Policy version that proposed; 0 where none did.
        sequence: Sequence number of the chunk in which it was sent.
        row: Its row there.
        stamp_ns: When it was sent, nanoseconds.
        plan: Which plan of the policy ``proposed`` is of, counted within the episode from 1; 0: none.
        plan_row: Its row there.
    """

    observation: Observation
    proposed: Array
    sent: Array
    acted_by: ActedBy
    version: int
    sequence: int
    row: int
    stamp_ns: int
    plan: int = 0
    plan_row: int = 0


class Feedback(str, Enum):
    """What the robot reported about an action that was sent to it."""

    EXACT = "exact"
    """It reached the motors, perhaps changed by the safety gate."""
    LATE = "late"
    """When the next observation was taken, another of our actions was in effect."""
    FOREIGN = "foreign"
    """Something was in effect that was never sent from here."""
    MISSING = "missing"
    """The robot reported no action at all."""


class EpisodeRecorder:
    """Gives steps to a sink, each with the action that was really in effect.

    A step is complete once the observation after it is there: that says which action was in
    effect when it was taken (``Observation.applied``), and that action is recorded. Late
    feedback therefore records the earlier action, with who decided that; missing feedback
    records what was sent. All are counted.

    The newest complete step is held back until the next one or the end of the episode, so that
    the last step carries the flag of how it ended, also when a robot was lost within.

    Args:
        sink: Where steps go.

    Attributes:
        feedback: How often each kind of feedback occurred.
        unanswered: Decisions that no observation followed; they are no steps.
    """

    def __init__(self, sink: EpisodeSink) -> None:
        self._sink = sink
        self.feedback: Counter[Feedback] = Counter()
        self.unanswered = 0
        self._sent: deque[tuple[int, ActedBy]] = deque(maxlen=_REMEMBERED)
        self.begin(EpisodeSource.ONLINE)

    def begin(self, source: EpisodeSource) -> None:
        """A new episode; the sink hears of it with its first step."""
        self._source = source
        self._key: EpisodeKey | None = None
        self._decision: Decision | None = None
        self._held: Step | None = None
        self._steps = self._interventions = self._takeovers = 0
        self._overruled = self._fell_back = False
        self._return = 0.0
        self._first: Decision | None = None
        self._last: Decision | None = None

    @property
    def steps(self) -> int:
        """Complete steps of this episode."""
        return self._steps

    def decided(self, decision: Decision) -> None:
        """A decision was made and sent."""
        self._decision = decision
        self._sent.append((decision.sequence, decision.acted_by))

    def executed(self, applied: AppliedAction | None) -> tuple[Array, ActedBy]:
        """The action that was in effect after the decision, and who decided it."""
        decision = self._require()
        kind, acted_by = Feedback.EXACT, decision.acted_by
        if applied is None or applied.action.shape != decision.sent.shape:
            self.feedback[Feedback.MISSING] += 1
            return decision.sent, acted_by
        if applied.sequence != decision.sequence:
            known = dict(self._sent)
            kind = Feedback.LATE if applied.sequence in known else Feedback.FOREIGN
            acted_by = known.get(applied.sequence, acted_by)
        elif applied.row != decision.row:
            kind = Feedback.LATE
        self.feedback[kind] += 1
        return applied.action, acted_by

    def complete(self, action: Array, acted_by: ActedBy, verdict: RewardOutcome) -> None:
        """The step is over; ``action`` was in effect, and this is the verdict on it."""
        decision = self._require()
        self._release()
        self._held = Step(
            observation=decision.observation.arrays,
            action=action,
            proposed_action=decision.proposed,
            reward=verdict.reward,
            acted_by=acted_by,
            policy_version=decision.version,
            reward_source=verdict.source,
            stamp_ns=decision.observation.stamp_ns,
            action_stamp_ns=decision.stamp_ns,
            plan=decision.plan,
            plan_row=decision.plan_row,
        )
        self._steps += 1
        overruled = acted_by in _OVERRULED
        self._interventions += overruled
        self._takeovers += overruled and not self._overruled
        self._overruled = overruled
        self._fell_back |= acted_by is ActedBy.FALLBACK
        self._return += verdict.reward
        self._first = self._first or decision
        self._last, self._decision = decision, None

    def finish(
        self, final: Arrays, final_stamp_ns: int, ending: Ending, end_ns: int
    ) -> EpisodeResult | None:
        """The episode is over; ``final`` was seen last. Its result, or None if it had no step."""
        if self._decision is not None:
            self.unanswered += 1
            self._decision = None
        if self._held is None or self._first is None or self._last is None:
            return None
        self._held = replace(self._held, terminated=ending.terminated, truncated=ending.truncated)
        self._release()
        self._sink.append(FinalObservation(final, final_stamp_ns))
        assert self._key is not None  # noqa: S101 - the step above has begun it
        result = EpisodeResult(
            key=self._key,
            source=self._source,
            outcome=ending.outcome,
            length=self._steps,
            episode_return=self._return,
            interventions=self._interventions,
            first_version=0 if self._fell_back else self._first.version,
            last_version=self._last.version,
            start_ns=self._first.observation.stamp_ns,
            end_ns=end_ns,
            reason=ending.reason,
            reason_code=ending.reason_code,
            takeovers=self._takeovers,
        )
        self._sink.end_episode(result)
        self._key = None
        return result

    def abandon(self, reason: Reason) -> None:
        """The sink did not take a row: end the episode where it stands."""
        if self._key is not None:
            ending = aborted(reason)
            self._sink.end_episode(
                EpisodeResult(
                    self._key, self._source, ending.outcome, self._steps, self._return,
                    self._interventions, reason=ending.reason, reason_code=ending.reason_code,
                    takeovers=self._takeovers,
                )
            )  # fmt: skip
        self.begin(self._source)

    def _release(self) -> None:
        """Give the held step to the sink."""
        if self._held is None:
            return
        if self._key is None:
            self._key = self._sink.begin_episode(self._source)
        self._sink.append(self._held)
        self._held = None

    def _require(self) -> Decision:
        assert self._decision is not None, "complete() without decided()"  # noqa: S101
        return self._decision
