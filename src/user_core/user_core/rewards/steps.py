"""Rewards of single steps: what the robot, the distance to a pose, or a person says."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from user_core import plugins
from user_core.config import Config, setting
from user_core.errors import ConfigError, SpecError
from user_core.interfaces import Reward, RewardOutcome
from user_core.specs import Array, Arrays
from user_core.types import Label, RewardSource, TaskFeedback


class TaskReward(Reward):
    """Takes the verdict of a robot that judges its own task (simulators, Gymnasium)."""

    def __init__(self, config: Config) -> None:
        self.config = config

    def __call__(
        self, observation: Arrays, action: Array, next_observation: Arrays, task: TaskFeedback
    ) -> RewardOutcome:
        if math.isnan(task.reward):
            raise ConfigError(  # no fault of the device, and it will not pass
                "reward of the robot's own task",
                got="none",
                expected="a number with every observation",
                hint="Choose another reward plugin for this robot, for instance pose_threshold",
            )
        return RewardOutcome(task.reward, task.terminated, task.success, RewardSource.ROBOT)


_POSITION, _POSE = 3, 7


class PoseThresholdConfig(Config):
    """Parameters of :class:`PoseThresholdReward`. The goal is given by one of two settings."""

    pose: str = setting("tcp_pose", doc="Observation array with the pose, x y z qx qy qz qw.")
    goal: tuple[float, ...] = setting(
        (),
        doc="Goal in the frame of the pose: x y z, or x y z qx qy qz qw. Empty: an observation "
        "array has it.",
        unit="m",
    )
    goal_observation: str = setting(
        "", doc="Observation array that has the goal, x y z or x y z qx qy qz qw."
    )
    position_m: float = setting(0.01, doc="Distance that counts as reached.", unit="m", gt=0)
    rotation_rad: float = setting(
        0.1, doc="Angle that counts as reached, where the goal has a rotation.", unit="rad", gt=0
    )
    success_reward: float = setting(1.0, doc="Reward of the step that reaches the goal.")
    distance_weight: float = setting(
        0.0, doc="What a metre of distance costs at each step; 0: sparse.", unit="1/m", ge=0
    )
    angle_weight: float = setting(
        0.0, doc="What a radian of angle costs at each step.", unit="1/rad", ge=0
    )
    terminates: bool = setting(True, doc="Whether reaching the goal ends the episode.")

    def validate(self) -> None:
        if bool(self.goal) == bool(self.goal_observation):
            raise ConfigError(
                "goal",
                got=f"goal {self.goal}, goal_observation {self.goal_observation!r}",
                expected="one of the two",
            )
        if self.goal:
            if len(self.goal) not in (_POSITION, _POSE):
                raise ConfigError("goal", got=f"{len(self.goal)} numbers", expected="3 or 7")
            if not all(map(math.isfinite, self.goal)):
                raise ConfigError("goal", got=self.goal, expected="finite numbers")
            if len(self.goal) == _POSE and not np.linalg.norm(self.goal[_POSITION:]) > 0.5:
                raise ConfigError(
                    "goal", got=f"quaternion {self.goal[_POSITION:]}", expected="length 1"
                )


class PoseThresholdReward(Reward):
    """Reward for a pose (7,) that is within a distance and an angle of a goal.

    Sparse by default: ``success_reward`` on the step that reaches it, else 0. With weights,
    distance (m) and angle (rad) to the goal are subtracted at every step. The angle between two
    rotations is ``2 acos |q1 . q2|``, so both signs of a quaternion mean the same.

    Raises:
        SpecError: The observation has not the named arrays, or they are no poses.
    """

    Config = PoseThresholdConfig

    def __init__(self, config: PoseThresholdConfig) -> None:
        self.config = config
        self._goal = np.array(config.goal, np.float64)

    def __call__(
        self, observation: Arrays, action: Array, next_observation: Arrays, task: TaskFeedback
    ) -> RewardOutcome:
        config = self.config
        pose = _vector(next_observation, config.pose, (_POSE,))
        goal = self._goal
        if config.goal_observation:
            goal = _vector(next_observation, config.goal_observation, (_POSITION, _POSE))
        distance_m = float(np.linalg.norm(pose[:_POSITION] - goal[:_POSITION]))
        angle_rad = 0.0
        if len(goal) == _POSE:
            angle_rad = _angle_between_rad(pose[_POSITION:], goal[_POSITION:])
        reached = distance_m <= config.position_m and angle_rad <= config.rotation_rad
        reward = -config.distance_weight * distance_m - config.angle_weight * angle_rad
        if reached:
            reward += config.success_reward
        return RewardOutcome(reward, terminated=reached and config.terminates, success=reached)


def _vector(arrays: Arrays, name: str, sizes: tuple[int, ...]) -> Array:
    array = arrays.get(name)
    if array is None or array.ndim != 1 or len(array) not in sizes:
        raise SpecError(
            f"observation {name!r} for the reward pose_threshold",
            got="nothing" if array is None else f"shape {array.shape}",
            expected=f"a vector of {' or '.join(map(str, sizes))} numbers",
            hint=f"The robot shows {sorted(arrays)}",
        )
    return array.astype(np.float64)


def _angle_between_rad(one_xyzw: Array, other_xyzw: Array) -> float:
    lengths = float(np.linalg.norm(one_xyzw) * np.linalg.norm(other_xyzw))
    if lengths < 1e-6:
        raise SpecError(
            "rotation for the reward pose_threshold",
            got=f"{one_xyzw} and {other_xyzw}",
            expected="quaternions of length 1",
        )
    return 2 * math.acos(min(1.0, abs(float(one_xyzw @ other_xyzw)) / lengths))


_VERDICTS = (Label.SUCCESS, Label.FAILURE)


class OperatorConfig(Config):
    """Parameters of :class:`OperatorReward`."""

    success_reward: float = setting(1.0, doc="Reward of the step that is labelled a success.")
    failure_reward: float = setting(0.0, doc="Reward of the step that is labelled a failure.")
    step_reward: float = setting(0.0, doc="Reward of every other step, without another reward.")
    base: plugins.PluginChoice | None = setting(
        None, doc="Another reward, {plugin, params}, which judges every step without a label."
    )


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
        if config.base is not None:
            self._base = config.base.build("rewards", path="base")

    def reset(self) -> None:
        if self._base is not None:
            self._base.reset()

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
