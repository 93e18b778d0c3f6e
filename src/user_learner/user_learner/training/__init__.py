"""The training loop and what it takes: ratio limits, prefetching, publishing, checkpoints.

Plain Python without ROS: ``learner_node`` wraps :class:`~user_learner.training.loop.TrainingLoop`,
and tests and examples drive it directly.
"""

from user_learner.training.config import TrainingConfig, UtdConfig
from user_learner.training.loop import TrainingLoop
from user_learner.training.progress import LearnerState, Progress
from user_learner.training.utd import UtdLimiter

__all__ = [
    "LearnerState",
    "Progress",
    "TrainingConfig",
    "TrainingLoop",
    "UtdConfig",
    "UtdLimiter",
]
