"""A seven-joint arm with the kinematics of the Franka Emika Panda, and a parallel gripper.

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
"""

from __future__ import annotations

from math import pi

from user_hal.sim.description import Arm, DHRow, Gripper, Joint, Link, box, capsule, cylinder

_DH = (
    DHRow(0.0, 0.0, 0.333),
    DHRow(0.0, -pi / 2, 0.0),
    DHRow(0.0, pi / 2, 0.316),
    DHRow(0.0825, pi / 2, 0.0),
    DHRow(-0.0825, -pi / 2, 0.384),
    DHRow(0.0, pi / 2, 0.0),
    DHRow(0.088, pi / 2, 0.0),
    DHRow(0.0, 0.0, 0.107),
)

_JOINTS = (
    Joint("panda_joint1", -2.8973, 2.8973, 2.175, 87.0, 900.0, 0.6),
    Joint("panda_joint2", -1.7628, 1.7628, 2.175, 87.0, 900.0, 0.6),
    Joint("panda_joint3", -2.8973, 2.8973, 2.175, 87.0, 900.0, 0.45),
    Joint("panda_joint4", -3.0718, -0.0698, 2.175, 87.0, 900.0, 0.45),
    Joint("panda_joint5", -2.8973, 2.8973, 2.61, 12.0, 375.0, 0.2),
    Joint("panda_joint6", -0.0175, 3.7525, 2.61, 12.0, 225.0, 0.2),
    Joint("panda_joint7", -2.8973, 2.8973, 2.61, 12.0, 80.0, 0.2),
)

_BASE = Link(
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

_LINKS = (
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

_GRIPPER = Gripper(
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
    base=_BASE,
    base_yaw_rad=0.0,
    dh=_DH,
    joints=_JOINTS,
    links=_LINKS,
    flange_frame="panda_link8",
    gripper=_GRIPPER,
    home_rad=(0.0, -0.1848, 0.0, -2.4967, 0.0, 2.3119, pi / 4),
)
