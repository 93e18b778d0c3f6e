"""A person judges, by key or button."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from user_core import plugins
from user_core.config import Config, setting
from user_core.interfaces import Reward, RewardOutcome
from user_core.specs import Array, Arrays
from user_core.types import Label, RewardSource, TaskFeedback

_VERDICTS = (Label.SUCCESS, Label.FAILURE)


class OperatorConfig(Config):
    """Parameters of :class:`OperatorReward`."""

    success_reward: float = setting(1.0, doc="Reward of the step that is labelled a success.")
    failure_reward: float = setting(0.0, doc="Reward of the step that is labelled a failure.")
    step_reward: float = setting(0.0, doc="Reward of every other step, without another reward.")
    base: str = setting(
        "", doc="Another reward plugin, which judges every step without a label; empty: none."
    )
    base_params: Mapping[str, Any] = setting(factory=dict, doc="Parameters of that reward plugin.")


class OperatorReward(Reward):
    """Rewards what a person labels, and ends the episode there.

    Steps without a label get ``step_reward``, or the verdict of another reward (``base``), which
    may end an episode by itself. A label overrules it. It comes with ``task.label``; relabelled
    data, which has no labels, gets the other reward only.
    """

    Config = OperatorConfig

    def __init__(self, config: OperatorConfig) -> None:
        self.config = config
        self._base: Reward | None = None
        if config.base:
            self._base = plugins.build(
                "rewards", config.base, config.base_params, path="base_params"
            )

    def __call__(
        self, observation: Arrays, action: Array, next_observation: Arrays, task: TaskFeedback
    ) -> RewardOutcome:
        config = self.config
        outcome = RewardOutcome(config.step_reward, source=RewardSource.HUMAN)
        if self._base is not None:
            # the label is judged here; within, it would be judged twice
            unlabelled = replace(task, label=Label.NONE)
            outcome = self._base(observation, action, next_observation, unlabelled)
        if task.label not in _VERDICTS:
            return outcome
        success = task.label is Label.SUCCESS
        reward = config.success_reward if success else config.failure_reward
        return RewardOutcome(reward, terminated=True, success=success, source=RewardSource.HUMAN)
