"""When a step begins, and which observation ends it."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout

from user_actor.loop.config import ActorLoopConfig
from user_actor.loop.ports import RobotPort
from user_actor.loop.recording import Decision
from user_actor.loop.stats import LoopStats
from user_core.errors import DeviceTimeout
from user_core.reasons import (
    LEARNER_BEHIND,
    LEARNER_SILENT,
    NO_REASON,
    ROBOT_WAS_RESET,
    Reason,
)
from user_core.runtime.clock import Clock
from user_core.runtime.pacing import Pacer
from user_core.types import EpisodeSource, Observation

#: A learner that has not been heard for this long is away.
_SILENCE_NS = 2_000_000_000
_LOOK_S = 0.05
_LOOK_NS = 100_000_000
_HOLD_NS = 5_000_000
#: Of a period: by how much a grid moves at a time, and at most.
_SHIFT, _MOST_SHIFT = 0.05, 0.5
#: Steps within which two must wait for their observation before the grid moves: one may be an accident.
_RECENT_STEPS = 10


class Backlog:
    """Says whether a robot whose time costs nothing should wait for the learner.

    A simulation in lockstep makes steps as fast as its machine can, and would leave the learner
    behind: the ratio of updates to steps would fall below what was asked for. A robot in real
    time is never asked to wait.

    Args:
        most_steps: Steps that the learner may be behind; 0: it is never waited for.
        clock: Tells the time.
    """

    def __init__(self, most_steps: float, clock: Clock) -> None:
        self._most_steps, self._clock = most_steps, clock
        self._steps = 0.0
        self._since = 0
        self._heard_ns = 0

    def tell(self, steps: float) -> None:
        """The learner says how many environment steps it has not worked through. Any thread."""
        self._steps, self._since, self._heard_ns = steps, 0, self._clock.monotonic_ns()

    def step(self) -> None:
        """A step is made, of which the learner cannot know yet."""
        self._since += 1

    def why_wait(self) -> Reason:
        """Why no step should be made now; false if one may be."""
        if not self._most_steps:
            return NO_REASON
        if not self._heard_ns or self._clock.monotonic_ns() - self._heard_ns > _SILENCE_NS:
            return Reason(LEARNER_SILENT, "waits for the learner, which is not heard")
        behind = self._steps + self._since
        if behind > self._most_steps:
            return Reason(LEARNER_BEHIND, f"waits for the learner, {behind:.0f} steps behind")
        return NO_REASON


class Phase:
    """How much later than it would the control loop's grid lies, so that observations are there when a step begins.

    A robot begins its own grid anew with each reset, and the loop begins its episode with the answer to that reset. So
    each observation comes just when a step is due, and chance decides whether it is there: it is seen at once,
    or the step waits for it. Where steps wait, the grid moves by a small part of a period, until observations come a
    little before; where they all come early, it moves back. Pure.

    Args:
        period_ns: Of the grid, nanoseconds.

    Attributes:
        shift_ns: By how much the grid lies later, nanoseconds; at most half a period.
    """

    def __init__(self, period_ns: int) -> None:
        self.shift_ns = 0
        self._by_ns, self._most_ns = int(_SHIFT * period_ns), int(_MOST_SHIFT * period_ns)
        self._begin()

    def _begin(self) -> None:
        self._step, self._waited_at = 0, -_RECENT_STEPS
        self._least_ns: int | None = None  # that an observation came before its deadline

    def begin(self) -> int:
        """An episode begins; how much later its first deadline is, nanoseconds."""
        if self._least_ns is not None and self._least_ns > 2 * self._by_ns:
            self.shift_ns = max(0, self.shift_ns - self._by_ns)
        self._begin()
        return self.shift_ns

    def was_early(self, early_ns: int) -> None:
        """A step's observation was there, for this long."""
        self._step += 1
        self._least_ns = early_ns if self._least_ns is None else min(self._least_ns, early_ns)

    def waits(self) -> int:
        """A step must wait for its observation; by how much later all deadlines after it are from now on,
        nanoseconds."""
        self._step += 1
        self._least_ns = 0
        again = self._step - self._waited_at < _RECENT_STEPS
        self._waited_at = self._step
        if not again or self.shift_ns + self._by_ns > self._most_ns:
            return 0
        self.shift_ns += self._by_ns
        return self._by_ns


class StepTiming:
    """Waits, so that each step begins when it should, with the observation that it should have.

    In real time a step begins at its deadline, with the newest observation, which must be newer than that of the step
    before. The grid keeps a little behind the robot's (:class:`Phase`). With a lockstep robot it begins as soon as the
    observation is there that answers the action of the step before, unless a control period was asked for, or the
    learner is behind: such a robot can stand still at no cost.

    Args:
        config: Parameters.
        robot: The robot.
        clock: Tells the time.
        stats: Counts.
        why_stopping: Why to stop at once; false to go on.

    Attributes:
        pacer: The grid of deadlines.
        phase: Where it lies.
        backlog: Is told how far the learner is behind.
        starved: Steps that had to wait for a newer observation.
        asked_again: Commands that were sent again for want of an answer.
    """

    def __init__(
        self,
        config: ActorLoopConfig,
        robot: RobotPort,
        clock: Clock,
        stats: LoopStats,
        why_stopping: Callable[[], Reason],
    ) -> None:
        self._config, self._robot, self._clock = config, robot, clock
        self._stats, self._why_stopping = stats, why_stopping
        self.pacer = Pacer(int((config.period_s or robot.spec.period_s) * 1e9))
        self.phase = Phase(self.pacer.period_ns)
        self.backlog = Backlog(config.max_backlog_steps, clock)
        self.starved = self.asked_again = 0
        self._episode = self._begin_ns = self._awake_ns = self._excused_ns = 0

    # --- the start of an episode --------------------------------------------------------

    def reset(self, seed: int | None) -> Observation | None:
        """Bring the robot to a start; its first observation, or None when all must stop.

        Raises SuiteError when the robot cannot.
        """
        deadline_ns = self._clock.monotonic_ns() + int(self._config.reset_timeout_s * 1e9)
        first = self._await_reset(self._robot.reset(seed), deadline_ns)
        if first is None or self._robot.spec.lockstep:
            return first
        # time has passed since: begin with the newest observation of the new episode
        age_ns = int(self._config.max_observation_age_s * 1e9)
        fresh = self._robot.observations.wait_for(
            lambda seen: seen.episode == first.episode, self._clock.monotonic_ns() + age_ns
        )
        if fresh is None and not self._why_stopping():
            raise DeviceTimeout(
                "the robot after its reset",
                got="no observation of the new episode",
                expected=f"one within {self._config.max_observation_age_s} s",
            )
        return fresh

    def begin(self, first: Observation) -> None:
        """The episode begins now, with this observation."""
        self._episode = first.episode
        self._begin_ns = self._awake_ns = self._clock.monotonic_ns()
        self.pacer.start(self._begin_ns + self.phase.begin())

    @property
    def elapsed_s(self) -> float:
        """Duration of the episode up to its newest observation, seconds."""
        return (self._awake_ns - self._begin_ns) * 1e-9

    # --- one step -----------------------------------------------------------------------

    def await_turn(self, source: EpisodeSource, steps: int) -> None:
        """Let a robot in lockstep wait until its next step is due."""
        if not self._robot.spec.lockstep:
            return
        begin_ns = now_ns = self._clock.monotonic_ns()
        box, stats = self._robot.observations, self._stats
        if self._config.period_s and steps:
            box.wait_until(self.pacer.due_ns)
            now_ns = self._clock.monotonic_ns()
            self.pacer.met(now_ns)
        if source is EpisodeSource.ONLINE:
            shown = stats.state, stats.reason
            while (reason := self.backlog.why_wait()) and not self._why_stopping():
                stats.set(shown[0], reason)
                box.wait_until(now_ns + _HOLD_NS)
                now_ns = self._clock.monotonic_ns()
            stats.set(*shown)
            self.backlog.step()
        self.excuse(now_ns - begin_ns)

    def excuse(self, duration_ns: int) -> None:
        """This time is not to count as the step's own."""
        self._excused_ns += duration_ns

    def acted(self, inference_ns: int) -> None:
        """The step's action was decided: count what it took beyond the policy."""
        spent_ns = self._clock.monotonic_ns() - self._awake_ns - self._excused_ns
        self._excused_ns = 0
        self._stats.overhead.add(spent_ns - inference_ns)

    def next_observation(
        self, decision: Decision, send_again: Callable[[Decision], None]
    ) -> Observation | None:
        """The observation that ends the step; None when the robot is lost or all must stop."""
        if self._robot.spec.lockstep:
            after = self._answer(decision, send_again)
        else:
            after = self._next_on_grid(decision)
        self._awake_ns = self._clock.monotonic_ns()
        return after

    def pass_period(self) -> None:
        """Let one period pass in which nothing is done."""
        self._robot.observations.wait_until(self.pacer.due_ns)
        self._awake_ns = self._clock.monotonic_ns()
        self.pacer.met(self._awake_ns)

    def why_lost(self) -> Reason:
        """Why no observation came."""
        reason = self._why_stopping() or self._robot.trouble()
        if reason:
            return reason
        newest = self._robot.observations.newest
        if newest is not None and newest.episode != self._episode:
            text = "the robot was reset, or restarted, within the episode"
            return Reason(ROBOT_WAS_RESET, text)
        return Reason.of(
            DeviceTimeout(
                "the robot",
                got="no new observation",
                expected=f"one within {self._config.max_observation_age_s} s"
                if not self._robot.spec.lockstep
                else f"an answer to its command, asked {self._config.answer_attempts} times",
            )
        )

    # --- within -------------------------------------------------------------------------

    def _await_reset(self, future: Future[Observation], deadline_ns: int) -> Observation | None:
        while True:
            try:
                return future.result(timeout=_LOOK_S)
            except FutureTimeout:
                if self._why_stopping():
                    return None
                if self._clock.monotonic_ns() > deadline_ns:
                    raise DeviceTimeout(
                        "reset of the robot",
                        got=f"nothing for {self._config.reset_timeout_s} s",
                        expected="its first observation",
                    ) from None

    def _next_on_grid(self, decision: Decision) -> Observation | None:
        """The newest observation at the next deadline, or the first that comes after it."""
        box, pacer, before = self._robot.observations, self.pacer, decision.observation
        pacer.catch_up(self._clock.monotonic_ns())
        box.wait_until(pacer.due_ns)
        now_ns = self._clock.monotonic_ns()
        pacer.met(now_ns)
        newest = box.newest
        if newest is not None and not _differs(newest, before):
            self.starved += 1
            pacer.shift(self.phase.waits())
        else:
            self.phase.was_early(now_ns - box.arrived_ns)
        deadline_ns = box.arrived_ns + int(self._config.max_observation_age_s * 1e9)
        return self._await(lambda seen: _differs(seen, before), deadline_ns)

    def _answer(
        self, decision: Decision, send_again: Callable[[Decision], None]
    ) -> Observation | None:
        """The observation of a lockstep robot that has carried out the decision."""
        for attempt in range(self._config.answer_attempts):
            if attempt:
                send_again(decision)
                self.asked_again += 1
            deadline_ns = self._clock.monotonic_ns() + int(self._config.answer_timeout_s * 1e9)
            answer = self._await(
                lambda seen: (
                    seen.applied is not None and seen.applied.sequence >= decision.sequence
                ),
                deadline_ns,
            )
            if answer is not None or self._why_stopping() or self._robot.trouble():
                return answer
        return None

    def _await(self, wanted: Callable[[Observation], bool], deadline_ns: int) -> Observation | None:
        """Wait for an observation of this episode; look up now and then whether to give up."""

        def ours(seen: Observation) -> bool:
            return seen.episode != self._episode or wanted(seen)

        while True:
            now_ns = self._clock.monotonic_ns()
            seen = self._robot.observations.wait_for(ours, min(deadline_ns, now_ns + _LOOK_NS))
            if seen is not None:
                return seen if seen.episode == self._episode else None
            over = self._clock.monotonic_ns() >= deadline_ns
            if over or self._why_stopping() or self._robot.trouble():
                return None


def _differs(one: Observation, other: Observation) -> bool:
    """Whether two observations are different readings; one may be shown twice."""
    return (one.sequence, one.stamp_ns) != (other.sequence, other.stamp_ns)
