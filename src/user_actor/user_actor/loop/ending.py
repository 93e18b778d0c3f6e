"""How an episode ends, and what that means for values beyond its end."""

from __future__ import annotations

from dataclasses import dataclass

from user_actor.loop.config import ActorLoopConfig
from user_core.interfaces import RewardOutcome
from user_core.types import Label, Outcome, TaskFeedback


@dataclass(frozen=True)
class Ending:
    """The end of an episode.

    Attributes:
        outcome: How it ended.
        terminated: No value lies beyond the last step: bootstrapping stops.
        reason: For people.
    """

    outcome: Outcome
    terminated: bool
    reason: str

    @property
    def truncated(self) -> bool:
        """It was cut; values beyond the last step still count."""
        return not self.terminated


def aborted(reason: str) -> Ending:
    """The end of an episode that nobody judged."""
    return Ending(Outcome.ABORTED, False, reason)


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
            return aborted("a person ended it")
        if verdict.terminated:
            if verdict.success:
                return Ending(Outcome.SUCCESS, True, "the task is solved")
            return Ending(Outcome.FAILURE, True, "the task has failed")
        outcome = Outcome.SUCCESS if verdict.success else Outcome.TIMEOUT
        if task.truncated:
            return Ending(outcome, False, "the robot's own limit")
        if task.terminated:
            return Ending(outcome, False, "the robot's task is over, the reward saw no end")
        if config.max_episode_steps and steps >= config.max_episode_steps:
            return Ending(outcome, False, f"{steps} steps")
        if config.max_episode_s and elapsed_s >= config.max_episode_s:
            return Ending(outcome, False, f"{elapsed_s:.1f} s")
        return None
