"""Episodes in one process, as fast as the robot goes: for demonstrations and evaluations."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from user_core.interfaces import Reward, Robot
from user_core.rewards.task import TaskReward
from user_core.specs import Array
from user_core.types import (
    ActedBy,
    FinalObservation,
    Observation,
    Outcome,
    RewardSource,
    Step,
)

Act = Callable[[Observation], Array]


@dataclass(frozen=True)
class Rollout:
    """One episode.

    Attributes:
        steps: Its steps, and at the end the final observation.
        outcome: How it ended.
        start_ns: When it started, nanoseconds since the epoch.
        end_ns: When it ended, nanoseconds since the epoch.
    """

    steps: tuple[Step | FinalObservation, ...]
    outcome: Outcome
    start_ns: int
    end_ns: int

    @property
    def length(self) -> int:
        """Number of steps."""
        return len(self.steps) - 1

    @property
    def episode_return(self) -> float:
        """Sum of the rewards, undiscounted."""
        return sum(step.reward for step in self.steps if isinstance(step, Step))


def roll_out(
    robot: Robot,
    act: Act,
    reward: Reward,
    seed: int,
    *,
    acted_by: ActedBy = ActedBy.POLICY,
    policy_version: int = 0,
    max_steps: int = 100_000,
    on_step: Callable[[], None] = lambda: None,
) -> Rollout:
    """Run one episode of a connected robot.

    Args:
        robot: In lockstep it goes as fast as it can, otherwise at its own period.
        act: Decides one action, (A,).
        reward: Judges the steps.
        seed: Seed of the start.
        acted_by: Who is recorded as having decided.
        policy_version: Version that is recorded.
        max_steps: The episode is cut after so many steps.
        on_step: Called after every step, for instance to film.
    """
    start_ns, observation = time.time_ns(), robot.reset(seed=seed)
    steps: list[Step | FinalObservation] = []
    source = RewardSource.ROBOT if isinstance(reward, TaskReward) else RewardSource.FUNCTION
    deadline_s = time.monotonic()
    while True:
        proposed = act(observation)
        action_stamp_ns = time.time_ns()
        executed = robot.command(proposed)
        if not robot.spec.lockstep:
            deadline_s += robot.spec.period_s
            time.sleep(max(0.0, deadline_s - time.monotonic()))
        after = robot.read()
        verdict = reward(observation.arrays, executed, after.arrays, after.task)
        over = after.task.truncated or after.task.terminated or len(steps) + 1 >= max_steps
        cut = over and not verdict.terminated
        steps.append(
            Step(
                observation.arrays,
                executed,
                proposed,
                verdict.reward,
                terminated=verdict.terminated,
                truncated=cut,
                acted_by=acted_by,
                policy_version=policy_version,
                reward_source=source,
                stamp_ns=observation.stamp_ns,
                action_stamp_ns=action_stamp_ns,
            )
        )
        on_step()
        observation = after
        if verdict.terminated or cut:
            break
    robot.stop()
    steps.append(FinalObservation(observation.arrays, observation.stamp_ns))
    outcome = Outcome.TIMEOUT if cut else Outcome.FAILURE
    if verdict.success:
        outcome = Outcome.SUCCESS
    return Rollout(tuple(steps), outcome, start_ns, time.time_ns())
