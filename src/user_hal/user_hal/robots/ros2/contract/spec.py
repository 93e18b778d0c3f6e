"""The spec of a robot, as it follows from its contract."""

from __future__ import annotations

from typing import Any

import numpy as np

from user_core.specs import ActionGroup, ActionKind, ArraySpec, RobotSpec, common_kind
from user_hal.robots.ros2.contract.groups import Group, groups_of
from user_hal.robots.ros2.contract.keys import Contract

_UNITS = {
    ActionKind.JOINT_POSITION: "rad",
    ActionKind.JOINT_DELTA: "rad",
    ActionKind.JOINT_VELOCITY: "rad/s",
    ActionKind.EE_DELTA: "m",
    ActionKind.EE_TWIST: "m/s",
    ActionKind.EE_POSE: "m",
    ActionKind.BASE_TWIST: "m/s",
    ActionKind.GENERIC: "N m",
}
_SHIFTS = {"rad": "m", "rad/s": "m/s", "N m": "N"}


def robot_spec(config: Contract, observation: dict[str, ArraySpec]) -> RobotSpec:
    """What the robot shows and takes.

    Args:
        config: The contract.
        observation: Specs of all arrays, images included.
    """
    groups = groups_of(config)
    specs = [_action_spec(group) for group in groups]
    parts = tuple(
        ActionGroup(group.name, group.action.kind, spec.size)
        for group, spec in zip(groups, specs)
        if group.name
    )
    grippers: list[int] = []
    end = 0
    for group, spec in zip(groups, specs):
        end += spec.size
        grippers += range(end - len(group.action.all_grippers), end)
    return RobotSpec(
        robot=config.robot,
        observation=observation,
        action=specs[0] if len(specs) == 1 else _joined(specs),
        action_kind=common_kind(parts) if parts else groups[0].action.kind,
        period_s=config.period_s,
        grippers=tuple(grippers),
        action_groups=parts,
    )


def _joined(specs: list[ArraySpec]) -> ArraySpec:
    """One action of all groups; a unit or frame that they have not in common is left open."""
    units, frames = {spec.unit for spec in specs}, {spec.frame for spec in specs}
    return ArraySpec(
        (sum(spec.size for spec in specs),),
        "float32",
        tuple(value for spec in specs for value in _tuple(spec.low)),
        tuple(value for spec in specs for value in _tuple(spec.high)),
        unit=units.pop() if len(units) == 1 else "",
        frame=frames.pop() if len(frames) == 1 else "",
        names=tuple(name for spec in specs for name in spec.names),
    )


def _tuple(bound: Any) -> tuple[float, ...]:
    return bound if isinstance(bound, tuple) else (bound,)


def _action_spec(group: Group) -> ArraySpec:
    action, kind = group.action, group.action.kind
    names = _element_names(group)
    low, high = (
        np.broadcast_to(np.asarray(bound, float), (len(names),)).tolist()
        for bound in (action.low, action.high)
    )
    for name in action.all_grippers:
        names, low, high = (*names, group.label(name)), [*low, 0.0], [*high, 1.0]
    unit = _UNITS[kind]
    if group.moves_joints and set(group.joints) <= set(group.contract.prismatic):
        unit = _SHIFTS[unit]
    return ArraySpec(
        (len(names),),
        "float32",
        tuple(low),
        tuple(high),
        unit=unit,
        frame="" if group.moves_joints else group.base_frame,
        names=names,
    )


def _element_names(group: Group) -> tuple[str, ...]:
    kind = group.action.kind
    if group.moves_joints:
        return group.joints
    if kind is ActionKind.EE_POSE:
        names: list[str] = ["x", "y", "z", "qx", "qy", "qz", "qw"]
    elif kind is ActionKind.BASE_TWIST:
        names = ["vx", "vy", "wz"] if group.action.sideways else ["vx", "wz"]
    else:
        letters = "dx dy dz drx dry drz" if kind is ActionKind.EE_DELTA else "vx vy vz wx wy wz"
        names = letters.split()[: 6 if group.action.rotation else 3]
    return tuple(group.label(name) for name in names)
