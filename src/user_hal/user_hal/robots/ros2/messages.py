"""Message types that the driver knows, and how numbers are taken out of messages."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from operator import attrgetter
from typing import Any, Literal

import numpy as np

from user_core.errors import DeviceFault
from user_core.specs import ActionKind, Array
from user_hal.robots.ros2.field_paths import FieldPath, NotSelected
from user_hal.robots.ros2.frames import from_rpy
from user_hal.safety import rotation
from user_hal.sim.kinematics import quaternion_xyzw

JOINT_STATE = "sensor_msgs/msg/JointState"
JOINT_TRAJECTORY = "trajectory_msgs/msg/JointTrajectory"
#: An action: each goal replaces the one before.
FOLLOW_TRAJECTORY = "control_msgs/action/FollowJointTrajectory"
#: Of MoveIt Servo.
JOINT_JOG = "control_msgs/msg/JointJog"
NUMBERS = "std_msgs/msg/Float64MultiArray"
NUMBER = "std_msgs/msg/Float64"
BOOL = "std_msgs/msg/Bool"
TWIST = "geometry_msgs/msg/TwistStamped"
PLAIN_TWIST = "geometry_msgs/msg/Twist"
POSE = "geometry_msgs/msg/PoseStamped"
PLAIN_POSE = "geometry_msgs/msg/Pose"
#: Up to Kilted, and of many grippers' own drivers.
GRIPPER_ACTION = "control_msgs/action/GripperCommand"
#: Of ros2_controllers' parallel_gripper_controller.
PARALLEL_GRIPPER_ACTION = "control_msgs/action/ParallelGripperCommand"

JOINT_TYPES = (JOINT_TRAJECTORY, NUMBERS, JOINT_STATE, FOLLOW_TRAJECTORY, JOINT_JOG)
TOOL_TYPES = (TWIST, POSE, PLAIN_TWIST, PLAIN_POSE)

JOINT_KINDS = (ActionKind.JOINT_POSITION, ActionKind.JOINT_DELTA, ActionKind.JOINT_VELOCITY)

TOOL_KINDS = (ActionKind.EE_DELTA, ActionKind.EE_TWIST, ActionKind.EE_POSE)

#: Which command types can carry out which action. Any other type can, by a mapping of fields.
FITTING: dict[ActionKind, tuple[str, ...]] = {
    ActionKind.JOINT_POSITION: (JOINT_TRAJECTORY, NUMBERS, JOINT_STATE, FOLLOW_TRAJECTORY),
    ActionKind.JOINT_DELTA: JOINT_TYPES,
    ActionKind.JOINT_VELOCITY: JOINT_TYPES,
    ActionKind.EE_DELTA: TOOL_TYPES,
    ActionKind.EE_TWIST: TOOL_TYPES,
    ActionKind.EE_POSE: (POSE, PLAIN_POSE),
    ActionKind.BASE_TWIST: (TWIST, PLAIN_TWIST),
    ActionKind.GENERIC: (NUMBERS, JOINT_STATE),
}
#: Where a JointState has a quantity of commands.
STATE_FIELDS = {"positions": "position", "velocities": "velocity", "efforts": "effort"}
#: Message types that the driver fills by itself.
BUILT_IN = (*JOINT_TYPES, *TOOL_TYPES)


def is_action(type_name: str) -> bool:
    """Whether a type is that of an action."""
    return type_name.split("/")[1:2] == ["action"]


def is_service(type_name: str) -> bool:
    """Whether a type is that of a service."""
    return type_name.split("/")[1:2] == ["srv"]


LayoutName = Literal[
    "vector",
    "scalar",
    "vector3",
    "quaternion",
    "pose",
    "pose_rpy",
    "pose_rotvec",
    "pose_xyzw",
    "pose_wxyz",
    "pose_columns",
    "pose_rows",
    "twist",
    "wrench",
]
LayoutChoice = Literal["auto", LayoutName]


@dataclass(frozen=True)
class Layout:
    """One way to lay numbers out.

    Attributes:
        parts: Way to each number from the field, as attribute names; empty for vectors.
        names: Names of the elements.
        unit: Unit in the observation unless the contract says another.
        rotation: Which elements are a quaternion x y z w; None without one.
    """

    parts: tuple[tuple[str, ...], ...] = ()
    names: tuple[str, ...] = ()
    unit: str = ""
    rotation: slice | None = None

    @cached_property
    def _ways(self) -> Callable[[Any], Any]:
        """Takes all parts of a value at once."""
        return attrgetter(*(".".join(way) for way in self.parts))

    @property
    def size(self) -> int | None:
        """Number of elements; None where the contract must say it."""
        return len(self.names) or None

    def read(self, value: Any) -> Array:
        """The numbers at a field, (n,) float64.

        Raises:
            AttributeError, TypeError, ValueError: The field holds something else.
            DeviceFault: A quaternion has no length.
        """
        if not self.parts:
            return np.array(value, dtype=np.float64)
        numbers = np.array(self._ways(value), dtype=np.float64)
        if self.rotation is not None:
            quaternion = numbers[self.rotation]
            norm = math.sqrt(float(quaternion @ quaternion))
            if not norm > 0.5:  # nobody set it, or not a rotation
                raise DeviceFault(
                    "length of a quaternion", got=f"{norm:g} of {quaternion.tolist()}", expected=1
                )
            quaternion /= norm
        return numbers


#: Poses that are bare numbers in a message, and how many: x y z and roll pitch yaw; and a
#: rotation vector; and a quaternion, in either order; a matrix (4, 4), column by column or row by
#: row.
NUMBER_POSES: dict[LayoutName, int] = {
    "pose_rpy": 6,
    "pose_rotvec": 6,
    "pose_xyzw": 7,
    "pose_wxyz": 7,
    "pose_columns": 16,
    "pose_rows": 16,
}
#: Those whose rotation is angles, which may be degrees.
ANGLE_POSES = ("pose_rpy", "pose_rotvec")
#: How far the rotation of a matrix may be from one.
_SKEWED = 1e-2


def pose_of_numbers(layout: LayoutName, values: Array) -> Array:
    """Bare numbers (m, rad) as x y z qx qy qz qw.

    Raises:
        DeviceFault: They are no pose.
    """
    if layout in ANGLE_POSES:
        as_turn = from_rpy if layout == "pose_rpy" else _from_rotation_vector
        return np.concatenate([values[:3], as_turn(*values[3:].tolist())])
    if layout in ("pose_xyzw", "pose_wxyz"):
        turn = values[3:] if layout == "pose_xyzw" else np.roll(values[3:], -1)
        norm = float(np.linalg.norm(turn))
        if not 0.9 < norm < 1.1:
            raise DeviceFault(
                "length of a quaternion", got=f"{norm:g} of {turn.tolist()}", expected=1
            )
        return np.concatenate([values[:3], turn / norm])
    matrix = values.reshape(4, 4) if layout == "pose_rows" else values.reshape(4, 4).T
    if np.abs(matrix[3] - [0.0, 0.0, 0.0, 1.0]).max() > _SKEWED:
        other = "pose_columns" if layout == "pose_rows" else "pose_rows"
        raise DeviceFault(
            f"last row of a {layout}",
            got=matrix[3].tolist(),
            expected=[0, 0, 0, 1],
            hint=f"Write layout: {other}, if the matrix stands the other way",
        )
    axes = matrix[:3, :3]
    if np.abs(axes @ axes.T - np.eye(3)).max() > _SKEWED or np.linalg.det(axes) < 0:
        raise DeviceFault(f"rotation of a {layout}", got=axes.tolist(), expected="a rotation")
    return np.concatenate([matrix[:3, 3], quaternion_xyzw(axes)])


def _from_rotation_vector(x: float, y: float, z: float) -> rotation.Quaternion:
    return rotation.from_vector((x, y, z))


_XYZ = ("x", "y", "z")
_XYZW = ("x", "y", "z", "w")


def _under(*branches: tuple[str, Sequence[str]]) -> tuple[tuple[str, ...], ...]:
    return tuple((branch, leaf) for branch, leaves in branches for leaf in leaves)


LAYOUTS: dict[LayoutName, Layout] = {
    "vector": Layout(),
    "scalar": Layout(names=("value",)),
    "vector3": Layout(tuple((leaf,) for leaf in _XYZ), _XYZ),
    "quaternion": Layout(
        tuple((leaf,) for leaf in _XYZW), ("qx", "qy", "qz", "qw"), rotation=slice(0, 4)
    ),
    "pose": Layout(
        _under(("position", _XYZ), ("orientation", _XYZW)),
        ("x", "y", "z", "qx", "qy", "qz", "qw"),
        "m",
        slice(3, 7),
    ),
    **dict.fromkeys(
        NUMBER_POSES,
        Layout(names=("x", "y", "z", "qx", "qy", "qz", "qw"), unit="m", rotation=slice(3, 7)),
    ),
    "twist": Layout(
        _under(("linear", _XYZ), ("angular", _XYZ)), ("vx", "vy", "vz", "wx", "wy", "wz"), "m/s"
    ),
    "wrench": Layout(
        _under(("force", _XYZ), ("torque", _XYZ)), ("fx", "fy", "fz", "tx", "ty", "tz"), "N"
    ),
}

_STANDARD: dict[str, LayoutName] = {"tcp_pose": "pose", "tcp_velocity": "twist", "wrench": "wrench"}
_STANDARD_UNITS = {
    "joint_position": "rad",
    "joint_velocity": "rad/s",
    "joint_effort": "N m",
}


def quantity_named(observation: str) -> str:
    """The standard name in an observation's: ``tcp_pose`` of ``left.tcp_pose``."""
    return observation.rpartition(".")[2]


def layout_named(observation: str) -> LayoutName:
    """The layout of an observation that has a standard name; a vector otherwise."""
    return _STANDARD.get(quantity_named(observation), "vector")


def unit_named(observation: str, layout: LayoutName) -> str:
    """The unit of an observation that has a standard name, or its layout's."""
    return _STANDARD_UNITS.get(quantity_named(observation), LAYOUTS[layout].unit)


#: Numbers beyond this are none in an observation of float32.
_LARGEST = float(np.finfo(np.float32).max)
#: Up to this many numbers, plain Python is quicker than numpy.
_FEW = 32


def _all_finite(values: Array) -> bool:
    """Whether all numbers are finite in float32; NaN is not."""
    if values.size <= _FEW:
        numbers = values.tolist()
        if sum(map(abs, numbers)) <= _LARGEST:  # then each of them is; NaN makes NaN of the sum
            return True
        return all(-_LARGEST <= value <= _LARGEST for value in numbers)
    return bool((np.abs(values) <= _LARGEST).all())


class Extractor:
    """Takes one array of the observation out of messages of one type.

    Args:
        field: Way to the numbers.
        layout: What stands there.
        size: Number of elements that must come out.
        kind: Name of the layout, for poses that are bare numbers.
        names: Elements to take, by name, in this order; empty: by position.
        names_field: Way to the names.
        indices: Elements to take, by position; empty: all.
        scale: Factor, (1,) or (size,); of bare numbers one for each, before they become a pose.
        offset: Added afterwards, (1,) or (size,).
        replace: Numbers instead of ``inf``, ``-inf`` and ``nan``, in the unit of the message.
    """

    def __init__(
        self,
        field: FieldPath,
        layout: Layout,
        size: int,
        names: Sequence[str] = (),
        names_field: FieldPath | None = None,
        indices: Sequence[int] = (),
        scale: Sequence[float] = (1.0,),
        offset: Sequence[float] = (0.0,),
        replace: Mapping[str, float] | None = None,
        kind: LayoutName = "vector",
    ) -> None:
        self._field, self._layout, self._size = field, layout, size
        self._pose = kind if kind in NUMBER_POSES else None
        if self._pose is not None:
            self._size = NUMBER_POSES[self._pose]
        self._names, self._names_field = tuple(names), names_field
        self._indices = np.asarray(indices, np.intp) if len(indices) else None
        self._scale, self._offset = np.asarray(scale, float), np.asarray(offset, float)
        self._is_scaled = bool((self._scale != 1.0).any() or (self._offset != 0.0).any())
        self._replace = dict(replace or {})
        self._known_names: tuple[str, ...] | None = None
        self._last_index = max(indices, default=-1)
        self._rows: Array = np.zeros(0, np.intp)
        self._last_row, self._as_they_are = -1, False  # of the rows
        self._twice: list[tuple[int, int]] = []  # rows with the same name
        self.left_empty = False  # the newest message had names, and nothing beside them
        self._present: tuple[int, ...] = tuple(range(self._size))
        self._all = self._present

    def present(self, message: Any) -> tuple[int, ...]:
        """Which of the elements a message has, as positions in the array; all of them unless
        they are taken by name. A message with names whose numbers are left empty says nothing of
        them (sensor_msgs/JointState: a broadcaster of efforts beside that of positions).

        Raises:
            DeviceFault: The message has no names where they were promised.
        """
        if self._field.selects and self._lacks(message):
            return ()
        if not self._names:
            return self._all
        assert self._names_field is not None  # noqa: S101 - given together with names
        try:
            names = tuple(self._names_field.get(message))
        except (AttributeError, IndexError, TypeError) as error:
            raise DeviceFault(f"field {self._names_field.text!r}", got=f"{error}") from error
        if names != self._known_names:  # the same list in nearly every message
            row_of: dict[str, int] = {}
            self._twice = []
            for row, name in enumerate(names):
                if row_of.setdefault(name, row) != row and name in self._names:
                    self._twice.append((row_of[name], row))
            self._present = tuple(i for i, name in enumerate(self._names) if name in row_of)
            self._rows = np.array([row_of[self._names[i]] for i in self._present], np.intp)
            self._last_row = max(self._rows.tolist(), default=-1)
            self._as_they_are = self._rows.tolist() == list(range(len(names)))
            self._known_names = names
        self.left_empty = bool(names) and self._is_empty(message)
        return () if self.left_empty else self._present

    def _lacks(self, message: Any) -> bool:
        """Whether the message has not got the element that is selected."""
        try:
            self._field.get(message)
        except NotSelected:
            return True
        except (AttributeError, IndexError, TypeError):
            return False  # take() says what is wrong
        return False

    def _is_empty(self, message: Any) -> bool:
        try:
            return len(self._field.get(message)) == 0
        except (AttributeError, IndexError, TypeError):
            return False  # take() says what is wrong

    def __call__(self, message: Any) -> Array | None:
        """The numbers, (size,) float64; None when the message lacks some of the elements.

        Raises:
            DeviceFault: The message has not got what was promised, or numbers that are not finite.
        """
        present = self.present(message)
        return self.take(message, present) if len(present) == len(self._all) else None

    def take(self, message: Any, present: tuple[int, ...]) -> Array:
        """The numbers of those elements that a message has, float64; raises likewise.

        Args:
            message: The message.
            present: What :meth:`present` says of it, asked last.
        """
        try:
            values = self._layout.read(self._field.get(message))
        except (AttributeError, IndexError, TypeError, ValueError) as error:
            raise DeviceFault(f"field {self._field.text!r}", got=f"{error}") from error
        if values.ndim != 1:
            values = values.reshape(-1)
        if self._names:
            self._check_names(values)
            if not self._as_they_are or values.size != len(self._rows):
                values = self._pick(values, self._rows, self._last_row)
        elif self._indices is not None:
            values = self._pick(values, self._indices, self._last_index)
        if values.size != len(present):
            raise DeviceFault(
                f"field {self._field.text!r}",
                got=f"{values.size} numbers",
                expected=self._size,
                hint="The publisher leaves it empty" if values.size == 0 else "",
            )
        if self._replace:
            values = self._replaced(values)
        scaled = self._scaled(values, present) if self._is_scaled else values
        if not _all_finite(scaled):
            bad = int(np.flatnonzero(~(np.abs(scaled) <= _LARGEST))[0])
            label = self._names[present[bad]] if self._names else f"element {bad}"
            number = str(float(scaled[bad]))
            raise DeviceFault(
                f"field {self._field.text!r}: {label}",
                got=scaled[bad],
                expected="finite numbers",
                hint=""
                if np.isfinite(scaled[bad])
                else f"If it means something (REP-117: out of range), write not_finite: {{{number}: NUMBER}}",
            )
        return scaled if self._pose is None else pose_of_numbers(self._pose, scaled)

    def _scaled(self, values: Array, present: tuple[int, ...]) -> Array:
        partial = len(present) != len(self._all)
        scale, offset = (
            numbers[list(present)] if partial and numbers.size > 1 else numbers
            for numbers in (self._scale, self._offset)
        )
        result: Array = values * scale + offset
        return result

    def _check_names(self, values: Array) -> None:
        """Raise DeviceFault where it is not known which number is whose. Fewer numbers than names
        belong to the first names, as drivers have it (AgileX Piper, Dobot)."""
        names = self._known_names or ()
        if values.size > len(names):
            raise DeviceFault(
                f"field {self._field.text!r}",
                got=f"{values.size} numbers for {len(names)} names",
                expected="one for each name",
                hint="Which is whose is not known: repair the publisher, or take them by position "
                "(indices)",
            )
        for first, second in self._twice:
            if second < values.size and values[first] != values[second]:
                raise DeviceFault(
                    f"field {self._field.text!r}",
                    got=f"{names[first]!r} twice, with {values[first]:g} and {values[second]:g}",
                    expected="each name once",
                )

    def _pick(self, values: Array, rows: Array, last: int) -> Array:
        if last >= values.size:
            raise DeviceFault(
                f"field {self._field.text!r}",
                got=f"{values.size} numbers",
                expected=f"at least {last + 1}",
                hint="The publisher leaves it empty" if values.size == 0 else "",
            )
        picked: Array = values[rows]
        return picked

    def _replaced(self, values: Array) -> Array:
        result: Array = np.array(values)
        for what, number in self._replace.items():
            result[np.isnan(values) if what == "nan" else values == float(what)] = number
        return result
