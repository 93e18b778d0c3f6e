"""The episode loop: observe, decide, send, wait, judge, record, until the episode ends.

There is one, and everything that acts runs it: the actor node, demonstrations, evaluations, the
example in one process, the benchmarks. :meth:`EpisodeLoop._act` is all of it; what it takes to be
right on a robot is in its collaborators: who decides (:mod:`~user_actor.loop.acting.action_source`), when
a step begins and which observation ends it (:mod:`~user_actor.loop.timing`), what is recorded and
how an episode ends (:mod:`~user_actor.loop.recording`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from user_actor.loop.acting.action_source import ActionSource
from user_actor.loop.acting.fallback import Fallback
from user_actor.loop.acting.policy import FixedPolicy, PolicyHolder
from user_actor.loop.acting.remote import InferencePort
from user_actor.loop.config import ActorLoopConfig
from user_actor.loop.ports import EpisodeSink, RobotPort, TeleopPort
from user_actor.loop.recording import Ending, EndRules, EpisodeRecorder, aborted
from user_actor.loop.stats import LoopState, LoopStats
from user_actor.loop.timing import StepTiming
from user_core.errors import (
    ConfigError,
    PluginError,
    SpecError,
    SuiteError,
    in_words,
    is_of_a_person,
)
from user_core.interfaces import Policy, Reward, RewardOutcome
from user_core.reasons import (
    ASKED_BACK,
    INTERNAL,
    NO_REASON,
    PERSON_SAID,
    PERSON_TOOK_OVER,
    STOPPING,
    Reason,
)
from user_core.runtime.clock import Clock
from user_core.specs import Array
from user_core.types import (
    LARGEST_REWARD,
    EpisodeResult,
    EpisodeSource,
    Label,
    Observation,
    Outcome,
    Task,
    TaskFeedback,
)

_SOURCES = {
    "online": EpisodeSource.ONLINE,
    "demonstration": EpisodeSource.DEMONSTRATION,
    "evaluation": EpisodeSource.EVALUATION,
}
_STOPPED = Reason(STOPPING, "the loop is stopped")


class EpisodeLoop:
    """Runs episodes with one robot.

    ::

        EpisodeLoop(robot, policy, reward, sink).run(seed=3)

    It never waits for disk or network: the sink takes steps at once, and a
    :class:`~user_actor.loop.acting.policy.PolicyHolder` has the newest policy version ready.

    Args:
        robot: The robot, behind its safety gate and under a lease.
        policy: What acts: a policy with the weights that it has, a holder that exchanges
            versions between two steps, or a policy on another host; None in demonstrations.
        reward: Judges steps.
        sink: Where steps go.
        config: Mode, limits, exploration, when a person drives.
        teleop: The person; None without one.
        clock: Tells the time.
        task: What policies are told at the start of each episode.
        on_step: Called in the loop's thread after each step, with the observation that ended it.
        on_result: Called in the loop's thread with the result of each episode that had a step,
            also of one that failed.
        fallback: What acts here while a policy on another host does not answer; None: nothing.

    Attributes:
        stats: What it counts, for people.
        actions: Decides and sends.
        timing: Deadlines, and how far a learner is behind that a robot in lockstep waits for.
        recorder: Counts feedback and decisions that were not answered.

    Raises:
        ConfigError: The policy is on another host, and the robot's time passes by commands.
    """

    def __init__(
        self,
        robot: RobotPort,
        policy: Policy | FixedPolicy | PolicyHolder | InferencePort | None,
        reward: Reward,
        sink: EpisodeSink,
        config: ActorLoopConfig | None = None,
        *,
        teleop: TeleopPort | None = None,
        clock: Clock | None = None,
        task: Task = Task(),  # noqa: B008 - it is frozen
        on_step: Callable[[Observation], None] = lambda observation: None,
        on_result: Callable[[EpisodeResult], None] = lambda result: None,
        fallback: Fallback | None = None,
    ) -> None:
        policies = FixedPolicy(policy) if isinstance(policy, Policy) else policy
        if robot.spec.lockstep and not isinstance(policies, FixedPolicy | PolicyHolder | None):
            raise ConfigError(
                "remote inference", got=f"{robot.spec.robot!r}, whose time passes by commands",
                expected="a robot in real time", hint="A simulation has real_time for that",
            )  # fmt: skip
        if robot.spec.lockstep and config is not None and config.chunks.inference == "thread":
            raise ConfigError(
                "loop.chunks.inference", got=f"thread, and {robot.spec.robot!r} in lockstep",
                expected="inline: its time passes by commands, so no policy is too slow for it",
                hint="chunks.delay_steps shows what a slow one would cost",
            )  # fmt: skip
        self.config, self.robot, self.sink = config or ActorLoopConfig(), robot, sink
        self.clock, self.stats = clock or Clock(), LoopStats()
        self._reward, self._on_step, self._on_result = reward, on_step, on_result
        self.task = task
        self._steps_before = sink.total_steps
        self._stopping = NO_REASON
        self._cut_ns: int | None = None
        self._label = Label.NONE
        self.timing = StepTiming(self.config, robot, self.clock, self.stats, self.why_stopping)
        self.actions = ActionSource(
            self.config, robot, policies, teleop, self.timing.pacer, self.clock, self.stats,
            lambda: self._steps_before + self.stats.steps, fallback,
        )  # fmt: skip
        self.rules, self._next_rules = EndRules(self.config), EndRules(self.config)
        self.recorder = EpisodeRecorder(sink)

    def run(
        self,
        source: EpisodeSource | None = None,
        seed: int | None = None,
        keep_version: bool = False,
    ) -> EpisodeResult | None:
        """Bring the robot to a start, act until the episode ends, and record it.

        Args:
            source: Why the episode is recorded; None: what the configured mode says.
            seed: Of the start, where the robot has a say in it; None: none is given.
            keep_version: Act with the version of the evaluation before. An evaluation acts with
                one version throughout in any case.

        Returns:
            What came of it; None if it had no step, or was told to stop before it began.

        Raises:
            SuiteError: Robot, policy or reward failed. The episode has ended as aborted, with
                the steps that were complete.
        """
        source = source or _SOURCES[self.config.mode]
        self.stats.set(LoopState.RESETTING, f"{source.name.lower()} episode")
        first = self.timing.reset(seed)
        if first is None or self._cut_ns is not None:  # asked back meanwhile: none is begun
            return None
        self.stats.set(LoopState.RUNNING, f"{source.name.lower()} episode")
        self.rules = self._next_rules
        self.recorder.begin(source)
        self.actions.begin(source, self.task, keep_version)
        self.actions.listen(first)  # what a person said before is not about this episode
        self._label = Label.NONE
        self.timing.begin(first)
        try:
            self._reward.reset()
            return self._act(source, first)
        except BaseException as error:
            text = in_words(error)
            code = error.code if isinstance(error, SuiteError) else INTERNAL
            self.recorder.abandon(Reason(code, text))
            if isinstance(error, Exception) or is_of_a_person(error):
                raise
            raise PluginError(
                "a plugin within an episode", got=text, expected="no end of the process"
            ) from error

    def limit_episodes(self, max_episode_steps: int, max_episode_s: float) -> None:
        """Other limits from the next episode on; 0: none. Any thread."""
        changed = {"max_episode_steps": max_episode_steps, "max_episode_s": max_episode_s}
        self._next_rules = EndRules(self.config.replace(**changed))

    def finish(self, limit_s: float) -> None:
        """Let the episode that runs come to its end, and begin no other. Any thread.

        Args:
            limit_s: How long it may go on; then it is cut as truncated, and an evaluation aborted.
                Asked again, the earlier time counts.
        """
        cut_ns = self.clock.monotonic_ns() + int(limit_s * 1e9)
        self._cut_ns = cut_ns if self._cut_ns is None else min(self._cut_ns, cut_ns)

    def stop(self, reason: Reason = _STOPPED) -> None:
        """End the episode at the next step, and begin no other until :meth:`resume`. Any thread."""
        self._stopping = reason
        self.robot.observations.interrupt()

    def resume(self) -> None:
        """Let episodes begin again. Any thread."""
        self._stopping = NO_REASON
        self.robot.observations.resume()

    def why_stopping(self) -> Reason:
        """Why it was told to stop; false if it was not."""
        return self._stopping

    # --- one episode --------------------------------------------------------------------

    def _act(self, source: EpisodeSource, observation: Observation) -> EpisodeResult | None:
        ending: Ending | None = None
        try:
            while ending is None:
                self.timing.await_turn(source, self.recorder.steps)  # only lockstep can wait
                decision = self.actions.decide(observation)  # policy, person, chance; and send
                self.timing.acted(self.actions.inference_ns)
                if decision is None:  # a person has not begun, or a remote policy not answered
                    ending = self._pass_time(observation) or self._cut(source)
                    observation = self.robot.observations.newest or observation
                    continue
                self.recorder.decided(decision)
                after = self.timing.next_observation(decision, self.actions.send_again)
                if after is None:
                    ending = aborted(self.timing.why_lost())
                    break
                before, observation = observation, after
                task = self._listen(after)  # a person may judge, or want to drive
                action, acted_by = self.recorder.executed(after.applied)  # what the motors got
                outcome, ending = self._judge(before, action, after, task)
                self.recorder.complete(action, acted_by, outcome)
                self.stats.step(self.clock.monotonic_ns())
                self._on_step(after)
                ending = ending or self._interruption(source)
        except SuiteError as error:
            self._finish(observation, aborted(Reason.of(error)))
            raise
        return self._finish(observation, ending)

    def _listen(self, after: Observation) -> TaskFeedback:
        """Ask the person, and put his label into what the robot says about its task."""
        begin_ns = self.clock.monotonic_ns()
        label = self.actions.listen(after) or self._label
        self._label = Label.NONE
        self.timing.excuse(self.clock.monotonic_ns() - begin_ns)  # a person's time is not ours
        return replace(after.task, label=label) if label is not Label.NONE else after.task

    def _await_verdict(self) -> Label:
        """What a person says of an episode that ended without a verdict, if he says it in time."""
        end_ns = self.clock.monotonic_ns() + int(self.config.verdict_s * 1e9)
        while not self._stopping and self.clock.monotonic_ns() < end_ns:
            self.stats.set(LoopState.RUNNING, "waits for a person's verdict: success or failure")
            newest = self.robot.observations.newest
            label = Label.NONE if newest is None else self.actions.listen(newest)
            if label is not Label.NONE:
                return label
            self.timing.pass_period()
        return Label.NONE

    def _judge(
        self, before: Observation, action: Array, after: Observation, task: TaskFeedback
    ) -> tuple[RewardOutcome, Ending | None]:
        """What the reward says of a step, and whether the episode ends there; a person may have
        the last word where nobody else can tell."""
        outcome = self._rewarded(before, action, after, task)
        steps, elapsed_s = self.recorder.steps + 1, self.timing.elapsed_s
        ending = self.rules.after_step(outcome, task, steps, elapsed_s)
        if ending is not None and ending.outcome is Outcome.UNKNOWN:
            label = self._await_verdict()
            if label is not Label.NONE:
                task = replace(task, label=label)
                outcome = self._rewarded(before, action, after, task)
                ending = self.rules.after_step(outcome, task, steps, elapsed_s)
        return outcome, ending

    def _rewarded(
        self, before: Observation, action: Array, after: Observation, task: TaskFeedback
    ) -> RewardOutcome:
        outcome = self._reward(before.arrays, action, after.arrays, task)
        if not abs(outcome.reward) <= LARGEST_REWARD:
            raise SpecError(
                f"reward of {type(self._reward).__name__} at step {self.recorder.steps + 1} of "
                f"episode {self.stats.episodes + 1}",
                got=outcome.reward,
                expected=f"a finite number, at most {LARGEST_REWARD:g} in size",
                hint="Values of larger ones have no square in float32; scale the reward",
            )
        return outcome

    def _interruption(self, source: EpisodeSource) -> Ending | None:
        """The end of an episode that goes on as far as the task is concerned; None: it goes on."""
        if source is EpisodeSource.EVALUATION and self.actions.taken_over:
            return aborted(Reason(PERSON_TOOK_OVER, "a person took over an evaluation"))
        reason = self._stopping or self.robot.trouble() or self.sink.why_paused()
        return aborted(reason) if reason else self._cut(source)

    def _cut(self, source: EpisodeSource) -> Ending | None:
        """The end of an episode whose robot was asked back, once its time is over."""
        if self._cut_ns is None or self.clock.monotonic_ns() < self._cut_ns:
            return None
        why = Reason(ASKED_BACK, "the robot was asked back, and the time to finish is over")
        if source is EpisodeSource.EVALUATION or not self.recorder.steps:
            return aborted(why)
        return Ending(Outcome.UNKNOWN, False, why.text, why.code)

    def _pass_time(self, observation: Observation) -> Ending | None:
        """Nothing to do, until a person begins or a remote policy answers: wait one period."""
        self.timing.pass_period()
        label = self.actions.listen(observation)
        reason = self._stopping or self.robot.trouble() or self.sink.why_paused()
        reason = reason or self.actions.why_lost()
        if label in (Label.SUCCESS, Label.FAILURE) and self.recorder.steps:
            self._label = label  # it is about what was done, and counts with the next step
        elif label is not Label.NONE:
            said = f"a person said {label.name.lower()} while nothing was done"
            reason = Reason(PERSON_SAID, said)
        return aborted(reason) if reason else None

    def _finish(self, last: Observation, ending: Ending) -> EpisodeResult | None:
        result = self.recorder.finish(last.arrays, last.stamp_ns, ending, self.clock.wall_ns())
        self.stats.set(LoopState.CLOSING, ending.reason)
        if result is not None:
            self.stats.episode(result)
            self._on_result(result)
        return result
