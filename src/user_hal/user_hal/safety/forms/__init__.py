"""How the kinds of action translate to the displacement that the rules judge, and back."""

from __future__ import annotations

from collections.abc import Sequence

from user_core.errors import ConfigError
from user_core.specs import ActionKind, RobotSpec
from user_hal.safety.forms.change import ChangeForm, RateForm
from user_hal.safety.forms.form import Form
from user_hal.safety.forms.joint_target import JointTargetForm
from user_hal.safety.forms.plain import PlainForm
from user_hal.safety.forms.pose_target import PoseTargetForm
from user_hal.safety.layout import MotionLayout
from user_hal.safety.motion import Motion

__all__ = ["Form", "form_for"]


def form_for(
    spec: RobotSpec,
    layout: MotionLayout,
    motion: Motion,
    scale: Sequence[float],
    lead: Sequence[float],
) -> Form:
    """The form for a robot's kind of action.

    Args:
        scale: What one unit of each element of a change or rate moves; empty: SI units.
        lead: How far the target may be ahead of the measured position, (P,).

    Raises:
        ConfigError: The robot shows nothing that its targets could be judged against.
    """
    if scale and layout.absolute:
        raise ConfigError(
            "action_scale",
            got=f"{list(scale)} for actions of kind {layout.kind.value!r}",
            expected="no scale: targets are in m and rad",
        )
    if layout.kind is ActionKind.JOINT_POSITION:
        _need(spec, "joint_position")
        return JointTargetForm(layout, motion)
    if layout.kind is ActionKind.EE_POSE:
        _need(spec, "tcp_pose")
        return PoseTargetForm(layout, motion)
    if layout.kind is ActionKind.GENERIC:
        return PlainForm(layout, motion)
    if layout.rate:
        return RateForm(layout, motion, scale, lead)
    return ChangeForm(layout, motion, scale, lead)


def _need(spec: RobotSpec, name: str) -> None:
    if name not in spec.observation:
        raise ConfigError(
            f"safety gate of {spec.robot!r}",
            got=f"actions of kind {spec.action_kind.value!r}, observation {list(spec.observation)}",
            expected=f"{name!r} in the observation: targets are judged against it",
        )
