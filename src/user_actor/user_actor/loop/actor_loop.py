"""The actor's loop: wait until everything is ready, run an episode, repeat."""

from __future__ import annotations

import logging
import threading
from dataclasses import dataclass

from user_actor.loop.acting.policy import PolicyHolder
from user_actor.loop.config import ActorLoopConfig
from user_actor.loop.episode import EpisodeLoop
from user_actor.loop.recording import Feedback
from user_actor.loop.start import Proof, StartSignal
from user_actor.loop.stats import LoopState, LoopStatus
from user_core.errors import ConfigError, SuiteError, is_of_a_person, may_pass
from user_core.reasons import (
    ASKED_BACK,
    EVALUATION_GIVEN_UP,
    NO_REASON,
    PERSON_TOOK_OVER,
    REQUESTED,
    STEPS_IRREGULAR,
    STOPPING,
    EqualFailures,
    Lately,
    Reason,
)
from user_core.types import EpisodeResult, EpisodeSource, Outcome

_LOOK_S = 0.05
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class EpisodePlan:
    """The next episode.

    Attributes:
        source: Why it is recorded.
        seed: Seed of the reset; None: none is given.
        keep_version: Whether it belongs to a round of evaluations that has begun, and is about
            the same policy version.
    """

    source: EpisodeSource
    seed: int | None
    keep_version: bool = False


#: Ends of an evaluation that say nothing about whether the next attempt comes further.
_ASKED_FOR = (REQUESTED, STOPPING, ASKED_BACK)
#: Why no episode is begun any more.
WAS_ASKED_BACK = Reason(ASKED_BACK, "the robot was asked back; no episode is begun")


class EpisodeSchedule:
    """Mixes evaluation episodes into the others. Pure.

    Evaluations that are aborted again and again, for instance because whoever corrects the policy takes those over,
    too, would leave no time to collect in: their round is given up, and the next one comes when it is due.

    Attributes:
        given_up: Why the last round was given up; false once an evaluation has come to an end that counts.
        rounds_given_up: How many rounds were.
    """

    def __init__(self, config: ActorLoopConfig) -> None:
        self._config = config
        self._finished = 0  # since the last evaluation
        self._evaluating = 0  # evaluation episodes still to come of this round
        self._started = 0
        self._aborted = 0  # evaluations in a row
        self.given_up, self.rounds_given_up = NO_REASON, 0

    def evaluate_next(self) -> int:
        """Begin a round of evaluations with the next episode; how many episodes it has. Raises ConfigError where
        nothing is evaluated, or everything."""
        if self._config.mode != "online":
            raise ConfigError(
                "an evaluation", got=f"mode {self._config.mode!r}", expected="a robot that collects"
            )
        if not self._evaluating:
            self._evaluating, self._finished = self._config.evaluation.episodes, 0
        return self._evaluating

    def next(self, may_evaluate: bool) -> EpisodePlan:
        """Plan an episode; evaluation only if there is a policy worth it."""
        config, evaluation = self._config, self._config.evaluation
        if config.mode == "evaluation":
            return EpisodePlan(
                EpisodeSource.EVALUATION,
                self._seed(evaluation.seed, self._finished),
                self._finished % evaluation.episodes > 0,
            )
        if not self._evaluating and evaluation.every and self._finished >= evaluation.every:
            self._evaluating, self._finished = evaluation.episodes, 0
        if self._evaluating and may_evaluate:
            done = evaluation.episodes - self._evaluating
            return EpisodePlan(
                EpisodeSource.EVALUATION, self._seed(evaluation.seed, done), done > 0
            )
        source = EpisodeSource.ONLINE
        if config.mode == "demonstration":
            source = EpisodeSource.DEMONSTRATION
        seed = self._seed(config.seed, self._started)
        self._started += 1
        return EpisodePlan(source, seed)

    def proof(self, done: int) -> EpisodePlan:
        """Plan one of the evaluations at the beginning; ``done`` of its round are over."""
        seed = self._seed(self._config.evaluation.seed, done)
        return EpisodePlan(EpisodeSource.EVALUATION, seed, done > 0)

    def finished(self, plan: EpisodePlan) -> None:
        """An episode came to an end that counts."""
        if plan.source is EpisodeSource.EVALUATION:
            self._aborted, self.given_up = 0, NO_REASON
        if plan.source is EpisodeSource.EVALUATION and self._evaluating:
            self._evaluating -= 1
        else:
            self._finished += 1

    def aborted(self, plan: EpisodePlan, result: EpisodeResult) -> None:
        """An episode was aborted: it is tried again, an evaluation only so often."""
        evaluates = plan.source is EpisodeSource.EVALUATION and self._evaluating
        if not evaluates or result.reason_code in _ASKED_FOR:
            return
        self._aborted += 1
        if not 0 < self._config.evaluation.attempts <= self._aborted:
            return
        text = (
            f"a round of evaluations was given up after {self._aborted} aborted in a row (the last: {result.reason}), "
            f"{self._evaluating} not done; the robot goes on collecting"
        )
        if result.reason_code == PERSON_TOOK_OVER:
            text += ". Whoever corrects must leave evaluations alone"
        self.given_up = Reason(EVALUATION_GIVEN_UP, text)
        self.rounds_given_up += 1
        self._evaluating = self._finished = self._aborted = 0
        _log.warning("%s", text)

    def _seed(self, first: int, offset: int) -> int | None:
        return None if first < 0 else first + offset


class ActorLoop:
    """Collects experience with one robot; :meth:`run` in a thread of its own.

    It pauses while the sink, the robot or the policy give a reason to, and goes on by itself when
    that has passed. With a robot in real time it never waits for the learner.

    Args:
        episodes: Runs the episodes.

    Attributes:
        stats: What it counts, for people.
        pacer: The grid of deadlines.
        backlog: Is told how far the learner is behind, where a robot in lockstep heeds it.
        start: Whether a person has said go, where one must.
        proof: Whether the policy has shown that it may act alone, where it must.
    """

    def __init__(self, episodes: EpisodeLoop) -> None:
        self.episodes, self.stats = episodes, episodes.stats
        self.pacer, self.backlog = episodes.timing.pacer, episodes.timing.backlog
        self._config, self._clock = episodes.config, episodes.clock
        self._schedule = EpisodeSchedule(episodes.config)
        config = episodes.config
        waits = config.start == "operator" or config.proof.episodes > 0
        self.start = StartSignal(waits, config.go_lapses_s)
        self.proof = Proof(config.proof, self.start)
        self._sleeping = threading.Condition()
        self._stopping = self._paused = self._finishing = NO_REASON
        self._ended = False
        self._last_failure, self._last_aborted = NO_REASON, ""
        self._lately = Lately()
        self._equal = EqualFailures(config.equal_failures)

    @property
    def given_up(self) -> Reason:
        """The failure that came so often that :meth:`run` has raised it; false before."""
        return self._equal.given_up

    def evaluate_next(self) -> int:
        """A person wants to know how good the policy is: a round of evaluations comes next. Any thread.

        Returns:
            How many episodes.

        Raises:
            ConfigError: This actor does not collect.
        """
        return self._schedule.evaluate_next()

    def run(self) -> None:
        """Collect until :meth:`stop`, or until ``max_episodes`` have been recorded.

        Raises:
            BaseException: What episodes failed by, equally and too often.
        """
        try:
            self._run()
        finally:
            self._ended = True

    def _run(self) -> None:
        self.episodes.robot.observations.resume()
        while not self._stopping and not self._finishing:
            if self.is_done:
                self.stats.set(LoopState.WAITING, "all episodes are recorded")
                return
            try:
                self._turn()
            except BaseException as error:  # a bug must not leave a robot without an actor
                if is_of_a_person(error):
                    raise
                self._failed(error)
                if self._equal.given_up:
                    raise
        self.stats.set(LoopState.WAITING, self._stopping or self._finishing)

    @property
    def is_finished(self) -> bool:
        """Whether :meth:`run` has returned: no episode runs, and none will begin."""
        return self._ended

    @property
    def is_done(self) -> bool:
        """Whether ``max_episodes`` have been recorded."""
        return 0 < self._config.max_episodes <= self.stats.episodes

    def finish(self, limit_s: float) -> None:
        """End :meth:`run` when the episode has come to its end, or is cut. From any thread.

        Args:
            limit_s: How long the episode may go on.
        """
        with self._sleeping:
            self._finishing = WAS_ASKED_BACK
            self._sleeping.notify_all()
        self.episodes.finish(limit_s)

    def stop(self, text: str = "the actor is stopped") -> None:
        """End the episode at the next step, and :meth:`run` with it. From any thread."""
        with self._sleeping:
            self._stopping = Reason(STOPPING, text)
            self._sleeping.notify_all()
        self.episodes.stop(self._stopping)

    def pause(self, text: str) -> None:
        """End the episode at the next step, and begin no other until :meth:`resume`."""
        self._paused = Reason(REQUESTED, text)
        self.episodes.stop(self._paused)

    def resume(self) -> None:
        """Begin episodes again."""
        self._paused = NO_REASON
        if not self._stopping:
            self.episodes.resume()

    def status(self) -> LoopStatus:
        """How it is doing. From any thread."""
        stats, pacer, milli = self.stats, self.pacer, 1e-6
        return LoopStatus(
            state=stats.state,
            reason=stats.reason,
            steps=stats.steps,
            episodes=stats.episodes,
            success_rate=stats.success_rate,
            last_return=stats.last_return,
            rate_hz=stats.rate_hz(self._clock.monotonic_ns()),
            lateness_p99_ms=pacer.lateness.percentile_ns(99) * milli,
            overhead_p50_ms=stats.overhead.percentile_ns(50) * milli,
            inference_p50_ms=stats.inference.percentile_ns(50) * milli,
            skipped=pacer.skipped,
            warnings=tuple(self._warnings()),
            rounds_given_up=self._schedule.rounds_given_up,
        )

    def _turn(self) -> None:
        """One episode, or a moment of waiting for one."""
        episodes = self.episodes
        reason = self._paused or episodes.sink.why_paused()
        if reason:
            self.stats.set(LoopState.PAUSED, reason)
            return self._sleep(_LOOK_S)
        unready = episodes.robot.unready()
        self.start.robot_is(unready, self._clock.monotonic_ns())
        reason = unready or episodes.actions.why_waiting() or self.start.why_waiting()
        if reason:
            self.stats.set(LoopState.WAITING, reason)
            return self._sleep(_LOOK_S)
        proving = self.proof.evaluates and episodes.actions.has_version
        if proving:
            plan = self._schedule.proof(self.proof.done)
        else:
            plan = self._schedule.next(episodes.actions.has_version)
        result = episodes.run(plan.source, plan.seed, plan.keep_version)
        if result is None:
            return self._sleep(_LOOK_S)
        aborted = result.outcome is Outcome.ABORTED
        if proving:
            self.proof.evaluated(result)
        else:
            self.proof.collected()
            if aborted:
                self._schedule.aborted(plan, result)
            else:
                self._schedule.finished(plan)
        if aborted:
            code = f" [{result.reason_code}]" if result.reason_code else ""
            self._last_aborted = f"; the last episode was aborted: {result.reason}{code}"
        self._last_failure = NO_REASON
        self._equal.clear()
        return None

    def _failed(self, error: BaseException) -> None:
        """Say it (once, while it is the same), and try again after a while."""
        reason = Reason.of(error)
        if reason != self._last_failure:
            trace = not isinstance(error, SuiteError)
            _log.error("an episode failed: %s", reason.text, exc_info=trace)
        self._last_failure = reason
        if may_pass(error):
            self._equal.clear()
        else:
            self._equal.add(reason)
        self.stats.set(LoopState.WAITING, reason)
        self._sleep(self._config.retry_s)

    def _sleep(self, duration_s: float) -> None:
        end_ns = self._clock.monotonic_ns() + int(duration_s * 1e9)
        with self._sleeping:
            while (
                not (self._stopping or self._finishing)
                and (left_ns := end_ns - self._clock.monotonic_ns()) > 0
            ):
                self._clock.wait(self._sleeping, left_ns * 1e-9)

    def _warnings(self) -> list[Reason]:
        timing, actions = self.episodes.timing, self.episodes.actions
        recorder, arbiter = self.episodes.recorder, actions.arbiter
        counts = {
            "commands were sent again for want of an answer": timing.asked_again,
            "decisions were never answered": recorder.unanswered,
            "commands of the person did not fit the robot": arbiter.misfits,
        }
        late = {  # of which a busy machine always makes a few
            "steps began without a newer observation": timing.starved,
            "deadlines were skipped": self.pacer.skipped,
            "answers of the remote policy came too late": actions.stale_answers,
            "commands of the person were too old": arbiter.stale,
        }
        for kind in (Feedback.LATE, Feedback.FOREIGN, Feedback.MISSING):
            late[f"steps had {kind.value} feedback"] = recorder.feedback[kind]
        said = []
        if self._last_failure:  # first: the counts below are what follows from it
            said.append(Reason(self._last_failure.code, f"an episode failed: {self._last_failure}"))
        if self._schedule.given_up:
            said.append(self._schedule.given_up)
        for text, number in counts.items():
            if self._lately.grew(text, number):
                cause = self._last_aborted if text.endswith("never answered") else ""
                said.append(Reason(STEPS_IRREGULAR, f"{number} {text}{cause}"))
        for text, number in late.items():
            if self._lately.grew_much(text, number, self.stats.steps):
                said.append(Reason(STEPS_IRREGULAR, f"{number} {text}"))
        holders = [actions.policies]
        if actions.fallback is not None:
            holders.append(actions.fallback.policies)
            said += [actions.fallback.reason] if actions.fallback.acts else []
        said += [h.refusal for h in holders if isinstance(h, PolicyHolder) and h.refusal]
        return said
