"""One simulated arm learns on this machine: robot, actor, replay store and learner.

ros2 launch user_bringup sim.launch.py robot:=ur5e task:=reach rviz:=true
"""

from launch.actions import DeclareLaunchArgument

from launch import LaunchDescription
from user_bringup.launching import describe, robot_state_publisher, rviz


def generate_launch_description() -> LaunchDescription:
    """The deployment `sim_single`, with rviz and robot_state_publisher where installed."""
    return describe(
        "sim_single",
        arguments=(
            DeclareLaunchArgument("rviz", default_value="false", description="Also start rviz2."),
            DeclareLaunchArgument(
                "urdf", default_value="", description="URDF; empty: the arm's own."
            ),
        ),
        extras=(robot_state_publisher, rviz),
    )
