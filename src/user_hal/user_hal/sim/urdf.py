"""URDF of an arm, from the same description as its MJCF, for robot_state_publisher and rviz.

``python -m user_hal.sim.urdf DIRECTORY`` writes the files that the package installs to
``share/user_hal/urdf``.
"""

from __future__ import annotations

import math
import sys
from pathlib import Path
from xml.etree import ElementTree as ET

import numpy as np

from user_core.specs import Array
from user_hal.sim.arms import ARMS
from user_hal.sim.description import Arm, Joint, Link, Shape
from user_hal.sim.kinematics import dh_transform, z_transform
from user_hal.sim.mjcf import FRONT, PALETTE, numbers, optical_frame, wrist_view


def arm_urdf(arm: Arm) -> str:
    """The URDF document of an arm with its gripper; the root link is the base frame.

    Frames: the links of the arm, the flange, the hand, two fingers (prismatic joints, the
    second mimics the first), the tool frame, and the optical frames of the cameras ``front`` and
    ``wrist``.
    """
    root = ET.Element("robot", name=arm.name)
    comment = " Made by python -m user_hal.sim.urdf; sources in user_hal/sim/arms. "
    root.append(ET.Comment(comment))
    for name in _colours(arm):
        material = ET.SubElement(root, "material", name=name)
        ET.SubElement(material, "color", rgba=numbers(PALETTE[name]))
    _add_link(root, arm.base)
    parent, before = arm.base.name, z_transform(arm.base_yaw_rad)
    for row, joint, link in zip(arm.dh, arm.joints, arm.links, strict=False):
        _add_link(root, link)
        element = _add_joint(
            root, joint.name, "revolute", parent, link.name, before @ dh_transform(row)
        )
        _add_limits(element, joint)
        parent, before = link.name, np.eye(4)
    _add_gripper(root, arm, parent)
    hand = arm.gripper.hand.name
    views = (("front", arm.base.name, FRONT), ("wrist", hand, wrist_view(arm.gripper)))
    for camera, parent, view in views:
        frame = optical_frame(camera)
        ET.SubElement(root, "link", name=frame)
        _add_joint(root, f"{frame}_joint", "fixed", parent, frame, view.optical_pose())
    ET.indent(root)
    return '<?xml version="1.0"?>\n' + ET.tostring(root, encoding="unicode") + "\n"


def _colours(arm: Arm) -> list[str]:
    """Names of the colours that an arm has."""
    links = (arm.base, *arm.links, arm.gripper.hand, arm.gripper.finger)
    return sorted({shape.colour for link in links for shape in link.shapes})


def _add_gripper(root: ET.Element, arm: Arm, last_link: str) -> None:
    gripper, flange = arm.gripper, arm.flange_frame
    hand = gripper.hand.name
    ET.SubElement(root, "link", name=flange)
    _add_joint(root, f"{flange}_joint", "fixed", last_link, flange, dh_transform(arm.dh[-1]))
    _add_link(root, gripper.hand)
    _add_joint(root, f"{hand}_joint", "fixed", flange, hand, z_transform(gripper.yaw_rad))
    for name, turn_rad in zip(gripper.finger_names, (0.0, math.pi), strict=True):
        link = name.replace("joint", "link")
        _add_link(root, gripper.finger, name=link)
        pose = z_transform(turn_rad, gripper.finger_z_m)
        joint = _add_joint(root, name, "prismatic", hand, link, pose, axis="0 1 0")
        ET.SubElement(
            joint,
            "limit",
            lower="0",
            upper=numbers([gripper.stroke_m]),
            velocity=numbers([gripper.velocity_m_s]),
            effort=numbers([gripper.force_n]),
        )
        if name != gripper.finger_names[0]:
            ET.SubElement(joint, "mimic", joint=gripper.finger_names[0])
    ET.SubElement(root, "link", name=gripper.tcp_frame)
    _add_joint(
        root,
        f"{gripper.tcp_frame}_joint",
        "fixed",
        hand,
        gripper.tcp_frame,
        z_transform(0.0, gripper.tcp_z_m),
    )


def _add_joint(
    root: ET.Element,
    name: str,
    kind: str,
    parent: str,
    child: str,
    pose: Array,
    axis: str = "0 0 1",
) -> ET.Element:
    joint = ET.SubElement(root, "joint", name=name, type=kind)
    ET.SubElement(joint, "origin", _origin(pose))
    ET.SubElement(joint, "parent", link=parent)
    ET.SubElement(joint, "child", link=child)
    if kind != "fixed":
        ET.SubElement(joint, "axis", xyz=axis)
    return joint


def _add_limits(element: ET.Element, joint: Joint) -> None:
    ET.SubElement(
        element,
        "limit",
        lower=numbers([joint.lower_rad]),
        upper=numbers([joint.upper_rad]),
        velocity=numbers([joint.velocity_rad_s]),
        effort=numbers([joint.effort_nm]),
    )


def _add_link(root: ET.Element, link: Link, name: str = "") -> None:
    element = ET.SubElement(root, "link", name=name or link.name)
    inertial = ET.SubElement(element, "inertial")
    ET.SubElement(inertial, "origin", xyz=numbers(link.com_m), rpy="0 0 0")
    ET.SubElement(inertial, "mass", value=numbers([link.mass_kg]))
    keys = ("ixx", "iyy", "izz", "ixy", "ixz", "iyz")
    values = {key: numbers([value]) for key, value in zip(keys, link.inertia_kg_m2, strict=True)}
    ET.SubElement(inertial, "inertia", values)
    for shape in link.shapes:
        _add_shape(element, "visual", shape)
        if shape.collides:
            _add_shape(element, "collision", shape)


def _add_shape(link: ET.Element, purpose: str, shape: Shape) -> None:
    """A shape as URDF knows it: a capsule becomes a cylinder and two spheres."""
    if shape.kind == "box":
        pose = np.eye(4)
        pose[:3, 3] = shape.start_m
        size = numbers(2 * np.array(shape.half_size_m))
        _add_solid(link, purpose, shape, pose, "box", {"size": size})
        return
    pose, length_m = _along(shape)
    radius = numbers([shape.radius_m])
    cylinder = {"radius": radius, "length": numbers([length_m])}
    _add_solid(link, purpose, shape, pose, "cylinder", cylinder)
    if shape.kind == "capsule":
        for end_m in (shape.start_m, shape.end_m):
            pose = np.eye(4)
            pose[:3, 3] = end_m
            _add_solid(link, purpose, shape, pose, "sphere", {"radius": radius})


def _add_solid(
    link: ET.Element,
    purpose: str,
    shape: Shape,
    pose: Array,
    kind: str,
    attributes: dict[str, str],
) -> None:
    element = ET.SubElement(link, purpose)
    ET.SubElement(element, "origin", _origin(pose))
    ET.SubElement(ET.SubElement(element, "geometry"), kind, attributes)
    if purpose == "visual":
        ET.SubElement(element, "material", name=shape.colour)


def _along(shape: Shape) -> tuple[Array, float]:
    """Pose (4, 4) of the middle of a cylinder, z along its axis; and its length."""
    start_m, end_m = np.array(shape.start_m), np.array(shape.end_m)
    axis = end_m - start_m
    length_m = float(np.linalg.norm(axis))
    z = axis / length_m
    x = np.cross([0.0, 1.0, 0.0] if abs(z[1]) < 0.9 else [1.0, 0.0, 0.0], z)
    x /= np.linalg.norm(x)
    pose = np.eye(4)
    pose[:3, 0], pose[:3, 1], pose[:3, 2] = x, np.cross(z, x), z
    pose[:3, 3] = (start_m + end_m) / 2
    return pose, length_m


def _origin(pose: Array) -> dict[str, str]:
    """``xyz`` and ``rpy`` (fixed axes x, y, z) of a (4, 4) pose."""
    r = pose[:3, :3]
    pitch_rad = math.atan2(-r[2, 0], math.hypot(r[0, 0], r[1, 0]))
    if abs(math.cos(pitch_rad)) < 1e-9:  # only the sum of roll and yaw matters
        roll_rad, yaw_rad = math.atan2(-r[1, 2], r[1, 1]), 0.0
    else:
        roll_rad = math.atan2(r[2, 1], r[2, 2])
        yaw_rad = math.atan2(r[1, 0], r[0, 0])
    return {"xyz": numbers(pose[:3, 3]), "rpy": numbers((roll_rad, pitch_rad, yaw_rad))}


def main() -> None:
    """Write one file per arm."""
    directory = Path(sys.argv[1] if len(sys.argv) > 1 else ".")
    directory.mkdir(parents=True, exist_ok=True)
    for arm in ARMS.values():
        (directory / f"{arm.name}.urdf").write_text(arm_urdf(arm))


if __name__ == "__main__":
    main()
