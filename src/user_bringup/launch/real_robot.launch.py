"""A robot that lives on ROS 2 topics learns: its driver behind the safety gate, actor, replay
store and learner.

    ros2 launch user_bringup real_robot.launch.py robot:=ur_ros2_control task:=my_task
"""

from launch.actions import DeclareLaunchArgument

from launch import LaunchDescription
from user_bringup.launching import (
    AGGREGATOR,
    HAND_DRIVER,
    RVIZ,
    describe,
    diagnostic_aggregator,
    hand_driver,
    robot_state_publisher,
    rviz,
)


def generate_launch_description() -> LaunchDescription:
    """The deployment `real_robot`, with rviz, robot_state_publisher and what else is asked for, where installed."""
    return describe(
        "real_robot",
        arguments=(
            RVIZ,
            AGGREGATOR,
            HAND_DRIVER,
            DeclareLaunchArgument(
                "urdf", default_value="", description="URDF of the robot, if any."
            ),
        ),
        extras=(robot_state_publisher, rviz, diagnostic_aggregator, hand_driver),
    )
