"""MJCF of an arm on a table, from its description; tasks add their objects.

Contacts are restricted to what matters: the robot against the world and the object, the
object against the world. The robot does not collide with itself (joint limits and the
workspace box keep it apart), which saves a third of the time of a step.

There are two ways to drive an arm, and a document has one of them:

* ``joints``: joint impedance control, a spring and a damper at each joint;
* ``tool``: Cartesian impedance control (N. Hogan, "Impedance control", 1985), springs and
  dampers between the tool centre point and its target, equally stiff in all directions, as
  one uses for contact.

Either is made of actuators that integrate their control, a velocity, to the target that
they pull towards: so the target moves evenly during a control period without a line of
Python between physics steps.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal
from xml.etree import ElementTree as ET

import numpy as np

from user_core.specs import Array
from user_hal.sim.description import Arm, Gripper, Joint, Link, Shape
from user_hal.sim.kinematics import dh_transform, quaternion_xyzw, z_transform

PALETTE: dict[str, tuple[float, float, float, float]] = {
    "white": (0.93, 0.94, 0.95, 1.0),
    "silver": (0.72, 0.75, 0.78, 1.0),
    "steel": (0.58, 0.61, 0.65, 1.0),
    "graphite": (0.22, 0.24, 0.27, 1.0),
    "black": (0.10, 0.11, 0.12, 1.0),
    "blue": (0.33, 0.62, 0.84, 1.0),
    "teal": (0.16, 0.55, 0.60, 1.0),
    "rubber": (0.16, 0.17, 0.18, 1.0),
    "table": (0.74, 0.66, 0.55, 1.0),
    "table_edge": (0.45, 0.36, 0.28, 1.0),
    "floor": (0.40, 0.44, 0.50, 1.0),
    "block": (0.24, 0.42, 0.62, 1.0),
    "peg": (0.95, 0.60, 0.12, 1.0),
    "cube": (0.86, 0.22, 0.20, 1.0),
    "goal": (0.15, 0.78, 0.38, 0.55),
    "guide": (0.15, 0.78, 0.38, 1.0),
}


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


@dataclass(frozen=True)
class View:
    """Where a camera is, and what it sees.

    Attributes:
        eye_m: Where it is, in the frame of the body that it is fixed to.
        target_m: What it looks at.
        up: What is up in its image.
        fovy_deg: Vertical field of view.
    """

    eye_m: tuple[float, float, float]
    target_m: tuple[float, float, float]
    up: tuple[float, float, float]
    fovy_deg: float

    def element(self, parent: ET.Element, name: str) -> None:
        """Add the camera to a body."""
        pose = self.optical_pose()
        ET.SubElement(
            parent, "camera", name=name, pos=numbers(self.eye_m),
            xyaxes=numbers([*pose[:3, 0], *-pose[:3, 1]]), fovy=numbers([self.fovy_deg]),
        )  # fmt: skip

    def optical_pose(self) -> Array:
        """Pose (4, 4) of its optical frame (REP-103: z forward, x right, y down) in the body's."""
        forward = np.subtract(self.target_m, self.eye_m)
        forward = forward / np.linalg.norm(forward)
        right = np.cross(forward, self.up)
        right /= np.linalg.norm(right)
        pose = np.eye(4)
        pose[:3, :3] = np.stack([right, np.cross(forward, right), forward], axis=1)
        pose[:3, 3] = self.eye_m
        return pose


FRONT = View((1.08, -0.12, 0.50), (0.40, 0.0, 0.155), (0, 0, 1), 42.0)
OVERVIEW = View((1.32, -1.02, 0.86), (0.27, 0.0, 0.27), (0, 0, 1), 37.0)


def wrist_view(gripper: Gripper) -> View:
    """The camera on the hand, which looks at what the fingers hold."""
    eye = (0.085, 0.0, gripper.tcp_z_m - 0.105)
    return View(eye, (0.0, 0.0, gripper.tcp_z_m + 0.03), (1, 0, 0), 62.0)


def optical_frame(camera: str) -> str:
    """Name of the frame of a camera's images."""
    return f"camera_{camera}_optical_frame"


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


def add_looks(root: ET.Element) -> None:
    """Add image quality, sky and the materials of the palette to a document."""
    visual = ET.SubElement(root, "visual")
    ET.SubElement(visual, "global", offwidth="1920", offheight="1440", fovy="40")
    ET.SubElement(visual, "quality", shadowsize="0", offsamples="0", numslices="20", numstacks="10")
    ET.SubElement(
        visual, "headlight", ambient="0.38 0.38 0.40", diffuse="0.16 0.16 0.16", specular="0 0 0"
    )
    ET.SubElement(visual, "map", znear="0.01", zfar="20", shadowclip="0.8", shadowscale="0.8")
    asset = ET.SubElement(root, "asset")
    sky = {"type": "skybox", "builtin": "gradient", "width": "32", "height": "192"}
    ET.SubElement(asset, "texture", sky, rgb1="0.80 0.86 0.92", rgb2="0.30 0.35 0.42")
    for name, rgba in PALETTE.items():
        shine = "0.5" if name in ("white", "silver", "steel", "peg") else "0.15"
        ET.SubElement(
            asset, "material", name=name, rgba=numbers(rgba), specular=shine, shininess="0.5"
        )


def add_surroundings(world: ET.Element) -> None:
    """Add lights, floor, table and the cameras ``front`` and ``overview`` to the world."""
    for position, direction, strength, shadow in (
        ("0.9 -0.9 1.8", "-0.30 0.50 -1", "0.60 0.59 0.56", "true"),
        ("-0.6 1.2 1.6", "0.5 -0.6 -1", "0.22 0.23 0.26", "false"),
    ):
        ET.SubElement(
            world,
            "light",
            {"type": "directional"},
            pos=position,
            dir=direction,
            diffuse=strength,
            specular="0.3 0.3 0.3",
            castshadow=shadow,
        )
    floor = SEEN | {"type": "plane", "size": "12 12 0.1", "pos": "0 0 -0.74", "material": "floor"}
    ET.SubElement(world, "geom", floor)
    top = {"type": "box", "pos": "0.36 0 -0.015", "size": "0.50 0.48 0.015"}
    touch = WORLD | {"group": "2", "friction": "0.6 0.01 0.0001"}
    ET.SubElement(world, "geom", top | touch, name="table", material="table")
    frame = {"type": "box", "pos": "0.36 0 -0.055", "size": "0.47 0.45 0.025"}
    ET.SubElement(world, "geom", frame | SEEN, material="table_edge")
    for x in (-0.06, 0.78):
        for y in (-0.40, 0.40):
            leg = {"type": "box", "pos": f"{x} {y} -0.41", "size": "0.03 0.03 0.33"}
            ET.SubElement(world, "geom", leg | SEEN, material="table_edge")
    FRONT.element(world, "front")
    OVERVIEW.element(world, "overview")


Drive = Literal["joints", "tool"]
#: What the actuators of the drive ``tool`` move, in the base frame.
TOOL_AXES = ("x", "y", "z", "tilt_x", "tilt_y", "yaw")
#: Stiffness and damping of the drive ``tool``: N/m, N s/m; N m/rad, N m s/rad.
TOOL_LINEAR = (2500.0, 450.0)
TOOL_ANGULAR = (250.0, 30.0)


def scene_mjcf(
    arm: Arm, timestep_s: float, *, drive: Drive = "joints", movable_fingers: bool = True
) -> ET.Element:
    """The document of an arm on an empty table; the base frame is the world frame.

    Names that tasks build on: body ``hand`` with site ``tcp``, elements ``left_finger`` and
    ``right_finger``, cameras ``front``, ``wrist`` and ``overview``. The actuators are those
    of the drive, in order, and the gripper's last where the fingers move.
    """
    root = ET.Element("mujoco", model=arm.name)
    ET.SubElement(root, "compiler", angle="radian", autolimits="true")
    ET.SubElement(root, "size", nuserdata="1")  # see Scene.advance
    option = ET.SubElement(
        root,
        "option",
        timestep=f"{timestep_s:.9g}",
        integrator="implicitfast",
        cone="pyramidal",
        solver="Newton",
        iterations="20",
        ls_iterations="20",
    )
    ET.SubElement(option, "flag", island="disable")  # one robot, at most one object
    add_looks(root)
    world = ET.SubElement(root, "worldbody")
    add_surroundings(world)
    _add_arm(world, arm)
    _add_drive(root, world, arm, drive)
    _add_gripper(root, arm, movable_fingers)
    return root


def _add_arm(world: ET.Element, arm: Arm) -> None:
    base = ET.SubElement(world, "body", name=arm.base.name)
    _add_inertial(base, arm.base)
    for shape in arm.base.shapes:
        add_shape(base, shape)
    parent, before = base, z_transform(arm.base_yaw_rad)
    for row, joint, link in zip(arm.dh, arm.joints, arm.links, strict=False):
        pose = before @ dh_transform(row)
        body = ET.SubElement(
            parent, "body", {"name": link.name, "gravcomp": "1"} | pose_attributes(pose)
        )
        _add_inertial(body, link)
        ET.SubElement(
            body,
            "joint",
            name=joint.name,
            axis="0 0 1",
            range=numbers((joint.lower_rad, joint.upper_rad)),
            armature=f"{joint.armature_kg_m2:.9g}",
            damping="2",
            actuatorfrcrange=numbers((-joint.effort_nm, joint.effort_nm)),
        )
        for shape in link.shapes:
            add_shape(body, shape)
        parent, before = body, np.eye(4)
    pose = dh_transform(arm.dh[-1]) @ z_transform(arm.gripper.yaw_rad)
    ET.SubElement(parent, "body", {"name": "hand", "gravcomp": "1"} | pose_attributes(pose))


def _add_inertial(body: ET.Element, link: Link) -> None:
    ET.SubElement(
        body,
        "inertial",
        pos=numbers(link.com_m),
        mass=f"{link.mass_kg:.9g}",
        fullinertia=numbers(link.inertia_kg_m2),
    )


def _add_drive(root: ET.Element, world: ET.Element, arm: Arm, drive: Drive) -> None:
    actuator = ET.SubElement(root, "actuator")
    if drive == "joints":
        for joint in arm.joints:
            ET.SubElement(
                actuator,
                "intvelocity",
                name=joint.name,
                joint=joint.name,
                kp=f"{joint.stiffness_nm_rad:.9g}",
                kv=f"{joint_damping(joint):.9g}",
                actrange=numbers((-4 * math.pi, 4 * math.pi)),
            )
        return
    # The reference points down as the tool does, so that rotations are small; the signs of
    # the gears turn its axes back into those of the base frame.
    ET.SubElement(world, "site", name="reference", quat="0 1 0 0", group="4", size="0.001")
    for axis, (name, sign) in enumerate(zip(TOOL_AXES, (1, -1, -1, 1, 1, -1), strict=True)):
        gear = [0] * 6
        gear[axis] = sign
        stiffness, damping = TOOL_LINEAR if axis < 3 else TOOL_ANGULAR
        ET.SubElement(
            actuator,
            "intvelocity",
            name=name,
            site="tcp",
            refsite="reference",
            gear=numbers(gear),
            kp=f"{stiffness:.9g}",
            kv=f"{damping:.9g}",
            actrange="-10 10",
        )


def joint_damping(joint: Joint) -> float:
    """Damping (N m s/rad): above critical for the inertia that the joint typically moves.

    It acts against the difference to the target's velocity, so it causes no lag, and so
    much of it keeps the tool near its way when it starts and stops.
    """
    inertia_kg_m2 = 1.5 * joint.armature_kg_m2 + (0.6 if joint.effort_nm > 50 else 0.02)
    return 3.3 * math.sqrt(joint.stiffness_nm_rad * inertia_kg_m2)


def _add_gripper(root: ET.Element, arm: Arm, movable: bool) -> None:
    gripper, hand = arm.gripper, root.find(".//body[@name='hand']")
    assert hand is not None
    _add_inertial(hand, gripper.hand)
    for shape in gripper.hand.shapes:
        add_shape(hand, shape)
    view = wrist_view(gripper)
    view.element(hand, "wrist")
    eye_z_m = view.eye_m[2]
    for x_m, size in ((0.075, "0.011 0.030 0.011"), (0.05, "0.02 0.02 0.006")):
        housing = {"type": "box", "pos": numbers((x_m, 0, eye_z_m - 0.023)), "size": size}
        ET.SubElement(hand, "geom", housing | SEEN, material="black")
    for side, name, turn in (
        ("left", gripper.finger_names[0], 0.0),
        ("right", gripper.finger_names[1], math.pi),
    ):
        pose = z_transform(turn, gripper.finger_z_m)
        attributes = {"name": f"{side}_finger"} | pose_attributes(pose)
        if movable:
            body = ET.SubElement(hand, "body", attributes | {"gravcomp": "1"})
            _add_inertial(body, gripper.finger)
            ET.SubElement(
                body,
                "joint",
                {"type": "slide", "axis": "0 1 0", "name": name},
                range=numbers((0.0, gripper.stroke_m)),
                armature="0.1",
                damping="4",
            )
        else:  # part of the hand: a body less is a microsecond less
            body = ET.SubElement(hand, "frame", attributes)
        for shape in gripper.finger.shapes:
            add_shape(body, shape, friction="1.2 0.02 0.001")
    ET.SubElement(
        hand, "site", name="tcp", pos=numbers((0, 0, gripper.tcp_z_m)), size="0.003", group="4"
    )
    if movable:
        _add_gripper_actuator(root, arm)


def _add_gripper_actuator(root: ET.Element, arm: Arm) -> None:
    gripper = arm.gripper
    tendon = ET.SubElement(ET.SubElement(root, "tendon"), "fixed", name="grip")
    for name in gripper.finger_names:
        ET.SubElement(tendon, "joint", joint=name, coef="0.5")
    left, right = gripper.finger_names
    ET.SubElement(
        ET.SubElement(root, "equality"), "joint", joint1=left, joint2=right, solref="0.01 1"
    )
    actuator = root.find("actuator")
    assert actuator is not None
    ET.SubElement(
        actuator,
        "intvelocity",
        name="gripper",
        tendon="grip",
        kp="2000",
        kv="60",
        actrange=numbers((0.0, gripper.stroke_m)),
        ctrlrange=numbers((-gripper.velocity_m_s, gripper.velocity_m_s)),
        forcerange=numbers((-gripper.force_n, gripper.force_n)),
    )


#: Sides of the block.
SIDES = 6
#: Segments of what looks round; a multiple of the sides.
SEGMENTS = 36


def add_hole_mesh(
    root: ET.Element, body: ET.Element, hole_radius_m: float, inner_m: float, height_m: float
) -> None:
    """Add a hexagonal block with a round hole in its middle, its bottom at the body's origin.

    ``inner_m`` is the distance of its sides from the middle.
    """
    block = hexagonal_ring(hole_radius_m, inner_m, 0.0, height_m)
    _add_mesh(root, body, "hole_block", "block", block)
    # A bright rim and a dark bottom, so that one sees in a small image where the hole is.
    rim = round_ring(hole_radius_m, hole_radius_m + 0.004, height_m, height_m + 0.0004)
    _add_mesh(root, body, "hole_rim", "guide", rim)
    ET.SubElement(
        body,
        "geom",
        SEEN | {"type": "cylinder", "material": "black"},
        pos="0 0 0.0012",
        size=numbers((hole_radius_m, 0.001)),
    )


def _add_mesh(
    root: ET.Element,
    body: ET.Element,
    name: str,
    material: str,
    mesh: tuple[Array, Array],
) -> None:
    asset = root.find("asset")
    assert asset is not None
    vertices, faces = mesh
    ET.SubElement(
        asset,
        "mesh",
        name=name,
        vertex=numbers(vertices.ravel()),
        face=" ".join(str(i) for i in faces.ravel()),
        inertia="shell",
        smoothnormal="false",
    )
    ET.SubElement(body, "geom", SEEN | {"type": "mesh", "mesh": name, "material": material})


def hexagonal_ring(
    hole_radius_m: float, inner_m: float, low_m: float, high_m: float
) -> tuple[Array, Array]:
    """A hexagonal block with a round hole: vertices (V, 3) and triangles (F, 3)."""
    circle, side_rad = _circle(), 2 * np.pi / SIDES
    off_rad = (2 * np.pi * np.arange(SEGMENTS) / SEGMENTS + side_rad / 2) % side_rad - side_rad / 2
    hexagon = circle * (inner_m / np.cos(off_rad))[:, None]
    return _ring(circle * hole_radius_m, hexagon, low_m, high_m)


def round_ring(
    inner_radius_m: float, outer_radius_m: float, low_m: float, high_m: float
) -> tuple[Array, Array]:
    """A washer: vertices (V, 3) and triangles (F, 3)."""
    circle = _circle()
    return _ring(circle * inner_radius_m, circle * outer_radius_m, low_m, high_m)


def _circle() -> Array:
    angles = 2 * np.pi * np.arange(SEGMENTS) / SEGMENTS
    return np.stack([np.cos(angles), np.sin(angles)], axis=1)


def _ring(inner: Array, outer: Array, low_m: float, high_m: float) -> tuple[Array, Array]:
    """A closed ring between two outlines (SEGMENTS, 2); faces are counter-clockwise outside."""
    rings = [
        np.column_stack([ring, np.full(SEGMENTS, z)])
        for z in (low_m, high_m)
        for ring in (inner, outer)
    ]
    inner_low, outer_low, inner_high, outer_high = (i * SEGMENTS for i in range(4))
    faces: list[tuple[int, int, int]] = []
    for i in range(SEGMENTS):
        j = (i + 1) % SEGMENTS
        for a, b in (
            (inner_high, outer_high),  # top
            (outer_low, inner_low),  # bottom
            (outer_high, outer_low),  # outside
            (inner_low, inner_high),  # inside
        ):
            faces += [(a + i, b + i, b + j), (a + i, b + j, a + j)]
    return np.concatenate(rings), np.array(faces)
