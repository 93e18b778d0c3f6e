"""Poses, twists, wrenches and changes of poses: in other frames, and with rotations written otherwise.

Works on the rows of whole episodes. Rotations go through matrices, in float64; quaternions are
x y z w as in ROS (REP-103) unless a layout says otherwise. Frames are fixed to each other: what moves, such
as a camera at the wrist, has no place in a mapping.

The six numbers of ``pose_6d`` are the first two columns of the matrix, one behind the other, as in Zhou et al.,
"On the Continuity of Rotation Representations in Neural Networks", CVPR 2019; PyTorch3D writes the first
two rows, ``pose_6d_rows``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from user_core.config import Config, setting
from user_core.errors import ConfigError, SpecError
from user_core.specs import Array

_XYZ, _XYZW = ("x", "y", "z"), ("qx", "qy", "qz", "qw")
_COLUMNS = tuple(f"r{row}{column}" for column in range(2) for row in range(3))
_ROWS = tuple(f"r{row}{column}" for row in range(2) for column in range(3))
_MATRIX = tuple(f"m{row}{column}" for row in range(4) for column in range(4))

LayoutName = Literal[
    "pose", "pose_wxyz", "pose_rpy", "pose_rotvec", "pose_6d", "pose_6d_rows", "pose_columns",
    "pose_rows", "point", "quaternion", "quaternion_wxyz", "twist", "wrench", "change", "change_rpy",
]  # fmt: skip


@dataclass(frozen=True)
class Layout:
    """One way to lay numbers out.

    Attributes:
        family: What they are: only what is of one family becomes each other. Its name is that of the layout
            that the others become where nothing else is wanted.
        names: Of the elements.
        unit: Of the first elements, SI.
        rotation: How the rotation is written; empty: there is none.
    """

    family: LayoutName
    names: tuple[str, ...]
    unit: str = "m"
    rotation: str = ""


LAYOUTS: dict[LayoutName, Layout] = {
    "pose": Layout("pose", (*_XYZ, *_XYZW), "m", "xyzw"),
    "pose_wxyz": Layout("pose", (*_XYZ, "qw", "qx", "qy", "qz"), "m", "wxyz"),
    "pose_rpy": Layout("pose", (*_XYZ, "roll", "pitch", "yaw"), "m", "rpy"),
    "pose_rotvec": Layout("pose", (*_XYZ, "rx", "ry", "rz"), "m", "rotvec"),
    "pose_6d": Layout("pose", (*_XYZ, *_COLUMNS), "m", "6d"),
    "pose_6d_rows": Layout("pose", (*_XYZ, *_ROWS), "m", "6d_rows"),
    "pose_columns": Layout(
        "pose", tuple(_MATRIX[4 * row + column] for column in range(4) for row in range(4)), "m",
        "columns",
    ),
    "pose_rows": Layout("pose", _MATRIX, "m", "rows"),
    "point": Layout("point", _XYZ),
    "quaternion": Layout("quaternion", _XYZW, "", "xyzw"),
    "quaternion_wxyz": Layout("quaternion", ("qw", "qx", "qy", "qz"), "", "wxyz"),
    "twist": Layout("twist", ("vx", "vy", "vz", "wx", "wy", "wz"), "m/s"),
    "wrench": Layout("wrench", ("fx", "fy", "fz", "tx", "ty", "tz"), "N"),
    "change": Layout("change", ("dx", "dy", "dz", "rx", "ry", "rz"), "m", "rotvec"),
    "change_rpy": Layout("change", ("dx", "dy", "dz", "roll", "pitch", "yaw"), "m", "rpy"),
}  # fmt: skip
#: How far a matrix may be from a rotation.
_SKEWED = 1e-2


def usual_of(
    layout: LayoutName | Literal[""], to_layout: LayoutName | Literal[""]
) -> LayoutName | None:
    """What a layout becomes; None where there is none."""
    return to_layout or (LAYOUTS[layout].family if layout else None)


class TransformMapping(Config):
    """Where a frame is that is fixed to another."""

    parent: str = setting(doc="The other frame.", min_length=1)
    xyz: tuple[float, ...] = setting((0.0, 0.0, 0.0), doc="Its origin there.", unit="m")
    rpy: tuple[float, ...] = setting(
        (), doc="Roll, pitch, yaw about the other's fixed axes, as in URDF.", unit="rad"
    )
    xyzw: tuple[float, ...] = setting((), doc="Instead of rpy: a quaternion x y z w.")

    def validate(self) -> None:
        """Refuse other counts, and two rotations."""
        for key, count in (("xyz", 3), ("rpy", 3), ("xyzw", 4)):
            values = getattr(self, key)
            if (len(values) not in ((count,) if key == "xyz" else (0, count))
                    or not np.isfinite(values).all()):  # fmt: skip
                raise ConfigError(
                    f"{key} of a transform", got=values, expected=f"{count} finite numbers"
                )
        if self.rpy and self.xyzw:
            raise ConfigError("transform", got="rpy and xyzw", expected="one of the two")
        if self.xyzw and not 0.9 < float(np.linalg.norm(self.xyzw)) < 1.1:
            raise ConfigError("xyzw of a transform", got=self.xyzw, expected="a unit quaternion")


@dataclass(frozen=True)
class Transform:
    """Where a frame is in another.

    Attributes:
        shift: Its origin, (3,) m.
        turn: Its axes, (3, 3).
    """

    shift: Array
    turn: Array

    def then(self, outer: Transform) -> Transform:
        """This frame in the frame that ``outer`` leads to."""
        return Transform(outer.shift + outer.turn @ self.shift, outer.turn @ self.turn)

    def inverse(self) -> Transform:
        """The other way."""
        return Transform(-self.turn.T @ self.shift, self.turn.T)


def between(transforms: Mapping[str, TransformMapping], frame: str, wanted: str) -> Transform:
    """Where a frame is in another.

    Raises:
        ConfigError: Nobody says; names the frames that are known.
    """
    ways = []
    for start in (frame, wanted):
        found = {start: Transform(np.zeros(3), np.eye(3))}
        name = start
        while name in transforms:
            one, way = transforms[name], found[name]
            turn = matrix_of("xyzw", np.array([one.xyzw])) if one.xyzw else matrix_of(
                "rpy", np.array([one.rpy or (0.0, 0.0, 0.0)])
            )  # fmt: skip
            name = one.parent
            if name in found:
                raise ConfigError("transforms", got=f"{name!r} above itself", expected="a tree")
            found[name] = way.then(Transform(np.array(one.xyz, float), turn[0]))
        ways.append(found)
    ups, downs = ways
    for name, up in ups.items():
        if name in downs:
            return up.then(downs[name].inverse())
    known = sorted({*transforms, *(one.parent for one in transforms.values())})
    raise ConfigError(
        f"frame {frame!r} in {wanted!r}", got=f"transforms of {known}",
        expected="a way from one to the other",
        hint=f"transforms: {{{frame}: {{parent: {wanted}, xyz: [x, y, z], rpy: [r, p, y]}}}} says where it "
        "is; of frames that move, such as that of a camera at the wrist, data cannot be converted",
    )  # fmt: skip


class Laid:
    """Turns rows of one layout and frame into those of another.

    What follows the numbers of the layout, such as the opening of a gripper, stays as it is.

    Args:
        what: Of what, for errors.
        layout: What stands in the data.
        to_layout: What is wanted; empty: what the robot's own arrays have.
        length: Metres of one unit of length in the data.
        angle: Radians of one unit of angle in the data.
        way: Where the frame of the data is in the wanted one; None: they are the same.
        taken_at: Which point a twist or wrench belongs to, see the key of a mapping.

    Attributes:
        size: Numbers that the layout has in the data.
        names: Of what comes out.
        unit: Of what comes out.

    Raises:
        ConfigError: One cannot become the other.
    """

    def __init__(
        self,
        what: str,
        layout: LayoutName,
        to_layout: LayoutName | Literal[""] = "",
        length: float = 1.0,
        angle: float = 1.0,
        way: Transform | None = None,
        taken_at: str = "auto",
    ) -> None:
        mine = LAYOUTS[layout]
        wanted = LAYOUTS[to_layout or mine.family]
        if mine.family != wanted.family:
            raise ConfigError(
                f"to_layout of {what}", got=to_layout,
                expected=f"one of {[n for n, one in LAYOUTS.items() if one.family == mine.family]}: "
                f"{layout} is a {mine.family}",
            )  # fmt: skip
        angles = mine.family == "twist" or mine.rotation in ("rpy", "rotvec")
        if angle != 1.0 and not angles:
            raise ConfigError(
                f"angle of {what}", got="deg", expected=f"rad: {layout} has no angles"
            )
        if length != 1.0 and mine.family in ("quaternion", "wrench"):
            raise ConfigError(f"length of {what}", got="another", expected=f"m: it is a {layout}")
        self._what, self._mine, self._wanted = what, mine, wanted
        self._length, self._angle, self._way = length, angle, way
        self._taken_at = taken_at
        self.size, self.names, self.unit = len(mine.names), wanted.names, wanted.unit
        self._same = mine is wanted and way is None and length == angle == 1.0

    def apply(self, rows: Array) -> Array:
        """Rows (n, size + more) as what is wanted, (n, len(names) + more) float64.

        Raises:
            SpecError: A rotation is none; says where.
        """
        values = np.asarray(rows[:, : self.size], np.float64)
        if self._same:
            if self._mine.rotation:
                self._turns(values)  # raises where one is none
            return np.asarray(rows, np.float64)
        found = self._converted(values)
        return np.concatenate([found, rows[:, self.size :]], axis=1)

    def _turns(self, values: Array) -> Array:
        start = 0 if self._mine.family == "quaternion" else 3
        kind = self._mine.rotation
        part = values if kind in ("rows", "columns") else values[:, start:]
        if kind in ("rpy", "rotvec"):
            part = part * self._angle
        try:
            return matrix_of(kind, part)
        except SpecError as error:
            raise SpecError(self._what, got=error.got, expected=error.expected) from error

    def _converted(self, values: Array) -> Array:
        family, way = self._mine.family, self._way
        if family in ("twist", "wrench"):
            return self._moved(values)
        place = None if family == "quaternion" else self._places(values) * self._length
        turns = self._turns(values) if self._mine.rotation else None
        if way is not None:
            if turns is not None:
                # a change turns about axes of the frame: R (turn) R', a pose is turned as a whole
                turns = way.turn @ turns
                if family == "change":
                    turns = turns @ way.turn.T
            if place is not None:
                place = place @ way.turn.T + (way.shift if family != "change" else 0.0)
        if turns is None:
            assert place is not None  # noqa: S101 - a point has one
            return place
        written = written_as(self._wanted.rotation, turns, place)
        if self._wanted.rotation in ("rows", "columns"):
            return written
        return written if place is None else np.concatenate([place, written], axis=1)

    def _places(self, values: Array) -> Array:
        if self._mine.rotation == "rows":
            return values[:, [3, 7, 11]]
        return values[:, 12:15] if self._mine.rotation == "columns" else values[:, :3]

    def _moved(self, values: Array) -> Array:
        """A twist or wrench; see ``taken_at``."""
        scale = (self._length, self._angle) if self._mine.family == "twist" else (1.0, 1.0)
        first, second = values[:, :3] * scale[0], values[:, 3:] * scale[1]
        if self._way is not None:
            turn, shift = self._way.turn.T, self._way.shift
            first, second = first @ turn, second @ turn
            if self._mine.family == "wrench" and self._taken_at != "tool":
                second = second + np.cross(shift, first)
            elif self._mine.family == "twist" and self._taken_at == "origin":
                first = first + np.cross(shift, second)
        return np.concatenate([first, second], axis=1)


# --- rotations, (n, 3, 3) -----------------------------------------------------------------------


def matrix_of(kind: str, values: Array) -> Array:
    """Rotations as matrices.

    Args:
        kind: How they are written: ``xyzw``, ``wxyz``, ``rpy``, ``rotvec``, ``6d``, ``6d_rows``, ``rows``,
            ``columns`` (of 16 numbers).
        values: Those numbers, (n, k), angles in rad.

    Raises:
        SpecError: One is no rotation; says where.
    """
    return _READ[kind](np.asarray(values, np.float64))


def _of_xyzw(values: Array) -> Array:
    norm = np.linalg.norm(values, axis=1)
    _require((norm > 0.9) & (norm < 1.1), values, "a unit quaternion")
    x, y, z, w = (values / norm[:, None]).T
    return np.stack([
        1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w),
        2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w),
        2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y),
    ], axis=1).reshape(-1, 3, 3)  # fmt: skip


def _of_rpy(values: Array) -> Array:
    (sr, sp, sy), (cr, cp, cy) = np.sin(values).T, np.cos(values).T
    return np.stack([
        cy * cp, cy * sp * sr - sy * cr, cy * sp * cr + sy * sr,
        sy * cp, sy * sp * sr + cy * cr, sy * sp * cr - cy * sr,
        -sp, cp * sr, cp * cr,
    ], axis=1).reshape(-1, 3, 3)  # fmt: skip


def _of_rotvec(values: Array) -> Array:
    angle = np.linalg.norm(values, axis=1, keepdims=True)
    # sin(a / 2) / a, also where a is 0
    xyz = values * 0.5 * np.sinc(angle / (2 * np.pi))
    return _of_xyzw(np.concatenate([xyz, np.cos(angle / 2)], axis=1))


def _of_6d(values: Array) -> Array:
    first, second = values[:, :3], values[:, 3:6]
    length = np.linalg.norm(first, axis=1)
    _require(length > 1e-6, values, "two columns of a rotation")
    x = first / np.maximum(length, 1e-12)[:, None]
    across = second - np.sum(x * second, axis=1, keepdims=True) * x
    length = np.linalg.norm(across, axis=1)
    _require(length > 1e-6, values, "two columns of a rotation")
    y = across / np.maximum(length, 1e-12)[:, None]
    return np.stack([x, y, np.cross(x, y)], axis=2)


def _of_rows(values: Array) -> Array:
    whole = values.reshape(-1, 4, 4)
    turns: Array = whole[:, :3, :3]
    off = np.abs(whole[:, 3] - [0.0, 0.0, 0.0, 1.0]).max(axis=1)
    _require(
        off < _SKEWED, values, "0 0 0 1 as last row: pose_rows and pose_columns stand the other way"
    )
    off = np.abs(turns @ turns.transpose(0, 2, 1) - np.eye(3)).max(axis=(1, 2))
    _require((off < _SKEWED) & (np.linalg.det(turns) > 0), values, "a rotation")
    return turns


_READ: dict[str, Callable[[Array], Array]] = {
    "xyzw": _of_xyzw,
    "wxyz": lambda values: _of_xyzw(np.roll(values, -1, axis=1)),
    "rpy": _of_rpy,
    "rotvec": _of_rotvec,
    "6d": _of_6d,
    "6d_rows": lambda values: _of_6d(values).transpose(0, 2, 1),
    "rows": _of_rows,
    "columns": lambda values: _of_rows(values.reshape(-1, 4, 4).transpose(0, 2, 1)),
}


def written_as(kind: str, turns: Array, place: Array | None = None) -> Array:
    """Rotations (n, 3, 3) in one of the ways of :func:`matrix_of`, (n, k).

    Quaternions keep their sign from row to row, and begin with w >= 0; of rotations about straight
    pitch, roll is 0.

    Args:
        kind: Which way.
        turns: The rotations.
        place: Of ``rows`` and ``columns``, the positions, (n, 3).
    """
    if kind in ("xyzw", "wxyz"):
        found = _continuous(_quaternions(turns))
        return found if kind == "xyzw" else np.roll(found, 1, axis=1)
    if kind == "rotvec":
        found = _quaternions(turns)
        found = np.where(found[:, 3:] < 0, -found, found)
        sine = np.linalg.norm(found[:, :3], axis=1, keepdims=True)
        angle = 2 * np.arctan2(sine, found[:, 3:])
        return found[:, :3] * np.where(sine > 1e-12, angle / np.maximum(sine, 1e-12), 2.0)
    if kind == "rpy":
        pitch = np.arctan2(-turns[:, 2, 0], np.hypot(turns[:, 0, 0], turns[:, 1, 0]))
        straight = np.hypot(turns[:, 0, 0], turns[:, 1, 0]) < 1e-9
        roll = np.arctan2(turns[:, 2, 1], turns[:, 2, 2])
        yaw = np.arctan2(turns[:, 1, 0], turns[:, 0, 0])
        about = np.arctan2(-turns[:, 0, 1], turns[:, 1, 1])
        return np.stack(
            [np.where(straight, 0.0, roll), pitch, np.where(straight, about, yaw)], axis=1
        )
    if kind == "6d":
        return turns[:, :, :2].transpose(0, 2, 1).reshape(-1, 6)
    if kind == "6d_rows":
        return turns[:, :2].reshape(-1, 6)
    whole = np.tile(np.eye(4), (len(turns), 1, 1))
    whole[:, :3, :3] = turns
    if place is not None:
        whole[:, :3, 3] = place
    return (whole if kind == "rows" else whole.transpose(0, 2, 1)).reshape(-1, 16)


def _quaternions(turns: Array) -> Array:
    """x y z w, (n, 4): from the largest of the four, so that no digits are lost (Shepperd 1978)."""
    m = turns
    trace = m[:, 0, 0] + m[:, 1, 1] + m[:, 2, 2]
    four = np.stack([m[:, 0, 0], m[:, 1, 1], m[:, 2, 2], trace], axis=1)
    largest = four.argmax(axis=1)
    found = np.empty((len(m), 4))
    for i in range(3):
        j, k = (i + 1) % 3, (i + 2) % 3
        of = largest == i
        found[of, i] = 1 - trace[of] + 2 * m[of, i, i]
        found[of, j] = m[of, j, i] + m[of, i, j]
        found[of, k] = m[of, k, i] + m[of, i, k]
        found[of, 3] = m[of, k, j] - m[of, j, k]
    of = largest == 3
    found[of, 0] = m[of, 2, 1] - m[of, 1, 2]
    found[of, 1] = m[of, 0, 2] - m[of, 2, 0]
    found[of, 2] = m[of, 1, 0] - m[of, 0, 1]
    found[of, 3] = 1 + trace[of]
    result: Array = found / np.linalg.norm(found, axis=1, keepdims=True)
    return result


def _continuous(quaternions: Array) -> Array:
    """The same rotations; each quaternion on the side of the one before."""
    if not len(quaternions):
        return quaternions
    flips = np.sum(quaternions[1:] * quaternions[:-1], axis=1) < 0
    sign = np.where(np.concatenate([[quaternions[0, 3] < 0], flips]), -1.0, 1.0)
    result: Array = quaternions * np.cumprod(sign)[:, None]
    return result


def _require(holds: Array, values: Array, expected: str) -> None:
    if holds.all():
        return
    row = int(np.argmin(holds))
    told = [round(float(value), 6) for value in values[row]]
    raise SpecError("rotation", got=f"{told} at step {row}", expected=expected)
