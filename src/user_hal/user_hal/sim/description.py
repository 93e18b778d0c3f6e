"""How an arm is described: one set of numbers, from which MJCF, URDF and kinematics are made.

Frames follow the *modified* Denavit-Hartenberg convention (J. J. Craig, "Introduction to
Robotics", section 3.4): the pose of joint frame ``i`` in joint frame ``i - 1`` is

    RotX(alpha) TransX(a) RotZ(q) TransZ(d)

so the z axis of every link frame is the axis of its joint. Manufacturers that publish the
distal (standard) convention are converted by :func:`craig_from_distal`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Literal

Vector = tuple[float, float, float]


@dataclass(frozen=True)
class Shape:
    """A simple solid of a link, in the link's frame.

    Attributes:
        kind: What it is. A capsule or cylinder reaches from ``start_m`` to ``end_m``; a box
            has its centre at ``start_m``.
        start_m: Start of the axis, or centre of a box, metres.
        end_m: End of the axis, metres; unused for a box.
        radius_m: Radius of a capsule or cylinder, metres.
        half_size_m: Half the edges of a box, metres.
        colour: A name in :data:`user_hal.sim.mjcf.PALETTE`.
        collides: Whether it takes part in contacts, or is only seen.
    """

    kind: Literal["capsule", "cylinder", "box"]
    start_m: Vector
    end_m: Vector = (0.0, 0.0, 0.0)
    radius_m: float = 0.0
    half_size_m: Vector = (0.0, 0.0, 0.0)
    colour: str = "white"
    collides: bool = False


def capsule(
    start_m: Vector, end_m: Vector, radius_m: float, colour: str = "white", collides: bool = False
) -> Shape:
    """A cylinder with round ends; the ends' centres are given."""
    return Shape("capsule", start_m, end_m, radius_m, colour=colour, collides=collides)


def cylinder(
    start_m: Vector, end_m: Vector, radius_m: float, colour: str = "white", collides: bool = False
) -> Shape:
    """A cylinder between two points."""
    return Shape("cylinder", start_m, end_m, radius_m, colour=colour, collides=collides)


def box(
    centre_m: Vector, half_size_m: Vector, colour: str = "white", collides: bool = False
) -> Shape:
    """A box along the axes of its link."""
    return Shape("box", centre_m, half_size_m=half_size_m, colour=colour, collides=collides)


@dataclass(frozen=True)
class DHRow:
    """One row of a Denavit-Hartenberg table: metres and radians."""

    a_m: float
    alpha_rad: float
    d_m: float


def craig_from_distal(rows: Sequence[DHRow]) -> tuple[DHRow, ...]:
    """Turn a distal (standard) table of n joints into a modified one of n + 1 rows.

    In the distal convention a and alpha of a row come *after* its joint, so that they move
    one row down; the last row that results is the fixed transform to the flange.
    """
    first = DHRow(0.0, 0.0, rows[0].d_m)
    middle = [DHRow(one.a_m, one.alpha_rad, two.d_m) for one, two in pairwise(rows)]
    return (first, *middle, DHRow(rows[-1].a_m, rows[-1].alpha_rad, 0.0))


@dataclass(frozen=True)
class Joint:
    """A revolute joint.

    Attributes:
        name: As in the manufacturer's ROS description.
        lower_rad: Published position limit.
        upper_rad: Published position limit.
        velocity_rad_s: Published velocity limit.
        effort_nm: Published torque limit.
        stiffness_nm_rad: Stiffness of the simulated joint impedance controller.
        armature_kg_m2: Inertia of the rotor seen through the gear.
    """

    name: str
    lower_rad: float
    upper_rad: float
    velocity_rad_s: float
    effort_nm: float
    stiffness_nm_rad: float
    armature_kg_m2: float


@dataclass(frozen=True)
class Link:
    """A rigid body that a joint moves.

    Attributes:
        name: As in the manufacturer's ROS description.
        mass_kg: Mass.
        com_m: Centre of mass in the link's frame.
        inertia_kg_m2: xx, yy, zz, xy, xz, yz about the centre of mass, axes of the link.
        shapes: What it looks like, and what touches.
    """

    name: str
    mass_kg: float
    com_m: Vector
    inertia_kg_m2: tuple[float, float, float, float, float, float]
    shapes: tuple[Shape, ...] = ()


@dataclass(frozen=True)
class Gripper:
    """A parallel gripper whose two fingers slide along the y axis of the hand.

    Attributes:
        hand: The hand; its z axis points out of the flange.
        yaw_rad: Rotation of the hand about the flange's z axis.
        finger: The finger on the +y side, closed; the other is turned by 180 degrees about z.
        finger_names: Links and joints of the fingers are called so.
        finger_z_m: Where the fingers' frames are on the hand's z axis.
        stroke_m: How far each finger moves from closed to open.
        force_n: Greatest force of a finger.
        velocity_m_s: Greatest velocity of a finger.
        tcp_frame: Name of the tool frame.
        tcp_z_m: Where the tool centre point is on the hand's z axis: between the fingertips.
    """

    hand: Link
    yaw_rad: float
    finger: Link
    finger_names: tuple[str, str]
    finger_z_m: float
    stroke_m: float
    force_n: float
    velocity_m_s: float
    tcp_frame: str
    tcp_z_m: float


@dataclass(frozen=True)
class Arm:
    """A serial arm with a gripper.

    Attributes:
        name: Kind of robot, for instance ``panda``.
        base: The part that does not move; its name is the base frame.
        base_yaw_rad: Rotation about z from the base frame to the frame of the DH table.
        dh: Modified table: one row per joint, and one more to the flange.
        joints: One per moving link.
        links: The moving links, from the base to the flange.
        flange_frame: Name of the flange frame.
        gripper: The hand at the flange.
        home_rad: Joint positions with the tool pointing down in front of the robot.
    """

    name: str
    base: Link
    base_yaw_rad: float
    dh: tuple[DHRow, ...]
    joints: tuple[Joint, ...]
    links: tuple[Link, ...]
    flange_frame: str
    gripper: Gripper
    home_rad: tuple[float, ...] = field(default=())

    def __post_init__(self) -> None:
        count = len(self.joints)
        if not (len(self.links) == len(self.home_rad) == len(self.dh) - 1 == count):
            raise ValueError(f"arm {self.name}: {count} joints need as many links and home values")

    @property
    def joint_names(self) -> tuple[str, ...]:
        """Names in the order of every joint vector of this arm."""
        return tuple(joint.name for joint in self.joints)
