"""What the elements of an action move, and one command as the displacement that it asks for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from user_core.body.action_groups import JOINT_KINDS, TOOL_KINDS
from user_core.errors import ConfigError
from user_core.specs import ActionKind, Array, RobotSpec

_ROTATIONS = ("rx", "ry", "rz", "wx", "wy", "wz")


@dataclass(frozen=True)
class MotionLayout:
    """Which elements of a *displacement* mean what.

    A displacement is what one command moves within one control period: D numbers in metres
    and radians. It has one number per element of the action, except that the quaternion of
    an ``ee_pose`` becomes a rotation vector. Elements beyond tool and joints (a gripper) keep
    their own unit and are called extras.

    Attributes:
        kind: What the action means.
        action_size: Number of elements of an action, A.
        size: Number of elements of a displacement, D.
        linear: The translation of tool or base, m; empty for a joint action.
        angular: The rotation vector of the tool, or the turn of the base, rad; empty where there
            is none.
        joints: The joints, rad; empty for a tool action.
        joint_rows: Row of each of those joints in the observation ``joint_position``.
        names: A name for each element of a displacement, for messages.
    """

    kind: ActionKind
    action_size: int
    size: int
    linear: slice
    angular: slice
    joints: slice
    joint_rows: Array
    names: tuple[str, ...]

    @cached_property
    def absolute(self) -> bool:
        """Whether an action is a target, not a change or a rate."""
        return self.kind in (ActionKind.JOINT_POSITION, ActionKind.EE_POSE, ActionKind.GENERIC)

    @cached_property
    def rate(self) -> bool:
        """Whether an action is a velocity, which goes on until the next command."""
        return self.kind in (
            ActionKind.JOINT_VELOCITY,
            ActionKind.EE_TWIST,
            ActionKind.BASE_TWIST,
        )

    @cached_property
    def tool(self) -> bool:
        """Whether an action moves the tool."""
        return self.kind in TOOL_KINDS

    @cached_property
    def placed(self) -> int:
        """How many elements of a displacement start from a measured position, P. A base goes
        from where it is, which nobody measures."""
        return self.linear.stop if self.tool else self.joints.stop

    @cached_property
    def moving(self) -> slice:
        """The elements that move tool or joints; all of a generic action."""
        if self.kind is ActionKind.GENERIC:
            return slice(0, self.size)
        return slice(0, max(self.linear.stop, self.angular.stop, self.joints.stop))

    @classmethod
    def of(cls, spec: RobotSpec) -> MotionLayout:
        """Read the layout from a robot's spec.

        A tool action starts with the translation. Then comes the rotation: three elements of
        an action with six or more, otherwise as many as are named so (``rz`` for a tool that
        turns about the vertical only). What follows is extra, a gripper for instance.
        A joint action starts with the joints, in the order of ``joint_position``, or where
        both specs name their elements, in the order of the names.
        The action of a base is its velocity ahead, to the left unless it cannot go there, and
        its turning.
        """
        size = spec.action.size
        linear = angular = joints = slice(0, 0)
        rows: Array = np.zeros(0, np.intp)
        if spec.action_kind in TOOL_KINDS:
            pose = spec.action_kind is ActionKind.EE_POSE
            size -= 1 if pose and size >= 7 else 0
            linear = slice(0, min(3, size))
            angular = slice(linear.stop, linear.stop + _turning(spec, size))
        elif spec.action_kind in JOINT_KINDS:
            rows = _joint_rows(spec)
            joints = slice(0, len(rows))
        elif spec.action_kind is ActionKind.BASE_TWIST:
            linear, angular = _base(spec)
        names = spec.action.names if len(spec.action.names) == size else ()
        names = names or tuple(f"element {i}" for i in range(size))
        return cls(spec.action_kind, spec.action.size, size, linear, angular, joints, rows, names)


def _base(spec: RobotSpec) -> tuple[slice, slice]:
    """What of a base's action goes, and what turns."""
    size = spec.action.size
    names = spec.action.names or (("vx", "wz") if size == 2 else ("vx", "vy", "wz"))
    turning = 1 < size <= 3 and names[size - 1].rpartition("_")[2] != "vy"
    if not 1 <= size <= 3 or (size == 3 and not turning):
        raise ConfigError(
            f"action of {spec.robot!r}",
            got=f"{size} elements {list(spec.action.names)} of kind 'base_twist'",
            expected="vx, wz; or vx, vy, wz",
        )
    going = size - 1 if turning else size
    return slice(0, going), slice(going, size)


def _turning(spec: RobotSpec, size: int) -> int:
    """How many elements after the translation turn the tool."""
    if size - len(spec.grippers) >= 6:
        return 3
    count = 0
    for name in spec.action.names[3:]:
        if name not in _ROTATIONS:
            break
        count += 1
    return count


def _joint_rows(spec: RobotSpec) -> Array:
    """Rows of ``joint_position`` that the first elements of a joint action move."""
    measured = spec.observation.get("joint_position")
    if measured is None:
        return np.arange(spec.action.size - len(spec.grippers))
    row_of = {name: row for row, name in enumerate(measured.names)}
    rows = [row_of[name] for name in spec.action.names if name in row_of]
    if rows and rows == [row_of.get(name) for name in spec.action.names[: len(rows)]]:
        return np.asarray(rows, np.intp)
    return np.arange(min(spec.action.size - len(spec.grippers), measured.size))


class Motion:
    """Scratch space that all rules work on; made once, filled anew for every command.

    The gate works on lists of plain floats: for the handful of elements that an action has,
    that takes a third of the time of numpy (``benchmarks/control/gate.py``). All numbers are in metres
    and radians (extras in their own unit).

    Attributes:
        displacement: What the robot is to move within one period, (D,); rules reduce it.
        asked: The same as it was asked for, (D,).
        previous: Displacement of the command before, (D,); zero when the robot rested.
        position: Measured position that the displacement starts from: the tool's x y z, or
            the joints, (P,). The first P elements of a displacement move it.
        target: Where the commands so far lead, (P,); equals ``position`` after a hold.
        turning: Which of these positions are joints that turn without an end, (P,).
        period_s: Control period of the robot.
        elapsed_s: Time since the command before, at most a few periods.
    """

    def __init__(self, layout: MotionLayout, period_s: float, turning: Sequence[bool] = ()) -> None:
        size, placed = layout.size, layout.placed
        self.layout = layout
        self.displacement = [0.0] * size
        self.asked = [0.0] * size
        self.previous = [0.0] * size
        self.position = [0.0] * placed
        self.target = [0.0] * placed
        self.turning = tuple(turning) or (False,) * placed
        self.period_s = period_s
        self.elapsed_s = period_s
