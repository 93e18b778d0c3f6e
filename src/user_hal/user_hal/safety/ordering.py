"""Actions whose elements do not stand as the gate works on them: what moves first, then the rest.

A gripper may stand between joints (``left arm, left gripper, right arm, right gripper`` without
groups), and joints may stand behind it. Which element is a joint is told by its name, and which a
gripper by the spec, never by its place.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from user_core.action_groups import JOINT_KINDS
from user_core.specs import ActionKind, RobotSpec
from user_hal.safety.config import MotionLimits, SafetyConfig


def element_order(spec: RobotSpec) -> list[int]:
    """The elements of an action in the gate's order; empty where they stand so already."""
    every, grippers = range(spec.action.size), set(spec.grippers)
    moving = [i for i in every if i not in grippers]
    measured = spec.observation.get("joint_position")
    if spec.action_kind in JOINT_KINDS and measured is not None and spec.action.names:
        joints = [i for i in moving if spec.action.names[i] in measured.names]
        moving = joints or moving
    order = [*moving, *(i for i in every if i not in moving)]
    return [] if order == list(every) else order


def reordered_spec(spec: RobotSpec, order: Sequence[int]) -> RobotSpec:
    """The spec of a robot whose actions stand in another order."""
    action = spec.action
    return replace(
        spec,
        action=replace(
            action,
            low=_picked(action.low, order),
            high=_picked(action.high, order),
            names=_picked(action.names, order),
        ),
        grippers=tuple(sorted(order.index(i) for i in spec.grippers)),
    )


def reordered_config(config: SafetyConfig, spec: RobotSpec, order: Sequence[int]) -> SafetyConfig:
    """The limits of a robot whose actions stand in another order."""
    changes: dict[str, Any] = {
        "bounds": config.bounds.replace(
            low=_picked(config.bounds.low, order), high=_picked(config.bounds.high, order)
        ),
        "action_scale": _picked(config.action_scale, order),
    }
    if spec.action_kind is not ActionKind.EE_POSE:  # its limits stand as its displacement does
        for what in ("step", "velocity", "acceleration"):
            limits: MotionLimits = getattr(config, what)
            changes[what] = limits.replace(each=_picked(limits.each, order))
    return config.replace(**changes)


def _picked(values: Any, order: Sequence[int]) -> Any:
    """Values in another order; one for all elements, or none, as it is."""
    several = isinstance(values, tuple) and len(values) == len(order)
    return tuple(values[i] for i in order) if several else values
