"""Pieces of MJCF documents that arms, tasks and surroundings are made of."""

from __future__ import annotations

from collections.abc import Sequence
from xml.etree import ElementTree as ET

import numpy as np

from user_core.specs import Array
from user_hal.sim.description import Shape
from user_hal.sim.kinematics import quaternion_xyzw

#: Bits of contype and conaffinity: two geoms touch if one's type meets the other's affinity.
ROBOT = {"contype": "1", "conaffinity": "0", "group": "3"}
WORLD = {"contype": "0", "conaffinity": "3", "group": "3"}
OBJECT = {"contype": "2", "conaffinity": "1"}
SEEN = {"contype": "0", "conaffinity": "0", "group": "2"}


def numbers(values: Sequence[float] | Array) -> str:
    """Numbers as MJCF and URDF want them, without noise in the last digits."""
    return " ".join(f"{round(float(v), 9) + 0.0:.9g}" for v in values)


def pose_attributes(pose: Array) -> dict[str, str]:
    """``pos`` and ``quat`` (w x y z) of a (4, 4) pose."""
    x, y, z, w = quaternion_xyzw(pose[:3, :3])
    return {"pos": numbers(pose[:3, 3]), "quat": numbers((w, x, y, z))}


def look_at(eye_m: Sequence[float], target_m: Sequence[float], up: Sequence[float]) -> str:
    """``xyaxes`` of a camera at ``eye_m`` that looks at ``target_m``."""
    backwards = np.subtract(eye_m, target_m)
    right = np.cross(up, backwards)
    right /= np.linalg.norm(right)
    above = np.cross(backwards, right)
    return numbers([*right, *(above / np.linalg.norm(above))])


def add_shape(parent: ET.Element, shape: Shape, **attributes: str) -> ET.Element:
    """Add a shape to a body; ``attributes`` are for what touches."""
    geom: dict[str, str] = {"type": shape.kind}
    if shape.kind == "box":
        geom |= {"pos": numbers(shape.start_m), "size": numbers(shape.half_size_m)}
    else:
        geom |= {
            "fromto": numbers((*shape.start_m, *shape.end_m)),
            "size": numbers([shape.radius_m]),
        }
    look = {"material": shape.colour, "group": "2"}
    if not shape.collides:
        return ET.SubElement(parent, "geom", geom | SEEN | look)
    if shape.kind != "cylinder":
        return ET.SubElement(parent, "geom", geom | ROBOT | look | attributes)
    # What looks like a cylinder touches like a capsule, which is exact and fast.
    ET.SubElement(parent, "geom", geom | {"type": "capsule"} | ROBOT | attributes)
    return ET.SubElement(parent, "geom", geom | SEEN | look)
