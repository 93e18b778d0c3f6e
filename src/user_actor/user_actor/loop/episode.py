"""One episode, step by step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from user_actor.loop.action_source import ActionSource
from user_actor.loop.clock import Clock
from user_actor.loop.config import ActorLoopConfig
from user_actor.loop.pacer import Pacer
from user_actor.loop.ports import EpisodeSink, RobotPort
from user_actor.loop.recording import Decision, Ending, EndRules, EpisodeRecorder, aborted
from user_actor.loop.stats import LoopStats
from user_actor.loop.timing import Backlog
from user_core.errors import DeviceTimeout, SpecError, SuiteError
from user_core.interfaces import Reward
from user_core.types import EpisodeResult, EpisodeSource, Label, Observation

_LOOK_NS = 100_000_000
_HOLD_NS = 5_000_000
_LARGEST_FLOAT32 = float(np.finfo(np.float32).max)


class EpisodeLoop:
    """Runs episodes: observe, decide, send, wait, record, until one ends.

    In real time a step begins at its deadline, with the newest observation, which must be newer
    than that of the step before. With a lockstep robot it begins as soon as the observation is
    there that answers the action of the step before, unless a control period was asked for, or
    the learner is behind: such a robot can stand still at no cost.

    Args:
        config: Parameters.
        robot: The robot.
        actions: Decides and sends.
        reward: Judges steps.
        sink: Where steps go.
        pacer: Deadlines.
        clock: Tells the time.
        stats: Counts.
        backlog: How far the learner is behind.
        stop: Why to stop at once, for people; empty to go on.

    Attributes:
        recorder: Counts feedback and unanswered decisions.
        failure: What failed in the last episode.
        starved: Steps that had to wait for a newer observation.
        asked_again: Commands that were sent again for want of an answer.
    """

    def __init__(
        self,
        config: ActorLoopConfig,
        robot: RobotPort,
        actions: ActionSource,
        reward: Reward,
        sink: EpisodeSink,
        pacer: Pacer,
        clock: Clock,
        stats: LoopStats,
        backlog: Backlog,
        stop: Callable[[], str],
    ) -> None:
        self._config, self._robot, self._actions = config, robot, actions
        self._reward, self._sink, self._pacer = reward, sink, pacer
        self._clock, self._stats, self._backlog, self._stop = clock, stats, backlog, stop
        self._rules = EndRules(config)
        self._episode = self._listened_ns = 0
        self._said = Label.NONE
        self.recorder = EpisodeRecorder(sink)
        self.failure: SuiteError | None = None
        self.starved = self.asked_again = 0

    def run(self, source: EpisodeSource, first: Observation) -> EpisodeResult | None:
        """Run an episode from its first observation on.

        Returns its result; None if it had no step. Where policy, reward or robot failed,
        :attr:`failure` says why, and the episode has ended as aborted.
        """
        self.failure = None
        self._said = Label.NONE
        self.recorder.begin(source)
        self._actions.begin(source)
        self._actions.listen(first)  # what a person said before is not about this episode
        self._episode = first.episode
        try:
            return self._steps(source, first)
        except BaseException as error:
            self.recorder.abandon(f"{type(error).__name__}: {error}")
            raise

    def _steps(self, source: EpisodeSource, observation: Observation) -> EpisodeResult | None:
        begin_ns = wake_ns = self._clock.monotonic_ns()
        self._pacer.start(begin_ns)
        while True:
            ending: Ending | None
            wake_ns += self._hold_back(source)
            try:
                decision = self._actions.decide(observation)
            except SuiteError as error:
                return self._fail(observation, error)
            spent_ns = self._clock.monotonic_ns() - wake_ns - self._actions.inference_ns
            self._stats.overhead.add(spent_ns)
            if decision is None:
                ending = self._pass_time(observation)
                observation = self._robot.observations.newest or observation
                wake_ns = self._clock.monotonic_ns()
                if ending is not None:
                    return self._finish(observation, ending)
                continue
            self.recorder.decided(decision)
            after = self._next(decision)
            wake_ns = self._clock.monotonic_ns()
            if after is None:
                return self._finish(observation, aborted(self._why_lost()))
            try:
                ending = self._complete(decision, after, source, (wake_ns - begin_ns) * 1e-9)
            except SuiteError as error:
                return self._fail(after, error)
            if ending is not None:
                return self._finish(after, ending)
            observation = after
            wake_ns += self._listened_ns  # the time of a person is not ours

    def _hold_back(self, source: EpisodeSource) -> int:
        """Let a robot in lockstep wait until its next step is due; how long it did, ns."""
        if not self._robot.spec.lockstep:
            return 0
        begin_ns = now_ns = self._clock.monotonic_ns()
        box, stats = self._robot.observations, self._stats
        if self._config.period_s and self.recorder.steps:
            box.wait_until(self._pacer.due_ns)
            now_ns = self._clock.monotonic_ns()
            self._pacer.met(now_ns)
        if source is EpisodeSource.ONLINE:
            said = stats.detail
            while (why := self._backlog.why_wait()) and not self._stop():
                stats.detail = why
                box.wait_until(now_ns + _HOLD_NS)
                now_ns = self._clock.monotonic_ns()
            stats.detail = said
            self._backlog.step()
        return now_ns - begin_ns

    def _complete(
        self, decision: Decision, after: Observation, source: EpisodeSource, elapsed_s: float
    ) -> Ending | None:
        """Record the step that ``after`` completes, and see whether the episode ends there."""
        begin_ns = self._clock.monotonic_ns()
        label = self._actions.listen(after) or self._said
        self._said = Label.NONE
        self._listened_ns = self._clock.monotonic_ns() - begin_ns
        task = replace(after.task, label=label) if label is not Label.NONE else after.task
        action, acted_by = self.recorder.executed(after.applied)
        verdict = self._reward(decision.observation.arrays, action, after.arrays, task)
        if not abs(verdict.reward) <= _LARGEST_FLOAT32:
            raise SpecError(
                f"reward of {type(self._reward).__name__}",
                got=verdict.reward,
                expected="a finite number",
            )
        self.recorder.complete(action, acted_by, verdict)
        self._stats.step(self._clock.monotonic_ns())
        ending = self._rules.after_step(verdict, task, self.recorder.steps, elapsed_s)
        if ending is not None:
            return ending
        if source is EpisodeSource.EVALUATION and self._actions.taken_over:
            return aborted("a person took over an evaluation")
        why = self._stop() or self._robot.trouble() or self._sink.why_paused()
        return aborted(why) if why else None

    def _next(self, decision: Decision) -> Observation | None:
        """The observation that ends the step; None when the robot is lost or all must stop."""
        if self._robot.spec.lockstep:
            return self._answer(decision)
        box, pacer = self._robot.observations, self._pacer
        pacer.catch_up(self._clock.monotonic_ns())
        box.wait_until(pacer.due_ns)
        pacer.met(self._clock.monotonic_ns())
        before = decision.observation
        newest = box.newest
        if newest is not None and not _differs(newest, before):
            self.starved += 1
        deadline_ns = box.arrived_ns + int(self._config.max_observation_age_s * 1e9)
        return self._await(lambda seen: _differs(seen, before), deadline_ns)

    def _answer(self, decision: Decision) -> Observation | None:
        """The observation of a lockstep robot that has carried out the decision."""
        for attempt in range(self._config.answer_attempts):
            if attempt:
                self._actions.send_again(decision)
                self.asked_again += 1
            deadline_ns = self._clock.monotonic_ns() + int(self._config.answer_timeout_s * 1e9)
            answer = self._await(
                lambda seen: (
                    seen.applied is not None and seen.applied.sequence >= decision.sequence
                ),
                deadline_ns,
            )
            if answer is not None or self._stop() or self._robot.trouble():
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
            if self._clock.monotonic_ns() >= deadline_ns or self._stop() or self._robot.trouble():
                return None

    def _pass_time(self, observation: Observation) -> Ending | None:
        """Nothing to do, until a person begins or a policy elsewhere answers: wait one period."""
        self._robot.observations.wait_until(self._pacer.due_ns)
        self._pacer.met(self._clock.monotonic_ns())
        label = self._actions.listen(observation)
        why = self._stop() or self._robot.trouble() or self._sink.why_paused()
        why = why or self._actions.why_lost()
        if label in (Label.SUCCESS, Label.FAILURE) and self.recorder.steps:
            self._said = label  # it is about what was done, and counts with the next step
        elif label is not Label.NONE:
            why = f"a person said {label.name.lower()} while nothing was done"
        return aborted(why) if why else None

    def _why_lost(self) -> str:
        """Why no observation came."""
        why = self._stop() or self._robot.trouble()
        if why:
            return why
        newest = self._robot.observations.newest
        if newest is not None and newest.episode != self._episode:
            return "the robot was reset, or restarted, within the episode"
        return str(
            DeviceTimeout(
                "the robot",
                got="no new observation",
                expected=f"one within {self._config.max_observation_age_s} s"
                if not self._robot.spec.lockstep
                else f"an answer to its command, asked {self._config.answer_attempts} times",
            )
        )

    def _finish(self, last: Observation, ending: Ending) -> EpisodeResult | None:
        return self.recorder.finish(last.arrays, last.stamp_ns, ending, self._clock.wall_ns())

    def _fail(self, last: Observation, error: SuiteError) -> EpisodeResult | None:
        """Something of ours failed: keep what is complete, end the episode, say it."""
        self.failure = error
        return self._finish(last, aborted(str(error)))


def _differs(one: Observation, other: Observation) -> bool:
    """Whether two observations are different readings; one may be shown twice."""
    return (one.sequence, one.stamp_ns) != (other.sequence, other.stamp_ns)
