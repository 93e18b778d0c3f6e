"""A six-joint arm with the kinematics of the Universal Robots UR5e, and a parallel gripper.

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

#: The published table: distal convention, one row per joint.
PUBLISHED_DH = (
    DHRow(0.0, pi / 2, 0.1625),
    DHRow(-0.425, 0.0, 0.0),
    DHRow(-0.3922, 0.0, 0.0),
    DHRow(0.0, pi / 2, 0.1333),
    DHRow(0.0, -pi / 2, 0.0997),
    DHRow(0.0, 0.0, 0.0996),
)

_JOINTS = (
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


_BASE = _link(
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
_LINKS = (
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

_GRIPPER = Gripper(
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
    base=_BASE,
    base_yaw_rad=pi,
    dh=craig_from_distal(PUBLISHED_DH),
    joints=_JOINTS,
    links=_LINKS,
    flange_frame="tool0",
    gripper=_GRIPPER,
    home_rad=(-0.3007, -1.6933, 1.9215, -1.7990, -pi / 2, -1.8715),
)
