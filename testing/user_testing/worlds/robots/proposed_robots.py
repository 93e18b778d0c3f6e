"""Stand-ins for ``user robots propose``: an arm like a UR, two arms, and arms without controllers.

What they publish, serve and obey is a :class:`~user_testing.worlds.robots.ros_driver.Driver`, with a robot
description and what ros2_control tells about its controllers.
"""

from __future__ import annotations

from array import array
from collections.abc import Mapping, Sequence
from typing import Any

from user_comm.topics import interface_class
from user_testing.interfaces import provide
from user_testing.worlds.robots.ros_driver import Command, Driver, Service, State

_JOINT_STATE = "sensor_msgs/msg/JointState"
_TRAJECTORY = "trajectory_msgs/msg/JointTrajectory"
_NUMBERS = "std_msgs/msg/Float64MultiArray"
_GRIPPER = "control_msgs/action/GripperCommand"

UR_JOINTS = (
    "shoulder_pan_joint", "shoulder_lift_joint", "elbow_joint",
    "wrist_1_joint", "wrist_2_joint", "wrist_3_joint",
)  # fmt: skip
LEFT = tuple(f"left_joint_{number}" for number in range(1, 4))
RIGHT = tuple(f"right_joint_{number}" for number in range(1, 4))


def joint(name: str, parent: str, child: str, kind: str = "revolute", limit: str = "", mimic: str = "") -> str:  # fmt: skip
    """A joint of a URDF; ``limit`` is lower, upper, velocity."""
    inside = f'<parent link="{parent}"/><child link="{child}"/>'
    if limit:
        lower, upper, velocity = limit.split()
        inside += f'<limit lower="{lower}" upper="{upper}" effort="100" velocity="{velocity}"/>'
    if mimic:
        inside += f'<mimic joint="{mimic}"/>'
    return f'<joint name="{name}" type="{kind}">{inside}</joint>'


def urdf(name: str, root: str, joints: Sequence[str]) -> str:
    """A URDF of joints that :func:`joint` made; the links follow from them."""
    links = dict.fromkeys(
        [root, *(text.partition('child link="')[2].partition('"')[0] for text in joints)]
    )
    return (
        f'<?xml version="1.0"?>\n<robot name="{name}">'
        + "".join(f'<link name="{link}"/>' for link in links)
        + "".join(joints)
        + "</robot>"
    )


def _arm(names: Sequence[str], base: str, tool: str, limit: str = "-3.1 3.1 2.0") -> list[str]:
    links = [base, *(f"{name}_link" for name in names)]
    joints = [joint(n, a, b, "revolute", limit) for n, a, b in zip(names, links, links[1:])]
    return [*joints, joint(f"{tool}_fixed", links[-1], tool, "fixed")]


TWO_URDF = urdf(
    "two_arms",
    "torso",
    [
        *_arm(LEFT, "torso", "left_tool"),
        *_arm(RIGHT, "torso", "right_tool"),
        joint("left_finger", "left_tool", "left_finger_link", "prismatic", "0.0 0.04 0.2"),
        joint("right_finger", "right_tool", "right_finger_link", "prismatic", "0.0 0.04 0.2"),
    ],
)


def _described(text: str) -> State:
    return State("/robot_description", "std_msgs/msg/String", latched=True, fields={"data": text})


def _controllers(*those: tuple[str, str, str, Sequence[str]]) -> Service:
    """The answer of controller_manager: name, state, type and interfaces of each."""
    provide()
    cls = interface_class("controller_manager_msgs/msg/ControllerState")
    answer = []
    for name, state, kind, interfaces in those:
        item = cls(name=name, state=state, type=kind)
        item.required_command_interfaces = list(interfaces)
        item.claimed_interfaces = list(interfaces) if state == "active" else []
        answer.append(item)
    return Service(
        "/controller_manager/list_controllers",
        "controller_manager_msgs/srv/ListControllers",
        {"controller": answer},
    )


def _joints_parameter(node: str, joints: Sequence[str]) -> Service:
    from rcl_interfaces.msg import ParameterType, ParameterValue

    value = ParameterValue(type=ParameterType.PARAMETER_STRING_ARRAY)
    value.string_array_value = list(joints)
    return Service(
        f"{node}/get_parameters", "rcl_interfaces/srv/GetParameters", {"values": [value]}
    )


def _image(topic: str, encoding: str, bytes_a_pixel: int, frame: str) -> State:
    width, height = 64, 48
    fields: Mapping[str, Any] = {
        "encoding": encoding, "width": width, "height": height, "step": width * bytes_a_pixel,
        "data": array("B", [100]) * (width * height * bytes_a_pixel),
    }  # fmt: skip
    return State(topic, "sensor_msgs/msg/Image", frame=frame, every=5, fields=fields)


def _ur_urdf(joints: Sequence[str]) -> str:
    return urdf(
        "ur5e",
        "world",
        [
            joint("base_joint", "world", "base_link", "fixed"),
            *_arm(joints, "base_link", "tool0", "-6.28 6.28 3.14"),
            joint("robotiq_knuckle", "tool0", "finger_1", "revolute", "0.0 0.8 2.0"),
            joint(
                "robotiq_other_knuckle",
                "tool0",
                "finger_2",
                "revolute",
                "0.0 0.8 2.0",
                "robotiq_knuckle",
            ),
        ],
    )


def like_ur(forward: str = "inactive", joints: Sequence[str] = UR_JOINTS) -> Driver:
    """An arm like a UR with a Robotiq gripper and a depth camera; ``forward``: the state of its
    forward_position_controller, whose joints the trajectory controller has when it is not active."""
    trajectory = "inactive" if forward == "active" else "active"
    position = [f"{name}/position" for name in joints]
    velocity = [f"{name}/velocity" for name in joints]
    return Driver(
        {**dict(zip(joints, (0.1, -1.5, 1.5, -1.6, -1.6, 0.1))), "robotiq_knuckle": 0.2},
        (
            State("/joint_states", _JOINT_STATE,
                  (*joints[2:], "robotiq_knuckle", *joints[:2])),
            State("/tcp_pose_broadcaster/pose", "geometry_msgs/msg/PoseStamped", frame="base"),
            State("/force_torque_sensor_broadcaster/wrench", "geometry_msgs/msg/WrenchStamped",
                  frame="tool0_controller"),
            _image("/wrist/color/image_raw", "rgb8", 3, "wrist_color_optical_frame"),
            _image("/wrist/depth/image_rect_raw", "16UC1", 2, "wrist_depth_optical_frame"),
            _described(_ur_urdf(joints)),
        ),
        (
            Command("/scaled_joint_trajectory_controller/joint_trajectory", _TRAJECTORY, joints,
                    needs="" if trajectory == "active" else "trajectory"),
            Command("/forward_position_controller/commands", _NUMBERS, joints,
                    needs="" if forward == "active" else "forward"),
            Command("/forward_velocity_controller/commands", _NUMBERS, joints, needs="velocity"),
            Command("/servo_node/delta_twist_cmds", "geometry_msgs/msg/TwistStamped", needs="servo"),
            Command("/robotiq_gripper_controller/gripper_cmd", _GRIPPER, ("robotiq_knuckle",)),
        ),
        (
            _controllers(
                ("joint_state_broadcaster", "active", "joint_state_broadcaster/JointStateBroadcaster", ()),
                ("scaled_joint_trajectory_controller", trajectory,
                 "ur_controllers/ScaledJointTrajectoryController", position),
                ("forward_position_controller", forward,
                 "position_controllers/JointGroupPositionController", position),
                ("forward_velocity_controller", "inactive",
                 "velocity_controllers/JointGroupVelocityController", velocity),
                ("robotiq_gripper_controller", "active",
                 "position_controllers/GripperActionController", ["robotiq_knuckle/position"]),
            ),
        ),
    )  # fmt: skip


def two_arms() -> Driver:
    """Two arms under trajectory controllers that tell their joints by a parameter, a gripper each,
    and one JointState for all."""
    joints = (*RIGHT[::-1], "left_finger", *LEFT, "right_finger")
    return Driver(
        {**dict.fromkeys(joints, 0.2), "left_finger": 0.01, "right_finger": 0.03},
        (State("/joint_states", _JOINT_STATE, joints), _described(TWO_URDF)),
        (
            Command("/left_arm_controller/joint_trajectory", _TRAJECTORY, LEFT),
            Command("/right_arm_controller/joint_trajectory", _TRAJECTORY, RIGHT),
            Command("/left_gripper_controller/gripper_cmd", _GRIPPER, ("left_finger",)),
            Command("/right_gripper_controller/gripper_cmd", _GRIPPER, ("right_finger",)),
        ),
        (
            _joints_parameter("/left_arm_controller", LEFT),
            _joints_parameter("/right_arm_controller", RIGHT),
        ),
    )


def two_halves() -> Driver:
    """Two arms that nobody tells anything about, each with a JointState topic of its own."""
    return Driver(
        dict.fromkeys((*LEFT, *RIGHT), 0.2),
        (
            State("/left/joint_states", _JOINT_STATE, LEFT),
            State("/right/joint_states", _JOINT_STATE, RIGHT),
        ),
        (
            Command("/left/commands", _NUMBERS, LEFT),
            Command("/right/commands", _NUMBERS, RIGHT),
        ),
    )


def namesakes() -> Driver:
    """Two arms of the same kind, each in a namespace of its own, with the same names of joints."""
    joints = ("joint1", "joint2", "joint3")
    sides = ("left", "right")
    inside = {side: tuple(f"{side}_{name}" for name in joints) for side in sides}
    return Driver(
        {name: 0.2 for names in inside.values() for name in names},
        tuple(
            State(f"/robot_{side}/joint_states", _JOINT_STATE, inside[side], names=joints)
            for side in sides
        ),
        tuple(
            Command(
                f"/robot_{side}/arm_controller/joint_trajectory", _TRAJECTORY, inside[side],
                called=joints,
            )
            for side in sides
        ),
        tuple(_joints_parameter(f"/robot_{side}/arm_controller", joints) for side in sides),
    )  # fmt: skip
