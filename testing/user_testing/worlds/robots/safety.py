"""Robots and gates that the tests of the safety gate share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from user_core.config import from_mapping
from user_core.specs import ActionKind, Array, ArraySpec, RobotSpec
from user_hal.safety import SafetyConfig, SafetyGate

PERIOD_S = 0.1
PERIOD_NS = 100_000_000
OBSERVATION = {
    "joint_position": ArraySpec((7,), low=-2.8, high=2.8, unit="rad"),
    "tcp_pose": ArraySpec((7,), unit="m", frame="base"),
    "wrench": ArraySpec((6,), unit="N", frame="tcp"),
}
ACTIONS = {
    ActionKind.EE_DELTA: ArraySpec(
        (7,),
        low=(-0.05,) * 3 + (-0.2,) * 3 + (0.0,),
        high=(0.05,) * 3 + (0.2,) * 3 + (1.0,),
        names=("dx", "dy", "dz", "rx", "ry", "rz", "gripper"),
    ),
    ActionKind.EE_TWIST: ArraySpec((6,), low=-1.0, high=1.0),
    ActionKind.EE_POSE: ArraySpec((8,), low=-2.0, high=2.0),
    ActionKind.JOINT_POSITION: ArraySpec((8,), low=(-2.8,) * 7 + (0.0,), high=(2.8,) * 7 + (1.0,)),
    ActionKind.JOINT_DELTA: ArraySpec((8,), low=(-0.3,) * 7 + (0.0,), high=(0.3,) * 7 + (1.0,)),
    ActionKind.JOINT_VELOCITY: ArraySpec((7,), low=-2.0, high=2.0),
    ActionKind.GENERIC: ArraySpec((3,), low=-1.0, high=1.0),
}


def robot(kind: ActionKind, *, lockstep: bool = False) -> RobotSpec:
    """A robot that takes actions of a kind."""
    return RobotSpec("arm", OBSERVATION, ACTIONS[kind], kind, PERIOD_S, lockstep)


def make_gate(kind: ActionKind, **config: Any) -> SafetyGate:
    """A gate for a robot of a kind, with the robot at rest in the middle of everything."""
    gate = SafetyGate(from_mapping(SafetyConfig, config), robot(kind))
    gate.observe(reading())
    return gate


def reading(
    tcp: tuple[float, float, float] = (0.4, 0.0, 0.3),
    joints: tuple[float, ...] = (0.0,) * 7,
    wrench: tuple[float, ...] = (0.0,) * 6,
) -> Mapping[str, Array]:
    """A reading of the robot."""
    return {
        "joint_position": np.asarray(joints, np.float32),
        "tcp_pose": np.asarray((*tcp, 0.0, 0.0, 0.0, 1.0), np.float32),
        "wrench": np.asarray(wrench, np.float32),
    }


def command(*values: float) -> Array:
    """A command, float32."""
    return np.asarray(values, np.float32)
