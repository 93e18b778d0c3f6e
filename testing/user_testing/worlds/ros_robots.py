"""Stand-ins for the drivers of the robots in ``user_bringup/config/robots``, as their sources have them.

Topics, types, names, units and rates of each are those of the driver that the contract's first lines
name; what moves behind them is :class:`~user_testing.worlds.ros_driver.RosDriver`. To have one as
a process of its own::

    python -m user_testing.worlds.ros_robots so101
"""

from __future__ import annotations

import os
import signal
import sys
import threading

from user_testing.interfaces import provide
from user_testing.worlds.ros_driver import Command, Driver, RosDriver, Service, State

_JOINT_STATE = "sensor_msgs/msg/JointState"
_POSE = "geometry_msgs/msg/PoseStamped"
_WRENCH = "geometry_msgs/msg/WrenchStamped"
_TRAJECTORY = "trajectory_msgs/msg/JointTrajectory"
_GRIPPER = "control_msgs/action/GripperCommand"
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
    State("/tcp_pose_broadcaster/pose", _POSE, frame="base"),
    State("/force_torque_sensor_broadcaster/wrench", _WRENCH, frame="tool0_controller"),
)
_UR_ZERO = Service(
    "/io_and_status_controller/zero_ftsensor", "std_srvs/srv/Trigger", {"success": True}
)

_FR3 = tuple(f"fr3_joint{number}" for number in range(1, 8))
_FR3_FINGERS = ("fr3_finger_joint1", "fr3_finger_joint2")
_KINOVA = tuple(f"joint_{number}" for number in range(1, 8))
_XARM = tuple(f"joint{number}" for number in range(1, 8))
_SO101 = (
    "shoulder_pan_joint", "shoulder_lift_joint", "elbow_flex_joint",
    "wrist_flex_joint", "wrist_roll_joint",
)  # fmt: skip


def _at(joints: tuple[str, ...], *positions: float, **more: float) -> dict[str, float]:
    return {**dict(zip(joints, positions, strict=True)), **more}


#: By the name of the contract.
DRIVERS: dict[str, Driver] = {
    "ur_ros2_control": Driver(
        _UR_START,
        _UR_STATES,
        (Command("/scaled_joint_trajectory_controller/joint_trajectory", _TRAJECTORY, _UR),),
        (_UR_ZERO,),
    ),
    "franka_fr3": Driver(
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
    ),
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
}  # fmt: skip


def main() -> None:
    """Run the stand-in that is named, until SIGINT or SIGTERM."""
    environment = provide()
    if environment and os.environ.get("USER_TESTING_INTERFACES") is None:
        # The types' libraries are looked for when a process starts.
        os.environ.update(environment, USER_TESTING_INTERFACES="1")
        os.execv(
            sys.executable, [sys.executable, "-m", "user_testing.worlds.ros_robots", *sys.argv[1:]]
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
