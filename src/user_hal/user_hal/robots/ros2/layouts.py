"""How a group of numbers is laid out in a message, and in the observation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from user_core.errors import DeviceFault
from user_core.specs import Array

LayoutName = Literal["vector", "scalar", "vector3", "quaternion", "pose", "twist", "wrench"]
LayoutChoice = Literal[
    "auto", "vector", "scalar", "vector3", "quaternion", "pose", "twist", "wrench"
]


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
        numbers = np.empty(len(self.parts))
        for index, way in enumerate(self.parts):
            element = value
            for name in way:
                element = getattr(element, name)
            numbers[index] = element
        if self.rotation is not None:
            quaternion = numbers[self.rotation]
            norm = float(np.linalg.norm(quaternion))
            if not norm > 0.5:  # nobody set it, or not a rotation
                raise DeviceFault(
                    "length of a quaternion", got=f"{norm:g} of {quaternion.tolist()}", expected=1
                )
            quaternion /= norm
        return numbers


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


def layout_named(observation: str) -> LayoutName:
    """The layout of an observation that has a standard name; a vector otherwise."""
    return _STANDARD.get(observation, "vector")


def unit_named(observation: str, layout: LayoutName) -> str:
    """The unit of an observation that has a standard name, or its layout's."""
    return _STANDARD_UNITS.get(observation, LAYOUTS[layout].unit)
