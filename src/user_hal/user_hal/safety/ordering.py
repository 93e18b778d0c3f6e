"""Actions whose elements do not stand as the gate works on them: what moves first, then the rest.

Categorical elements move nothing by a distance, so that no limit applies to them: the gate works
without them. A gripper may stand between joints (``left arm, left gripper, right arm, right gripper`` without
groups), and joints may stand behind it. Which element is a joint is told by its name, and which a
gripper by the spec, never by its place.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from user_core.body.action_groups import JOINT_KINDS
from user_core.specs import ActionKind, RobotSpec
from user_hal.safety.config import MotionLimits, SafetyConfig


def element_order(spec: RobotSpec) -> list[int]:
    """The elements of an action that the gate works on, in its order; empty where that is all of
    them as they stand, or where all are choices."""
    chosen, grippers = set(spec.action.categorical), set(spec.grippers)
    every = [i for i in range(spec.action.size) if i not in chosen]
    moving = [i for i in every if i not in grippers]
    measured = spec.observation.get("joint_position")
    if spec.action_kind in JOINT_KINDS and measured is not None and spec.action.names:
        joints = [i for i in moving if spec.action.names[i] in measured.names]
        moving = joints or moving
    order = [*moving, *(i for i in every if i not in moving)]
    return [] if order == list(range(spec.action.size)) else order


def reordered_spec(spec: RobotSpec, order: Sequence[int]) -> RobotSpec:
    """The spec of a robot whose actions have these elements, in this order."""
    action, size = spec.action, spec.action.size
    return replace(
        spec,
        action=replace(
            action,
            shape=(len(order),),
            low=_picked(action.low, order, size),
            high=_picked(action.high, order, size),
            names=_picked(action.names, order, size),
            categorical=(),
        ),
        grippers=tuple(sorted(order.index(i) for i in spec.grippers if i in order)),
        hold_choices=(),
    )


def reordered_config(config: SafetyConfig, spec: RobotSpec, order: Sequence[int]) -> SafetyConfig:
    """The limits of a robot whose actions have these elements, in this order."""
    size = spec.action.size
    changes: dict[str, Any] = {
        "bounds": config.bounds.replace(
            low=_picked(config.bounds.low, order, size),
            high=_picked(config.bounds.high, order, size),
        ),
        "action_scale": _picked(config.action_scale, order, size),
    }
    if spec.action_kind is ActionKind.EE_POSE:  # its limits stand as its displacement does
        turned = size >= 7  # by a rotation vector: one number less than its quaternion
        left = [i for i in range(size) if i not in spec.action.categorical]
        order = [i - 1 if turned and i > 6 else i for i in left if not (turned and i == 6)]
        size -= turned
    for what in ("step", "velocity", "acceleration"):
        limits: MotionLimits = getattr(config, what)
        changes[what] = limits.replace(each=_picked(limits.each, order, size))
    return config.replace(**changes)


def _picked(values: Any, order: Sequence[int], size: int) -> Any:
    """Values of some elements, in another order; one for all ``size`` of them, or none, as it is."""
    several = isinstance(values, tuple) and len(values) == size and size > 1
    return tuple(values[i] for i in order) if several else values
