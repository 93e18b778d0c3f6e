"""The robot's own reward."""

from __future__ import annotations

import math

from user_core.config import Config
from user_core.errors import DeviceFault
from user_core.interfaces import Reward, RewardOutcome
from user_core.specs import Array, Arrays
from user_core.types import RewardSource, TaskFeedback


class TaskReward(Reward):
    """Takes the verdict of a robot that judges its own task (simulators, Gymnasium)."""

    def __init__(self, config: Config) -> None:
        self.config = config

    def __call__(
        self, observation: Arrays, action: Array, next_observation: Arrays, task: TaskFeedback
    ) -> RewardOutcome:
        if math.isnan(task.reward):
            raise DeviceFault(
                "reward of the robot's own task",
                got="none",
                expected="a number with every observation",
                hint="Choose another reward plugin for this robot, for instance pose_threshold",
            )
        return RewardOutcome(task.reward, task.terminated, task.success, RewardSource.ROBOT)
