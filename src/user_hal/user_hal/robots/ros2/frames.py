"""Frames as relations: which frame is where in another, and numbers taken from one to the other.

Pure: no topics, no clock. :class:`Frames` are fixed to each other; those that move are known to
:class:`~user_hal.robots.ros2.tf_tree.TfTree`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from user_core.errors import ConfigError
from user_core.specs import Array
from user_hal.safety import rotation
from user_hal.safety.rotation import Quaternion

#: Layouts that can be taken from any frame to any other.
FRAMED = ("pose", "quaternion", "twist", "wrench")


@dataclass(frozen=True)
class Transform:
    """Where a frame is in another.

    Attributes:
        shift: Its origin, (3,) m.
        turn: Its rotation, unit quaternion x y z w.
    """

    shift: Array
    turn: Quaternion

    def then(self, outer: Transform) -> Transform:
        """This frame in the frame that ``outer`` leads to."""
        return Transform(
            outer.shift + outer.rotated(self.shift), rotation.multiply(outer.turn, self.turn)
        )

    def inverse(self) -> Transform:
        """The other way."""
        back = Transform(np.zeros(3), rotation.conjugate(self.turn))
        return Transform(-back.rotated(self.shift), back.turn)

    def rotated(self, vector: Array) -> Array:
        """A vector (3,) in the axes of the other frame."""
        axis = np.array(self.turn[:3])
        twice = 2.0 * np.cross(axis, vector)
        result: Array = vector + self.turn[3] * twice + np.cross(axis, twice)
        return result

    def can(self, layout: str) -> bool:
        """Whether numbers of this layout can be taken over. A vector3 may be a point or a
        direction, which differ as soon as the origins do."""
        if layout == "vector3":
            return not self.shift.any()
        return layout in FRAMED

    def apply(self, layout: str, values: Array, taken_at: str = "auto") -> Array:
        """Numbers of a layout in the other frame, (n,).

        Args:
            layout: What they are.
            values: Themselves.
            taken_at: Which point a twist or wrench belongs to. ``origin``: the velocity is that
                of the body at the origin of the frame, the torque is about it, and another origin
                changes them: v' = R v + p x w', t' = R t + p x f' for an origin at p. ``tool``:
                both belong to the tool's own point, and only the axes turn. ``auto``: ``tool`` for
                twists, as controllers and broadcasters of tool velocities mean it, ``origin`` for
                wrenches, as geometry_msgs/Wrench and tf2 mean it.
        """
        result = np.array(values, dtype=np.float64)
        if layout == "pose":
            result[:3] = self.shift + self.rotated(values[:3])
            result[3:] = self._turned(values[3:])
        elif layout == "quaternion":
            result[:] = self._turned(values)
        else:
            for start in range(0, len(values), 3):
                result[start : start + 3] = self.rotated(values[start : start + 3])
            if layout == "wrench" and taken_at != "tool":
                result[3:] += np.cross(self.shift, result[:3])
            elif layout == "twist" and taken_at == "origin":
                result[:3] += np.cross(self.shift, result[3:])
        return result

    def _turned(self, values: Array) -> Quaternion:
        x, y, z, w = (float(value) for value in values)
        return rotation.multiply(self.turn, (x, y, z, w))


_NOWHERE = Transform(np.zeros(3), (0.0, 0.0, 0.0, 1.0))


def from_rpy(roll: float, pitch: float, yaw: float) -> Quaternion:
    """The rotation of fixed-axis angles as in URDF: first about x, then y, then z (rad)."""
    x = (math.sin(roll / 2), 0.0, 0.0, math.cos(roll / 2))
    y = (0.0, math.sin(pitch / 2), 0.0, math.cos(pitch / 2))
    z = (0.0, 0.0, math.sin(yaw / 2), math.cos(yaw / 2))
    return rotation.multiply(z, rotation.multiply(y, x))


def to_rpy(quaternion: Array) -> Array:
    """Roll, pitch, yaw (rad) of x y z w; the inverse of :func:`from_rpy`, pitch within a quarter
    turn."""
    x, y, z, w = (float(value) for value in quaternion)
    sine = max(-1.0, min(1.0, 2.0 * (w * y - z * x)))
    if abs(sine) > 1.0 - 1e-9:  # roll and yaw turn about one axis: all of it is yaw
        return np.array([0.0, math.copysign(math.pi / 2, sine), -2.0 * sine * math.atan2(x, w)])
    pitch = math.asin(sine)
    roll = math.atan2(2.0 * (w * x + y * z), 1.0 - 2.0 * (x * x + y * y))
    yaw = math.atan2(2.0 * (w * z + x * y), 1.0 - 2.0 * (y * y + z * z))
    return np.array([roll, pitch, yaw])


def plain(frame: str) -> str:
    """The name of a frame without the leading slash of ROS 1."""
    return frame.lstrip("/")


class Frames:
    """Fixed frames, each with its parent.

    Args:
        known: Frame to its parent, its origin there (m) and roll, pitch, yaw (rad).

    Raises:
        ConfigError: A frame is its own ancestor.
    """

    def __init__(
        self, known: Mapping[str, tuple[str, Sequence[float], Sequence[float]]] | None = None
    ) -> None:
        self._parents = {
            plain(name): (
                plain(parent),
                Transform(np.array(xyz, dtype=np.float64), from_rpy(*rpy)),
            )
            for name, (parent, xyz, rpy) in (known or {}).items()
        }
        for name in self._parents:
            self._ancestors(name)

    def between(self, source: str, target: str) -> Transform | None:
        """Where ``source`` is in ``target``; None where that is not known."""
        source, target = plain(source), plain(target)
        if source == target:
            return _NOWHERE
        ups, downs = self._ancestors(source), self._ancestors(target)
        for name, up in ups.items():
            if name in downs:
                return up.then(downs[name].inverse())
        return None

    def fixed(self) -> dict[str, tuple[str, Transform]]:
        """Each frame with its parent, and where it is there."""
        return dict(self._parents)

    def _ancestors(self, name: str) -> dict[str, Transform]:
        """Each ancestor, itself first, and where the frame is in it."""
        found, way = {name: _NOWHERE}, _NOWHERE
        while name in self._parents:
            name, step = self._parents[name]
            if name in found:
                raise ConfigError("transforms", got=f"{name!r} above itself", expected="a tree")
            way = way.then(step)
            found[name] = way
        return found
