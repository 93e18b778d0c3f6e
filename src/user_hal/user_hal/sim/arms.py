"""The simulated arms, found by name: ``panda`` and ``ur5e``.

``panda``: a seven-joint arm with the kinematics of the Franka Emika Panda, and a parallel gripper.

Sources:

* DH parameters, limits of position, velocity and torque: Franka Control Interface
  documentation, "Robot and interface specifications", tables for the Panda.
* Masses, centres of mass, inertias: C. Gaz, M. Cognetti, A. Oliva, P. Robuffo Giordano,
  A. De Luca, "Dynamic Identification of the Franka Emika Panda Robot With Retrieval of
  Feasible Parameters Using Penalty-Based Optimization", IEEE RA-L 4(4), 2019.
* Hand: Franka Hand product manual (80 mm opening, 0.73 kg, 70 N, 50 mm/s a finger; tool
  centre point 103.4 mm in front of the flange).
* Rotor inertias are of the order that the manufacturer gives for the successor FR3.

The shapes are our own, and simple. Joint stiffness is between that of libfranka's joint
impedance example (600 N m/rad) and the arm's default (3000): an arm that can touch things.

``ur5e``: a six-joint arm with the kinematics of the Universal Robots UR5e, and a parallel gripper.

Sources:

* DH parameters, masses, centres of mass: Universal Robots, "DH Parameters for calculations
  of kinematics and dynamics", table UR5e (distal convention; converted here). The maker
  gives no inertias for the UR5e ("negligible"): ours are those of solid cylinders of the
  published mass and the size of the link.
* Limits: UR5e user manual (joint range 360 degrees either way, 180 degrees/s) and the
  maximum joint torques that the maker publishes (150 and 28 N m). The elbow is limited to
  half a turn, as in the maker's ROS description.
* Gripper: the size of a Robotiq Hand-E (50 mm opening, 1.07 kg, 130 N at most, 150 mm/s).

The base frame is ``base_link`` of the ROS description (x to the front), which is turned by
180 degrees against the frame of the DH table. The shapes are our own, and simple. The
stiffness is that of a compliant mode, as one uses for contact; the industrial position
mode of the real arm is much stiffer.
"""

from __future__ import annotations

from math import pi

from user_core.errors import ConfigError
from user_hal.sim.description import (
    Arm,
    DHRow,
    Gripper,
    Joint,
    Link,
    Shape,
    Vector,
    box,
    capsule,
    craig_from_distal,
    cylinder,
)

_PANDA_DH = (
    DHRow(0.0, 0.0, 0.333),
    DHRow(0.0, -pi / 2, 0.0),
    DHRow(0.0, pi / 2, 0.316),
    DHRow(0.0825, pi / 2, 0.0),
    DHRow(-0.0825, -pi / 2, 0.384),
    DHRow(0.0, pi / 2, 0.0),
    DHRow(0.088, pi / 2, 0.0),
    DHRow(0.0, 0.0, 0.107),
)

_PANDA_JOINTS = (
    Joint("panda_joint1", -2.8973, 2.8973, 2.175, 87.0, 900.0, 0.6),
    Joint("panda_joint2", -1.7628, 1.7628, 2.175, 87.0, 900.0, 0.6),
    Joint("panda_joint3", -2.8973, 2.8973, 2.175, 87.0, 900.0, 0.45),
    Joint("panda_joint4", -3.0718, -0.0698, 2.175, 87.0, 900.0, 0.45),
    Joint("panda_joint5", -2.8973, 2.8973, 2.61, 12.0, 375.0, 0.2),
    Joint("panda_joint6", -0.0175, 3.7525, 2.61, 12.0, 225.0, 0.2),
    Joint("panda_joint7", -2.8973, 2.8973, 2.61, 12.0, 80.0, 0.2),
)

_PANDA_BASE = Link(
    "panda_link0",
    2.81,
    (-0.03, 0.0, 0.06),
    (0.009, 0.0115, 0.0085, 0.0, 0.0, 0.0),
    (
        box((-0.045, 0.0, 0.035), (0.095, 0.088, 0.035)),
        cylinder((0.0, 0.0, 0.0), (0.0, 0.0, 0.138), 0.078),
        cylinder((0.0, 0.0, 0.138), (0.0, 0.0, 0.146), 0.071, "graphite"),
    ),
)

_PANDA_LINKS = (
    Link(
        "panda_link1",
        4.970684,
        (0.003875, 0.002081, -0.04762),
        (0.70337, 0.70661, 0.0091170, -0.00013900, 0.0067720, 0.019169),
        (
            cylinder((0.0, 0.0, -0.187), (0.0, 0.0, -0.02), 0.068),
            capsule((0.0, -0.055, 0.0), (0.0, 0.055, 0.0), 0.068),
            cylinder((0.0, -0.128, 0.0), (0.0, -0.10, 0.0), 0.055, "graphite"),
            cylinder((0.0, 0.10, 0.0), (0.0, 0.128, 0.0), 0.055, "graphite"),
        ),
    ),
    Link(
        "panda_link2",
        0.646926,
        (-0.003141, -0.02872, 0.003495),
        (0.0079620, 0.028110, 0.025995, -0.0039250, 0.010254, 0.00070400),
        (
            cylinder((0.0, -0.04, 0.0), (0.0, -0.195, 0.0), 0.066),
            cylinder((0.0, -0.195, 0.0), (0.0, -0.203, 0.0), 0.060, "graphite"),
        ),
    ),
    Link(
        "panda_link3",
        3.228604,
        (0.027518, 0.039252, -0.066502),
        (0.037242, 0.036155, 0.010830, -0.0047610, -0.011396, -0.012805),
        (
            cylinder((0.0, 0.0, -0.113), (0.0, 0.0, -0.035), 0.064),
            capsule((0.0, 0.0, -0.045), (0.0825, 0.0, 0.0), 0.058),
            capsule((0.0825, -0.045, 0.0), (0.0825, 0.045, 0.0), 0.060),
            cylinder((0.0825, -0.118, 0.0), (0.0825, -0.09, 0.0), 0.050, "graphite"),
            cylinder((0.0825, 0.09, 0.0), (0.0825, 0.118, 0.0), 0.050, "graphite"),
        ),
    ),
    Link(
        "panda_link4",
        3.587895,
        (-0.05317, 0.104419, 0.027454),
        (0.025853, 0.019552, 0.028323, 0.0077960, -0.0013320, 0.0086410),
        (
            capsule((0.0, 0.0, 0.0), (-0.0825, 0.075, 0.0), 0.056, collides=True),
            cylinder((-0.0825, 0.065, 0.0), (-0.0825, 0.117, 0.0), 0.060),
            cylinder((-0.0825, 0.117, 0.0), (-0.0825, 0.125, 0.0), 0.054, "graphite"),
        ),
    ),
    Link(
        "panda_link5",
        1.225946,
        (-0.011953, 0.041065, -0.038437),
        (0.035549, 0.029474, 0.0086270, -0.0021170, -0.0040370, 0.00022900),
        (
            cylinder((0.0, 0.0, -0.259), (0.0, 0.0, -0.20), 0.060),
            capsule((0.0, 0.0, -0.20), (0.0, 0.055, -0.10), 0.056, collides=True),
            capsule((0.0, 0.055, -0.10), (0.0, 0.062, -0.01), 0.046),
            capsule((0.0, 0.05, 0.0), (0.0, -0.02, 0.0), 0.052),
            cylinder((0.0, 0.085, 0.0), (0.0, 0.112, 0.0), 0.044, "graphite"),
        ),
    ),
    Link(
        "panda_link6",
        1.666555,
        (0.060149, -0.014117, -0.010517),
        (0.0019640, 0.0043540, 0.0054330, 0.00010900, -0.0011580, 0.00034100),
        (
            cylinder((0.0, 0.0, 0.055), (0.0, 0.0, 0.095), 0.046, "graphite"),
            capsule((0.0, 0.0, 0.0), (0.088, 0.0, 0.0), 0.050, collides=True),
            cylinder((0.088, 0.045, 0.0), (0.088, -0.052, 0.0), 0.050),
        ),
    ),
    Link(
        "panda_link7",
        0.735522,
        (0.010517, -0.004252, 0.061597),
        (0.012516, 0.010027, 0.0048150, -0.00042800, -0.0011960, -0.00074100),
        (
            cylinder((0.0, 0.0, 0.052), (0.0, 0.0, 0.060), 0.046, "graphite"),
            cylinder((0.0, 0.0, 0.060), (0.0, 0.0, 0.098), 0.049),
            cylinder((0.0, 0.0, 0.098), (0.0, 0.0, 0.107), 0.044, "graphite"),
        ),
    ),
)

_PANDA_GRIPPER = Gripper(
    hand=Link(
        "panda_hand",
        0.73,
        (-0.01, 0.0, 0.03),
        (0.001, 0.0025, 0.0017, 0.0, 0.0, 0.0),
        (
            box((0.0, 0.0, 0.026), (0.030, 0.100, 0.026), collides=True),
            box((0.0, 0.0, 0.055), (0.022, 0.095, 0.004), "graphite"),
            cylinder((0.0, 0.0, 0.0), (0.0, 0.0, 0.006), 0.045, "graphite"),
        ),
    ),
    yaw_rad=-pi / 4,
    finger=Link(
        "finger",
        0.015,
        (0.0, 0.014, 0.022),
        (2.4e-6, 2.4e-6, 7.5e-7, 0.0, 0.0, 0.0),
        (
            box((0.0, 0.0145, 0.012), (0.0105, 0.0105, 0.012), "silver"),
            box((0.0, 0.0110, 0.033), (0.0095, 0.0065, 0.0115), "silver"),
            box((0.0, 0.0045, 0.045), (0.0095, 0.0045, 0.0095), "rubber", collides=True),
        ),
    ),
    finger_names=("panda_finger_joint1", "panda_finger_joint2"),
    finger_z_m=0.0584,
    stroke_m=0.04,
    force_n=70.0,
    velocity_m_s=0.05,
    tcp_frame="panda_hand_tcp",
    tcp_z_m=0.1034,
)

PANDA = Arm(
    name="panda",
    base=_PANDA_BASE,
    base_yaw_rad=0.0,
    dh=_PANDA_DH,
    joints=_PANDA_JOINTS,
    links=_PANDA_LINKS,
    flange_frame="panda_link8",
    gripper=_PANDA_GRIPPER,
    home_rad=(0.0, -0.1848, 0.0, -2.4967, 0.0, 2.3119, pi / 4),
)


#: The published table: distal convention, one row per joint.
UR5E_PUBLISHED_DH = (
    DHRow(0.0, pi / 2, 0.1625),
    DHRow(-0.425, 0.0, 0.0),
    DHRow(-0.3922, 0.0, 0.0),
    DHRow(0.0, pi / 2, 0.1333),
    DHRow(0.0, -pi / 2, 0.0997),
    DHRow(0.0, 0.0, 0.0996),
)

_UR5E_JOINTS = (
    Joint("shoulder_pan_joint", -2 * pi, 2 * pi, pi, 150.0, 1000.0, 0.6),
    Joint("shoulder_lift_joint", -2 * pi, 2 * pi, pi, 150.0, 1000.0, 0.6),
    Joint("elbow_joint", -pi, pi, pi, 150.0, 1000.0, 0.6),
    Joint("wrist_1_joint", -2 * pi, 2 * pi, pi, 28.0, 350.0, 0.2),
    Joint("wrist_2_joint", -2 * pi, 2 * pi, pi, 28.0, 350.0, 0.2),
    Joint("wrist_3_joint", -2 * pi, 2 * pi, pi, 28.0, 120.0, 0.2),
)


def _link(
    name: str,
    mass_kg: float,
    com_m: Vector,
    axis: int,
    length_m: float,
    radius_m: float,
    shapes: tuple[Shape, ...],
) -> Link:
    """A link with the inertia of a solid cylinder along one of its axes."""
    across = mass_kg * (3 * radius_m**2 + length_m**2) / 12
    along = mass_kg * radius_m**2 / 2
    xx, yy, zz = (along if axis == i else across for i in range(3))
    return Link(name, mass_kg, com_m, (xx, yy, zz, 0.0, 0.0, 0.0), shapes)


_UR5E_BASE = _link(
    "base_link",
    4.0,
    (0.0, 0.0, 0.04),
    2,
    0.09,
    0.075,
    (
        cylinder((0.0, 0.0, 0.0), (0.0, 0.0, 0.020), 0.095, "silver"),
        cylinder((0.0, 0.0, 0.020), (0.0, 0.0, 0.092), 0.074, "silver"),
        cylinder((0.0, 0.0, 0.092), (0.0, 0.0, 0.099), 0.068, "graphite"),
    ),
)

# The published centres of mass are in the distal frames; these are the same points in the
# frames of the joints, so for instance (0.2125, 0, 0.11336) - (0.425, 0, 0) in the second.
_UR5E_LINKS = (
    _link(
        "shoulder_link",
        3.761,
        (0.0, -0.00193, -0.02561),
        2,
        0.15,
        0.06,
        (
            cylinder((0.0, 0.0, -0.063), (0.0, 0.0, 0.005), 0.068, "silver"),
            capsule((0.0, 0.012, 0.0), (0.0, -0.03, 0.0), 0.067, "silver"),
            cylinder((0.0, 0.066, 0.0), (0.0, 0.080, 0.0), 0.058, "blue"),
            cylinder((0.0, -0.030, 0.0), (0.0, -0.064, 0.0), 0.066, "silver"),
            cylinder((0.0, -0.064, 0.0), (0.0, -0.071, 0.0), 0.060, "graphite"),
        ),
    ),
    _link(
        "upper_arm_link",
        8.058,
        (-0.2125, 0.0, 0.11336),
        0,
        0.48,
        0.058,
        (
            cylinder((0.0, 0.0, 0.071), (0.0, 0.0, 0.192), 0.064, "silver"),
            cylinder((0.0, 0.0, 0.192), (0.0, 0.0, 0.206), 0.056, "blue"),
            capsule((0.0, 0.0, 0.136), (-0.425, 0.0, 0.136), 0.052, "silver"),
            cylinder((-0.425, 0.0, 0.078), (-0.425, 0.0, 0.190), 0.056, "silver"),
            cylinder((-0.425, 0.0, 0.190), (-0.425, 0.0, 0.203), 0.049, "blue"),
            cylinder((-0.425, 0.0, 0.071), (-0.425, 0.0, 0.078), 0.050, "graphite"),
        ),
    ),
    _link(
        "forearm_link",
        2.846,
        (-0.2422, 0.0, 0.0265),
        0,
        0.43,
        0.045,
        (
            cylinder((0.0, 0.0, -0.040), (0.0, 0.0, 0.071), 0.055, "silver"),
            cylinder((0.0, 0.0, -0.052), (0.0, 0.0, -0.040), 0.048, "blue"),
            capsule((0.0, 0.0, 0.012), (-0.392, 0.0, 0.012), 0.042, "silver", collides=True),
            cylinder((-0.3922, 0.0, -0.032), (-0.3922, 0.0, 0.070), 0.042, "silver"),
            cylinder((-0.3922, 0.0, -0.042), (-0.3922, 0.0, -0.032), 0.037, "blue"),
            cylinder((-0.3922, 0.0, 0.070), (-0.3922, 0.0, 0.077), 0.037, "graphite"),
        ),
    ),
    _link(
        "wrist_1_link",
        1.37,
        (0.0, -0.01634, -0.0018),
        2,
        0.12,
        0.04,
        (
            cylinder((0.0, 0.0, -0.056), (0.0, 0.0, 0.036), 0.042, "silver"),
            cylinder((0.0, 0.0, 0.036), (0.0, 0.0, 0.047), 0.037, "blue"),
            cylinder((0.0, 0.0, 0.0), (0.0, -0.048, 0.0), 0.041, "silver"),
            cylinder((0.0, -0.048, 0.0), (0.0, -0.055, 0.0), 0.037, "graphite"),
        ),
    ),
    _link(
        "wrist_2_link",
        1.3,
        (0.0, 0.01634, -0.0018),
        2,
        0.12,
        0.04,
        (
            cylinder((0.0, 0.0, -0.045), (0.0, 0.0, 0.036), 0.042, "silver", collides=True),
            cylinder((0.0, 0.0, 0.036), (0.0, 0.0, 0.047), 0.037, "blue"),
            cylinder((0.0, 0.0, 0.0), (0.0, 0.048, 0.0), 0.041, "silver"),
            cylinder((0.0, 0.048, 0.0), (0.0, 0.055, 0.0), 0.037, "graphite"),
        ),
    ),
    _link(
        "wrist_3_link",
        0.365,
        (0.0, 0.0, -0.001159),
        2,
        0.05,
        0.0375,
        (
            cylinder((0.0, 0.0, -0.045), (0.0, 0.0, -0.012), 0.041, "silver"),
            cylinder((0.0, 0.0, -0.012), (0.0, 0.0, 0.0), 0.036, "steel"),
        ),
    ),
)

_UR5E_GRIPPER = Gripper(
    hand=_link(
        "gripper_link",
        0.97,
        (0.0, 0.0, 0.05),
        2,
        0.11,
        0.0375,
        (
            cylinder((0.0, 0.0, 0.0), (0.0, 0.0, 0.010), 0.040, "steel"),
            cylinder((0.0, 0.0, 0.010), (0.0, 0.0, 0.090), 0.0375, "graphite", collides=True),
            box((0.0, 0.0, 0.097), (0.022, 0.060, 0.009), "graphite", collides=True),
        ),
    ),
    yaw_rad=0.0,
    finger=Link(
        "finger",
        0.05,
        (0.0, 0.012, 0.015),
        (1.5e-5, 1.2e-5, 6e-6, 0.0, 0.0, 0.0),
        (
            box((0.0, 0.0165, 0.008), (0.012, 0.0125, 0.008), "silver"),
            box((0.0, 0.0110, 0.025), (0.0105, 0.0065, 0.012), "silver"),
            box((0.0, 0.0045, 0.040), (0.0105, 0.0045, 0.0095), "rubber", collides=True),
        ),
    ),
    finger_names=("gripper_finger_joint1", "gripper_finger_joint2"),
    finger_z_m=0.106,
    stroke_m=0.025,
    force_n=130.0,
    velocity_m_s=0.075,
    tcp_frame="gripper_tcp",
    tcp_z_m=0.146,
)

UR5E = Arm(
    name="ur5e",
    base=_UR5E_BASE,
    base_yaw_rad=pi,
    dh=craig_from_distal(UR5E_PUBLISHED_DH),
    joints=_UR5E_JOINTS,
    links=_UR5E_LINKS,
    flange_frame="tool0",
    gripper=_UR5E_GRIPPER,
    home_rad=(-0.3007, -1.6933, 1.9215, -1.7990, -pi / 2, -1.8715),
)


ARMS: dict[str, Arm] = {arm.name: arm for arm in (PANDA, UR5E)}


def arm_named(name: str) -> Arm:
    """Return the arm of this name; ConfigError lists those there are."""
    if name not in ARMS:
        raise ConfigError("name of a simulated arm", got=name, expected=f"one of {sorted(ARMS)}")
    return ARMS[name]
