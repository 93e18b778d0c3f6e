"""The data that flows: observation, action chunk, step, trajectory chunk, policy version, lease."""

from user_core.types.ack import TrajectoryAck
from user_core.types.action import ActedBy, ActionChunk, AppliedAction
from user_core.types.batch import Batch
from user_core.types.episode import EpisodeKey, EpisodeResult, EpisodeSource, Outcome
from user_core.types.label import Label
from user_core.types.lease import Lease
from user_core.types.observation import NO_TASK, Observation, TaskFeedback
from user_core.types.policy_version import PolicyVersion
from user_core.types.step import FinalObservation, RewardSource, Step
from user_core.types.task import Task
from user_core.types.trajectory import ChunkId, TrajectoryChunk, TrajectorySchema

__all__ = [
    "NO_TASK",
    "ActedBy",
    "ActionChunk",
    "AppliedAction",
    "Batch",
    "ChunkId",
    "EpisodeKey",
    "EpisodeResult",
    "EpisodeSource",
    "FinalObservation",
    "Label",
    "Lease",
    "Observation",
    "Outcome",
    "PolicyVersion",
    "RewardSource",
    "Step",
    "Task",
    "TaskFeedback",
    "TrajectoryAck",
    "TrajectoryChunk",
    "TrajectorySchema",
]
