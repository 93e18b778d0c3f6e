"""The spec of a robot, as it follows from its contract."""

from __future__ import annotations

import numpy as np

from user_core.specs import ActionKind, ArraySpec, RobotSpec
from user_hal.robots.ros2.contract.keys import Contract
from user_hal.robots.ros2.messages import JOINT_KINDS

GRIPPER = "gripper"


_UNITS = {
    ActionKind.JOINT_POSITION: "rad",
    ActionKind.JOINT_DELTA: "rad",
    ActionKind.JOINT_VELOCITY: "rad/s",
    ActionKind.EE_DELTA: "m",
    ActionKind.EE_TWIST: "m/s",
    ActionKind.EE_POSE: "m",
}


def robot_spec(config: Contract, observation: dict[str, ArraySpec]) -> RobotSpec:
    """What the robot shows and takes.

    Args:
        config: The contract.
        observation: Specs of all arrays, images included.
    """
    action = _action_spec(config)
    return RobotSpec(
        robot=config.robot,
        observation=observation,
        action=action,
        action_kind=config.action.kind,
        period_s=config.period_s,
        grippers=() if config.action.gripper is None else (action.size - 1,),
    )


def _action_spec(config: Contract) -> ArraySpec:
    action, kind = config.action, config.action.kind
    names = _element_names(config)
    low, high = (
        np.broadcast_to(np.asarray(bound, float), (len(names),)).tolist()
        for bound in (action.low, action.high)
    )
    if action.gripper is not None:
        names, low, high = (*names, GRIPPER), [*low, 0.0], [*high, 1.0]
    return ArraySpec(
        (len(names),),
        "float32",
        tuple(low),
        tuple(high),
        unit=_UNITS[kind],
        frame="" if kind in JOINT_KINDS else config.base_frame,
        names=names,
    )


def _element_names(config: Contract) -> tuple[str, ...]:
    kind = config.action.kind
    if kind in JOINT_KINDS:
        return config.joints
    if kind is ActionKind.EE_POSE:
        return ("x", "y", "z", "qx", "qy", "qz", "qw")
    letters = "dx dy dz drx dry drz" if kind is ActionKind.EE_DELTA else "vx vy vz wx wy wz"
    return tuple(letters.split()[: 6 if config.action.rotation else 3])
