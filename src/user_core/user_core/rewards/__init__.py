"""Rewards that actor and learner share: of the robot, of poses, of goals, of people, of networks, of several
together."""

from user_core.rewards.composite import CompositeConfig, CompositeReward
from user_core.rewards.steps import (
    OperatorConfig,
    OperatorReward,
    PoseThresholdConfig,
    PoseThresholdReward,
    TaskReward,
)

__all__ = [
    "CompositeConfig",
    "CompositeReward",
    "OperatorConfig",
    "OperatorReward",
    "PoseThresholdConfig",
    "PoseThresholdReward",
    "TaskReward",
]
