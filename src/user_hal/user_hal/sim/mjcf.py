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
from typing import Literal
from xml.etree import ElementTree as ET

import numpy as np

from user_hal.sim.description import Arm, Joint, Link
from user_hal.sim.kinematics import dh_transform, z_transform
from user_hal.sim.mjcf_parts import SEEN, add_shape, look_at, numbers, pose_attributes
from user_hal.sim.surroundings import add_looks, add_surroundings

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
    eye_z_m = gripper.tcp_z_m - 0.105
    eye, target = (0.085, 0.0, eye_z_m), (0.0, 0.0, gripper.tcp_z_m + 0.03)
    ET.SubElement(
        hand,
        "camera",
        name="wrist",
        pos=numbers(eye),
        xyaxes=look_at(eye, target, (1, 0, 0)),
        fovy="62",
    )
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
