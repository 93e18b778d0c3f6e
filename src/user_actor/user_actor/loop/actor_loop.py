"""The control loop: wait until all is well, reset, run an episode, again."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from dataclasses import dataclass

from user_actor.loop.action_source import ActionSource
from user_actor.loop.clock import Clock, SystemClock
from user_actor.loop.config import ActorLoopConfig
from user_actor.loop.episode import EpisodeLoop
from user_actor.loop.pacer import Pacer
from user_actor.loop.policy import PolicyHolder
from user_actor.loop.ports import EpisodeSink, RobotPort, TeleopPort
from user_actor.loop.recording import Feedback
from user_actor.loop.remote import InferencePort
from user_actor.loop.stats import LoopState, LoopStats, LoopStatus
from user_actor.loop.timing import Backlog
from user_core.errors import ConfigError, DeviceTimeout, SuiteError
from user_core.interfaces import Reward
from user_core.types import EpisodeResult, EpisodeSource, Observation, Outcome


@dataclass(frozen=True)
class EpisodePlan:
    """The next episode.

    Attributes:
        source: Why it is recorded.
        seed: Seed of the reset; None: none is given.
    """

    source: EpisodeSource
    seed: int | None


class EpisodeSchedule:
    """Mixes evaluation episodes into the others. Pure."""

    def __init__(self, config: ActorLoopConfig) -> None:
        self._config = config
        self._finished = 0  # since the last evaluation
        self._evaluating = 0  # evaluation episodes still to come of this round
        self._started = 0

    def next(self, may_evaluate: bool) -> EpisodePlan:
        """Plan an episode; evaluation only if there is a policy worth it."""
        config, evaluation = self._config, self._config.evaluation
        if config.mode == "evaluation":
            return EpisodePlan(
                EpisodeSource.EVALUATION, self._seed(evaluation.seed, self._finished)
            )
        if not self._evaluating and evaluation.every and self._finished >= evaluation.every:
            self._evaluating, self._finished = evaluation.episodes, 0
        if self._evaluating and may_evaluate:
            done = evaluation.episodes - self._evaluating
            return EpisodePlan(EpisodeSource.EVALUATION, self._seed(evaluation.seed, done))
        source = EpisodeSource.ONLINE
        if config.mode == "demonstration":
            source = EpisodeSource.DEMONSTRATION
        seed = self._seed(config.seed, self._started)
        self._started += 1
        return EpisodePlan(source, seed)

    def finished(self, plan: EpisodePlan) -> None:
        """An episode came to an end that counts; one that was aborted is tried again."""
        if plan.source is EpisodeSource.EVALUATION and self._evaluating:
            self._evaluating -= 1
        else:
            self._finished += 1

    def _seed(self, first: int, offset: int) -> int | None:
        return None if first < 0 else first + offset


# --- The control loop: wait until all is well, reset, run an episode, again ---


_LOOK_S = 0.05
_log = logging.getLogger(__name__)


class ActorLoop:
    """Collects experience with one robot; :meth:`run` in a thread of its own.

    It never waits for disk or network, nor, with a robot in real time, for the learner: steps go
    into a sink that takes them at once, and policies come from a holder that has them ready. It pauses while the sink, the robot or
    the policy give a reason to, and goes on by itself when that has passed.

    Args:
        config: Parameters.
        robot: The robot.
        policies: The policy; None in demonstrations, and where it is elsewhere.
        reward: Judges steps.
        sink: Where steps go.
        teleop: The person; None without one.
        clock: Tells the time.
        on_result: Called with the result of each episode, in the loop's thread; returns at once.
        inference: The policy on another host; None where it is here.

    Attributes:
        backlog: Is told how far the learner is behind, where a robot in lockstep heeds it.
    """

    def __init__(
        self,
        config: ActorLoopConfig,
        robot: RobotPort,
        policies: PolicyHolder | None,
        reward: Reward,
        sink: EpisodeSink,
        teleop: TeleopPort | None = None,
        clock: Clock | None = None,
        on_result: Callable[[EpisodeResult], None] = lambda result: None,
        inference: InferencePort | None = None,
    ) -> None:
        if inference is not None and robot.spec.lockstep:
            raise ConfigError(
                "remote inference", got=f"{robot.spec.robot!r}, whose time passes by commands",
                expected="a robot in real time", hint="A simulation has real_time for that",
            )  # fmt: skip
        self._config, self._robot, self._policies, self._sink = config, robot, policies, sink
        self._clock = clock or SystemClock()
        self._on_result = on_result
        self.stats = LoopStats()
        self.pacer = Pacer(int((config.period_s or robot.spec.period_s) * 1e9))
        steps_before = sink.total_steps
        self.backlog = Backlog(config.max_backlog_steps, self._clock)
        self._actions = ActionSource(
            config, robot, policies, teleop, self.pacer, self._clock, self.stats,
            lambda: steps_before + self.stats.steps, inference,
        )  # fmt: skip
        self.episodes = EpisodeLoop(
            config, robot, self._actions, reward, sink, self.pacer, self._clock, self.stats,
            self.backlog, self._why_stop,
        )  # fmt: skip
        self._schedule = EpisodeSchedule(config)
        self._sleeping = threading.Condition()
        self._stopping = ""
        self._paused = self._last_failure = ""

    def run(self) -> None:
        """Collect until :meth:`stop`, or until ``max_episodes`` have been recorded."""
        self._robot.observations.resume()
        while not self._stopping:
            if self.is_done:
                self._state(LoopState.WAITING, "all episodes are recorded")
                return
            try:
                self._turn()
            except Exception as error:  # a bug must not leave a robot without an actor
                self._failed(error)
        self._state(LoopState.WAITING, self._stopping)

    @property
    def is_done(self) -> bool:
        """Whether ``max_episodes`` have been recorded."""
        return 0 < self._config.max_episodes <= self.stats.episodes

    def stop(self, why: str = "the actor is stopped") -> None:
        """End the episode at the next step, and :meth:`run` with it. From any thread."""
        with self._sleeping:
            self._stopping = why
            self._sleeping.notify_all()
        self._robot.observations.interrupt()

    def pause(self, why: str) -> None:
        """End the episode at the next step, and begin no other until :meth:`resume`."""
        self._paused = why

    def resume(self) -> None:
        """Begin episodes again."""
        self._paused = ""

    def status(self) -> LoopStatus:
        """How it is doing. From any thread."""
        stats, milli = self.stats, 1e-6
        return LoopStatus(
            state=stats.state,
            detail=stats.detail,
            steps=stats.steps,
            episodes=stats.episodes,
            success_rate=stats.success_rate,
            last_return=stats.last_return,
            rate_hz=stats.rate_hz(self._clock.monotonic_ns()),
            lateness_p99_ms=self.pacer.lateness.percentile_ns(99) * milli,
            overhead_p50_ms=stats.overhead.percentile_ns(50) * milli,
            inference_p50_ms=stats.inference.percentile_ns(50) * milli,
            skipped=self.pacer.skipped,
            warnings=tuple(self._warnings()),
        )

    def _turn(self) -> None:
        """One episode, or a moment of waiting for one."""
        why = self._paused or self._sink.why_paused()
        if why:
            self._state(LoopState.PAUSED, why)
            return self._sleep(_LOOK_S)
        why = self._robot.unready() or self._actions.why_waiting()
        if why:
            self._state(LoopState.WAITING, why)
            return self._sleep(_LOOK_S)
        plan = self._schedule.next(self._actions.has_version)
        first = self._reset(plan)
        if first is None:
            return None
        self._state(LoopState.RUNNING, f"{plan.source.name.lower()} episode")
        result = self.episodes.run(plan.source, first)
        self._state(LoopState.CLOSING, "" if result is None else result.reason)
        if result is not None:
            if result.outcome is not Outcome.ABORTED:
                self._schedule.finished(plan)
            self.stats.episode(result)
            self._on_result(result)
        if self.episodes.failure is not None:
            self._failed(self.episodes.failure)
        elif result is None:
            self._sleep(_LOOK_S)
        else:
            self._last_failure = ""
        return None

    def _failed(self, error: Exception) -> None:
        """Say it (once, while it is the same), and try again after a while."""
        text = str(error) if isinstance(error, SuiteError) else f"{type(error).__name__}: {error}"
        if text != self._last_failure:
            _log.error("an episode failed: %s", text, exc_info=not isinstance(error, SuiteError))
        self._last_failure = text
        self._state(LoopState.WAITING, text)
        self._sleep(self._config.retry_s)

    def _reset(self, plan: EpisodePlan) -> Observation | None:
        """Bring the robot to the start; its first observation, or None when all must stop.

        Raises SuiteError when the robot cannot.
        """
        self._state(LoopState.RESETTING, f"{plan.source.name.lower()} episode")
        future = self._robot.reset(plan.seed)
        deadline_ns = self._clock.monotonic_ns() + int(self._config.reset_timeout_s * 1e9)
        first = self._await_reset(future, deadline_ns)
        if first is None or self._robot.spec.lockstep:
            return first
        # time has passed since: begin with the newest observation of the new episode
        age_ns = int(self._config.max_observation_age_s * 1e9)
        fresh = self._robot.observations.wait_for(
            lambda seen: seen.episode == first.episode, self._clock.monotonic_ns() + age_ns
        )
        if fresh is None and not self._why_stop():
            raise DeviceTimeout(
                "the robot after its reset",
                got="no observation of the new episode",
                expected=f"one within {self._config.max_observation_age_s} s",
            )
        return fresh

    def _await_reset(self, future: Future[Observation], deadline_ns: int) -> Observation | None:
        while True:
            try:
                return future.result(timeout=_LOOK_S)
            except FutureTimeout:
                if self._why_stop():
                    return None
                if self._clock.monotonic_ns() > deadline_ns:
                    raise DeviceTimeout(
                        "reset of the robot",
                        got=f"nothing for {self._config.reset_timeout_s} s",
                        expected="its first observation",
                    ) from None

    def _why_stop(self) -> str:
        return self._stopping or self._paused

    def _sleep(self, duration_s: float) -> None:
        end_ns = self._clock.monotonic_ns() + int(duration_s * 1e9)
        with self._sleeping:
            while not self._stopping and (left_ns := end_ns - self._clock.monotonic_ns()) > 0:
                self._clock.wait(self._sleeping, left_ns * 1e-9)

    def _state(self, state: LoopState, detail: str) -> None:
        self.stats.state, self.stats.detail = state, detail

    def _warnings(self) -> list[str]:
        runs, arbiter = self.episodes, self._actions.arbiter
        counts = {
            "steps began without a newer observation": runs.starved,
            "commands were sent again for want of an answer": runs.asked_again,
            "decisions were never answered": runs.recorder.unanswered,
            "deadlines were skipped": self.pacer.skipped,
            "answers of the policy elsewhere were over when they came": self._actions.stale_answers,
            "commands of the person were too old": arbiter.stale,
            "commands of the person did not fit the robot": arbiter.misfits,
        }
        for kind in (Feedback.LATE, Feedback.FOREIGN, Feedback.MISSING):
            counts[f"steps had {kind.value} feedback"] = runs.recorder.feedback[kind]
        said = [f"{number} {text}" for text, number in counts.items() if number]
        if self._policies is not None and self._policies.last_refusal:
            said.append(self._policies.last_refusal)
        return said
