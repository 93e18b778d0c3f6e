"""Robots and observations that the teleop tests share."""

from __future__ import annotations

import numpy as np

from user_core.specs import ActionKind, ArraySpec, RobotSpec
from user_core.types import Observation, TaskFeedback

OBSERVATION = {
    "joint_position": ArraySpec((6,), low=-3.0, high=3.0),
    "tcp_pose": ArraySpec((7,)),
    "gripper": ArraySpec((1,), low=0.0, high=1.0),
}
ACTIONS = {
    ActionKind.EE_DELTA: ("dx", "dy", "dz", "rz", "gripper"),
    ActionKind.EE_TWIST: ("vx", "vy", "vz", "wx", "wy", "wz"),
    ActionKind.EE_POSE: ("x", "y", "z", "qx", "qy", "qz", "qw", "gripper"),
    ActionKind.JOINT_POSITION: ("j1", "j2", "j3", "j4", "j5", "j6", "gripper"),
    ActionKind.JOINT_DELTA: ("j1", "j2", "j3", "j4", "j5", "j6", "gripper"),
    ActionKind.GENERIC: ("throttle", "steer"),
}


def robot(kind: ActionKind = ActionKind.EE_DELTA, high: float = 0.5) -> RobotSpec:
    """A robot that takes actions of a kind."""
    names = ACTIONS[kind]
    low = tuple(0.0 if name == "gripper" else -high for name in names)
    top = tuple(1.0 if name == "gripper" else high for name in names)
    action = ArraySpec((len(names),), low=low, high=top, names=names)
    grippers = tuple(i for i, name in enumerate(names) if name == "gripper")
    return RobotSpec("arm", OBSERVATION, action, kind, 0.1, grippers=grippers)


def seen(
    tcp: tuple[float, float, float] = (0.4, 0.0, 0.3),
    joints: float = 0.1,
    gripper: float = 1.0,
    episode: int = 1,
    success: bool | None = None,
) -> Observation:
    """An observation."""
    arrays = {
        "joint_position": np.full(6, joints, np.float32),
        "tcp_pose": np.array([*tcp, 0.0, 0.0, 0.0, 1.0], np.float32),
        "gripper": np.array([gripper], np.float32),
    }
    return Observation(arrays, 1, 1, episode, TaskFeedback(success=success))


class Seconds:
    """A clock that the test moves."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s
