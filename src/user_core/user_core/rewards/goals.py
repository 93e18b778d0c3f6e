"""Goal rewards: what an outcome is worth for any goal, not only for the one that was set.

Hindsight relabelling needs them at the learner, where there is no robot and no environment
(:mod:`user_learner.sampling.hindsight`); the reward ``goal`` judges with the same function at
the actor, so that both say the same.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, Literal

import numpy as np

from user_core.config import Config, setting
from user_core.config.setting import plain_numbers
from user_core.errors import ConfigError, SpecError
from user_core.interfaces import GoalOutcome, GoalReward, Reward, RewardOutcome
from user_core.plugins import PluginChoice, import_object
from user_core.specs import Array, Arrays
from user_core.types import TaskFeedback


class GoalDistanceConfig(Config):
    """Parameters of :class:`GoalDistance`. The defaults are those of Gymnasium-Robotics' Fetch."""

    threshold: float = setting(
        0.05, doc="Distance at which a goal is reached, in the unit of the goal.", gt=0
    )
    weights: tuple[float, ...] = setting(
        (),
        doc="What the elements of a difference are multiplied by before its length is taken.",
        ge=0,
    )
    kind: Literal["sparse", "dense"] = setting(
        "sparse", doc="sparse: one reward at the goal and one elsewhere; dense: minus the distance."
    )
    reached_reward: float = setting(0.0, doc="Sparse reward of a step that is at the goal.")
    step_reward: float = setting(-1.0, doc="Sparse reward of any other step.")
    terminates: bool = setting(False, doc="Whether reaching the goal ends the task.")


class GoalDistance(GoalReward):
    """A goal is reached within a distance of it: ``|weights * (achieved - desired)|``."""

    Config = GoalDistanceConfig

    def __init__(self, config: GoalDistanceConfig) -> None:
        self.config = config
        self._weights = np.array(config.weights or (1.0,), np.float64)

    def __call__(self, achieved: Array, desired: Array) -> GoalOutcome:
        difference = achieved.astype(np.float64) - desired
        if len(self._weights) not in (1, difference.shape[1]):
            raise ConfigError(
                "weights of goal_distance", got=len(self._weights),
                expected=f"one for each of the {difference.shape[1]} elements of a goal",
            )  # fmt: skip
        distance = np.linalg.norm(difference * self._weights, axis=1)
        reached, config = distance <= self.config.threshold, self.config
        if config.kind == "dense":
            reward = -distance
        else:
            reward = np.where(reached, config.reached_reward, config.step_reward)
        return GoalOutcome(reward.astype(np.float32), reached & config.terminates, reached)


class GoalFunctionConfig(Config):
    """Parameters of :class:`GoalFunction`."""

    function: str = setting(
        doc="What gives the reward, package.module:name; called with achieved and desired goals, "
        "(B, G) each, and where it takes a third argument with an empty info, as Gymnasium's "
        "compute_reward.",
        min_length=1,
    )
    kwargs: dict[str, Any] = setting(factory=dict, doc="Keyword arguments that it gets besides.")
    one_by_one: bool = setting(
        False, doc="Call it for each pair of goals, (G,), if it cannot take many at once."
    )
    reached_reward: float | None = setting(
        None, doc="From this reward on a goal is reached; without it nobody knows."
    )
    terminates: bool = setting(False, doc="Whether reaching the goal ends the task.")

    def validate(self) -> None:
        """What ends at the goal must know when that is."""
        if self.terminates and self.reached_reward is None:
            raise ConfigError(
                "reached_reward", got="none", expected="a number, since terminates is true"
            )


class GoalFunction(GoalReward):
    """A function of anybody gives the reward."""

    Config = GoalFunctionConfig

    def __init__(self, config: GoalFunctionConfig) -> None:
        self.config = config
        self._function = import_object(config.function)
        if not callable(self._function):
            raise ConfigError("function", got=repr(self._function), expected="a function")
        self._info: tuple[Any, ...] = ({},) if takes_info(self._function) else ()
        self._kwargs = plain_numbers(config.kwargs)

    def __call__(self, achieved: Array, desired: Array) -> GoalOutcome:
        config = self.config
        reward = rewards_of(
            lambda a, d: self._function(a, d, *self._info, **self._kwargs),
            achieved, desired, config.function, one_by_one=config.one_by_one,
        )  # fmt: skip
        if config.reached_reward is None:
            return GoalOutcome(reward, np.zeros(len(reward), bool))
        reached = reward >= config.reached_reward
        return GoalOutcome(reward, reached & config.terminates, reached)


def takes_info(function: Callable[..., Any]) -> bool:
    """Whether a function needs a third argument."""
    try:
        parameters = list(inspect.signature(function).parameters.values())[:3]
    except (TypeError, ValueError):  # a builtin that does not say
        return False
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return len(parameters) == 3 and (
        parameters[2].kind in positional and parameters[2].default is inspect.Parameter.empty
    )


def rewards_of(
    function: Callable[[Array, Array], Any],
    achieved: Array,
    desired: Array,
    what: str,
    *,
    one_by_one: bool,
) -> Array:
    """Rewards (B,) float32 of pairs of goals; raises SpecError for anything else."""
    if one_by_one:
        given: Any = [function(a, d) for a, d in zip(achieved, desired, strict=True)]
    else:
        given = function(achieved, desired)
    reward = np.asarray(given, np.float32)
    if one_by_one:
        reward = (
            reward.reshape(len(achieved), -1)[:, 0] if len(achieved) else np.zeros(0, np.float32)
        )
    if reward.shape != (len(achieved),):
        raise SpecError(
            f"rewards of {what} for {len(achieved)} pairs of goals", got=f"shape {reward.shape}",
            expected=f"shape ({len(achieved)},)",
            hint="one_by_one: true calls it for each pair",
        )  # fmt: skip
    if not np.isfinite(reward).all():
        raise SpecError(f"rewards of {what}", got="some that are not finite", expected="numbers")
    return reward


# --------------------------------------------------------------------------------------------------
# The same at the actor
# --------------------------------------------------------------------------------------------------


class GoalRewardOfStepConfig(Config):
    """Parameters of :class:`GoalRewardOfStep`."""

    achieved: str = setting("achieved_goal", doc="Observation that shows what was reached.")
    achieved_elements: tuple[int, ...] = setting(
        (),
        doc="Elements of it that are the goal, for instance [0, 1, 2] of tcp_pose; empty: all.",
        ge=0,
    )
    desired: str = setting("desired_goal", doc="Observation that shows the goal.")
    goal_reward: PluginChoice = setting(
        PluginChoice(plugin="goal_distance"), doc="What a state is worth for a goal."
    )


class GoalRewardOfStep(Reward):
    """Judges a step by a goal reward, as hindsight relabelling does.

    Raises:
        SpecError: An observation is not there, or the two are no goals of the same size.
    """

    Config = GoalRewardOfStepConfig

    def __init__(self, config: GoalRewardOfStepConfig) -> None:
        self.config = config
        self._goal_reward: GoalReward = config.goal_reward.build("goal_rewards", path="goal_reward")

    def __call__(
        self, observation: Arrays, action: Array, next_observation: Arrays, task: TaskFeedback
    ) -> RewardOutcome:
        config = self.config
        for name in (config.achieved, config.desired):
            if name not in next_observation:
                raise SpecError(
                    "observation for the reward goal", got=f"no {name!r}",
                    expected=f"one of {sorted(next_observation)}",
                )  # fmt: skip
        achieved: Array = np.asarray(next_observation[config.achieved]).reshape(1, -1)
        desired: Array = np.asarray(next_observation[config.desired]).reshape(1, -1)
        if config.achieved_elements:
            achieved = achieved[:, list(config.achieved_elements)]
        if achieved.shape != desired.shape:
            raise SpecError(
                f"achieved goal {config.achieved!r}", got=f"{achieved.size} numbers",
                expected=f"{desired.size}, as {config.desired!r} has",
                hint="achieved_elements chooses some",
            )  # fmt: skip
        outcome = self._goal_reward(achieved, desired)
        success = None if outcome.reached is None else bool(outcome.reached[0])
        return RewardOutcome(float(outcome.reward[0]), bool(outcome.terminated[0]), success)
