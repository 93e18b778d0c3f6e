"""Stand-ins for the drivers of the robots in ``user_bringup/config/robots``, as their sources have them.

Topics, types, names, units and rates of each are those of the driver that the contract's first lines
name; what moves behind them is :class:`~user_testing.worlds.robots.ros_driver.RosDriver`. To have one as
a process of its own::

    python -m user_testing.worlds.robots.ros_robots so101
"""

from __future__ import annotations

import os
import signal
import sys
import threading

from user_testing.interfaces import provide
from user_testing.worlds.robots.ros_driver import Command, Driver, RosDriver, Service, State

_JOINT_STATE = "sensor_msgs/msg/JointState"
_POSE = "geometry_msgs/msg/PoseStamped"
_WRENCH = "geometry_msgs/msg/WrenchStamped"
_TRAJECTORY = "trajectory_msgs/msg/JointTrajectory"
_GRIPPER = "control_msgs/action/GripperCommand"
_TWIST = "geometry_msgs/msg/TwistStamped"
_PARALLEL_GRIPPER = "control_msgs/action/ParallelGripperCommand"

_UR = (
    "shoulder_pan_joint", "shoulder_lift_joint", "elbow_joint",
    "wrist_1_joint", "wrist_2_joint", "wrist_3_joint",
)  # fmt: skip
_UR_START = dict(zip(_UR, (0.1, -1.5, 1.5, -1.6, -1.6, 0.1), strict=True))
_UR_STATES = (
    State(
        "/joint_states", _JOINT_STATE, (*_UR[2:], *_UR[:2])
    ),  # the broadcaster's order is not the arm's
    State("/tcp_pose_broadcaster/pose", _POSE, frame="base", turned=True),
    State("/force_torque_sensor_broadcaster/wrench", _WRENCH, frame="tool0_controller"),
)
_UR_RUNNING = State(
    "/io_and_status_controller/robot_program_running",
    "std_msgs/msg/Bool",
    latched=True,
    fields={"data": True},
)
_UR_ZERO = Service(
    "/io_and_status_controller/zero_ftsensor", "std_srvs/srv/Trigger", {"success": True}
)
_SWITCH = "/controller_manager/switch_controller"
_SWITCH_TYPE = "controller_manager_msgs/srv/SwitchController"
_ROBOTIQ = "robotiq_85_left_knuckle_joint"

_GROUP = "interbotix_xs_msgs/msg/JointGroupCommand"
_SINGLE = "interbotix_xs_msgs/msg/JointSingleCommand"
_FR3 = tuple(f"fr3_joint{number}" for number in range(1, 8))
_FR3_FINGERS = ("fr3_finger_joint1", "fr3_finger_joint2")
_KINOVA = tuple(f"joint_{number}" for number in range(1, 8))
_XARM = tuple(f"joint{number}" for number in range(1, 8))
_SO101 = (
    "shoulder_pan_joint", "shoulder_lift_joint", "elbow_flex_joint",
    "wrist_flex_joint", "wrist_roll_joint",
)  # fmt: skip
_XS = ("waist", "shoulder", "elbow", "forearm_roll", "wrist_angle", "wrist_rotate")
_FINGERS = ("left_finger", "right_finger")
_PIPER = tuple(f"joint{number}" for number in range(1, 7))
_TIAGO_ARM = tuple(f"arm_{number}_joint" for number in range(1, 8))
_TIAGO_FINGERS = ("gripper_left_finger_joint", "gripper_right_finger_joint")


def _at(joints: tuple[str, ...], *positions: float, **more: float) -> dict[str, float]:
    return {**dict(zip(joints, positions, strict=True)), **more}


def _interbotix(model: str, narrow_m: float) -> Driver:
    """An arm under interbotix_xs_sdk; its fingers are told their distance, and report the half of it."""
    on_group = {"cmd_type": "group", "name": "arm", "reg": "Profile_Velocity"}
    on_gripper = {"cmd_type": "single", "name": "gripper", "mode": "linear_position"}
    return Driver(
        _at(_XS, 0.1, -1.0, 1.1, 0.1, -0.2, 0.1, left_finger=narrow_m + 0.01),
        (
            State(
                f"/{model}/joint_states",
                _JOINT_STATE,
                (*_XS, "left_finger", "left_finger", "left_finger"),
                names=(*_XS, "gripper", *_FINGERS),
            ),
        ),
        (
            Command(f"/{model}/commands/joint_group", _GROUP, _XS, name="arm", needs="fast"),
            Command(
                f"/{model}/commands/joint_single", _SINGLE, ("left_finger",), name="gripper",
                needs="linear", factor=0.5,
            ),
        ),
        (
            Service(f"/{model}/set_motor_registers", "interbotix_xs_msgs/srv/RegisterValues",
                    when=on_group, sets=("fast",)),
            Service(f"/{model}/set_operating_modes", "interbotix_xs_msgs/srv/OperatingModes",
                    when=on_gripper, sets=("linear",)),
        ),
        speed={"left_finger": 0.1},
    )  # fmt: skip


def _aloha_arm(side: str) -> tuple[dict[str, float], State, tuple[Command, ...]]:
    own = tuple(f"{side}_{joint}" for joint in (*_XS, "gripper"))
    return (
        _at(own, 0.1, -0.9, 1.1, 0.1, -0.2, 0.1, 1.0),
        State(f"/follower_{side}/joint_states", _JOINT_STATE, own, names=(*_XS, "gripper")),
        (
            Command(f"/follower_{side}/commands/joint_group", _GROUP, own[:6], name="arm"),
            Command(f"/follower_{side}/commands/joint_single", _SINGLE, own[6:], name="gripper"),
        ),
    )


_LEFT, _RIGHT = _aloha_arm("left"), _aloha_arm("right")

_FR3_DRIVER = Driver(
    _at(_FR3, 0.1, -0.7, 0.1, -2.3, 0.1, 1.6, 0.7, **dict.fromkeys(_FR3_FINGERS, 0.02)),
    (
        State("/franka_robot_state_broadcaster/measured_joint_states", _JOINT_STATE, _FR3),
        State("/franka_robot_state_broadcaster/current_pose", _POSE, frame="fr3_link0"),
        State(
            "/franka_robot_state_broadcaster/external_wrench_in_stiffness_frame",
            _WRENCH,
            frame="fr3_hand_tcp",
        ),
        State("/franka_gripper/joint_states", _JOINT_STATE, _FR3_FINGERS, every=3),
    ),
    (
        Command("/fr3_arm_controller/joint_trajectory", _TRAJECTORY, _FR3),
        Command("/franka_gripper/gripper_action", _GRIPPER, _FR3_FINGERS),
    ),
    speed=dict.fromkeys(_FR3_FINGERS, 0.1),
)

#: By the name of the contract; behind a plus that of the gripper's entry.
DRIVERS: dict[str, Driver] = {
    "ur_ros2_control": Driver(
        _UR_START,
        (*_UR_STATES, _UR_RUNNING),
        (Command("/scaled_joint_trajectory_controller/joint_trajectory", _TRAJECTORY, _UR),),
        (_UR_ZERO,),
        tool_joints=_UR,
    ),
    "generic_ros2_control": Driver(
        {**dict.fromkeys(_PIPER, 0.1), "another_joint": 0.0},
        (State("/joint_states", _JOINT_STATE, (*_PIPER, "another_joint")),),
        (Command("/joint_trajectory_controller/joint_trajectory", _TRAJECTORY, _PIPER),),
    ),
    "ur_servo": Driver(
        _UR_START,
        (*_UR_STATES, _UR_RUNNING),
        (
            Command(
                "/scaled_joint_trajectory_controller/joint_trajectory", _TRAJECTORY, _UR, needs="trajectories"
            ),
            Command("/servo_node/delta_twist_cmds", _TWIST, needs="twists", frame="base_link", hold_s=0.1),
        ),
        (
            Service("/servo_node/switch_command_type", "moveit_msgs/srv/ServoCommandType",
                    {"success": True}, {"command_type": 1}, ("twists",)),
            Service(_SWITCH, _SWITCH_TYPE, {"ok": True},
                    {"activate_controllers": ["forward_velocity_controller"]}, ("velocities", "-trajectories")),
            Service(_SWITCH, _SWITCH_TYPE, {"ok": True},
                    {"activate_controllers": ["scaled_joint_trajectory_controller"]}, ("trajectories", "-velocities")),
        ),
        on=("trajectories",),
        tool_joints=_UR,
    ),
    "franka_fr3": _FR3_DRIVER,
    "kinova_gen3": Driver(
        _at(_KINOVA, 0.1, 0.2, 3.0, -2.2, 0.1, 0.9, 1.5, robotiq_85_left_knuckle_joint=0.4),
        (State("/joint_states", _JOINT_STATE, (*_KINOVA, "robotiq_85_left_knuckle_joint")),),
        (
            Command("/joint_trajectory_controller/joint_trajectory", _TRAJECTORY, _KINOVA),
            Command(
                "/robotiq_gripper_controller/gripper_cmd",
                _GRIPPER,
                ("robotiq_85_left_knuckle_joint",),
            ),
        ),
    ),
    "xarm7": Driver(
        _at(_XARM, 0.1, -0.3, 0.1, 0.5, 0.1, 0.9, 0.1, drive_joint=0.4),
        (
            State("/xarm/joint_states", _JOINT_STATE, _XARM, frame="joint-state data"),
            State(
                "/xarm/joint_states",
                _JOINT_STATE,
                ("drive_joint",) * 6,
                names=(
                    "drive_joint", "left_finger_joint", "left_inner_knuckle_joint",
                    "right_outer_knuckle_joint", "right_finger_joint", "right_inner_knuckle_joint",
                ),
                frame="gripper-joint-state data",
                every=25,
            ),
        ),
        (
            Command("/xarm7_traj_controller/joint_trajectory", _TRAJECTORY, _XARM),
            Command("/xarm_gripper/gripper_action", _GRIPPER, ("drive_joint",)),
        ),
    ),
    "so101": Driver(
        _at(_SO101, 0.1, -1.0, 1.0, 0.8, 0.1, gripper_joint=0.5),
        (State("/joint_states", _JOINT_STATE, (*_SO101, "gripper_joint")),),
        (
            Command("/joint_trajectory_controller/joint_trajectory", _TRAJECTORY, _SO101),
            Command("/gripper_controller/gripper_cmd", _PARALLEL_GRIPPER, ("gripper_joint",)),
        ),
    ),
    "viperx_300s": _interbotix("vx300s", 0.021),
    "widowx_250s": _interbotix("wx250s", 0.015),
    "aloha": Driver(
        {**_LEFT[0], **_RIGHT[0]}, (_LEFT[1], _RIGHT[1]), (*_LEFT[2], *_RIGHT[2])
    ),
    "dobot_cr5": Driver(
        _at(_PIPER, 0.1, 0.1, 1.5, 0.1, -1.5, 0.1),
        (
            # main.cpp fills in the names twice, and does not measure velocities.
            State("/joint_states_robot", _JOINT_STATE, _PIPER, names=_PIPER * 2, velocity=False, every=5),
            State("/dobot_msgs_v4/msg/ToolVectorActual", "dobot_msgs_v4/msg/ToolVectorActual", every=5),
            State("/dobot_msgs_v4/msg/RobotStatus", "dobot_msgs_v4/msg/RobotStatus", every=5,
                  fields={"is_enable": True, "is_connected": True}),
        ),
        (
            Command("/cr5_group_controller/follow_joint_trajectory",
                    "control_msgs/action/FollowJointTrajectory", _PIPER, busy_s=0.18),
        ),
    ),
    "piper": Driver(
        _at(_PIPER, 0.1, 0.5, -0.7, 0.1, 0.3, 0.1, gripper=0.03),
        (
            # Seven names and positions, six velocities.
            State("/joint_states_feedback", _JOINT_STATE, (*_PIPER, "gripper"), velocities=6),
            State("/end_pose_stamped", _POSE, frame="base_link"),
            State("/arm_status", "piper_msgs/msg/PiperStatusMsg"),
        ),
        (Command("/joint_ctrl_single", _JOINT_STATE, (*_PIPER, "gripper"), needs="enabled"),),
        (
            Service("/enable_srv", "piper_msgs/srv/Enable", {"enable_response": True},
                    {"enable_request": True}, ("enabled",)),
        ),
        speed={"gripper": 0.2},
        tool_joints=_PIPER,
    ),
    "tiago": Driver(
        _at(
            _TIAGO_ARM, 0.3, -1.2, -0.3, 1.8, -1.4, 1.2, 0.1,
            torso_lift_joint=0.16, **dict.fromkeys(_TIAGO_FINGERS, 0.02),
        ),
        (
            State("/joint_states", _JOINT_STATE, ("torso_lift_joint", *_TIAGO_ARM, *_TIAGO_FINGERS)),
            State("/mobile_base_controller/odom", "nav_msgs/msg/Odometry", frame="odom",
                  fields={"child_frame_id": "base_footprint"}),
        ),
        (
            Command("/mobile_base_controller/cmd_vel_unstamped", "geometry_msgs/msg/Twist"),
            Command("/torso_controller/joint_trajectory", _TRAJECTORY, ("torso_lift_joint",)),
            Command("/arm_controller/joint_trajectory", _TRAJECTORY, _TIAGO_ARM),
            Command("/gripper_controller/joint_trajectory", _TRAJECTORY, _TIAGO_FINGERS),
        ),
        speed={"torso_lift_joint": 0.07, **dict.fromkeys(_TIAGO_FINGERS, 0.1)},
    ),
    "ur_ros2_control+robotiq_2f85": Driver(
        {**_UR_START, _ROBOTIQ: 0.4},
        (
            *_UR_STATES,
            _UR_RUNNING,
            State("/joint_states", _JOINT_STATE, (_ROBOTIQ,)),
        ),
        (
            Command("/scaled_joint_trajectory_controller/joint_trajectory", _TRAJECTORY, _UR),
            Command("/robotiq_gripper_controller/gripper_cmd", _GRIPPER, (_ROBOTIQ,), needs="active"),
        ),
        (
            _UR_ZERO,
            Service("/robotiq_activation_controller/reactivate_gripper", "std_srvs/srv/Trigger",
                    {"success": True}, sets=("active",)),
        ),
    ),
    "franka_fr3+franka_hand": Driver(
        _FR3_DRIVER.joints,
        _FR3_DRIVER.states,
        (
            _FR3_DRIVER.commands[0],
            Command("/franka_gripper/move", "franka_msgs/action/Move", _FR3_FINGERS),
            Command("/franka_gripper/grasp", "franka_msgs/action/Grasp", _FR3_FINGERS),
        ),
        speed=_FR3_DRIVER.speed,
    ),
}  # fmt: skip


def main() -> None:
    """Run the stand-in that is named, until SIGINT or SIGTERM."""
    environment = provide()
    if environment and os.environ.get("USER_TESTING_INTERFACES") is None:
        # The types' libraries are looked for when a process starts.
        os.environ.update(environment, USER_TESTING_INTERFACES="1")
        os.execv(
            sys.executable,
            [sys.executable, "-m", "user_testing.worlds.robots.ros_robots", *sys.argv[1:]],
        )
    stopping = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stopping.set())
    with RosDriver(DRIVERS[sys.argv[1]], f"{sys.argv[1]}_driver"):
        print(
            f"{sys.argv[1]}: {[state.topic for state in DRIVERS[sys.argv[1]].states]}", flush=True
        )
        stopping.wait()


if __name__ == "__main__":
    main()
