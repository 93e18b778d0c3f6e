"""One simulated arm learns on this machine: robot, actor, replay store and learner.

ros2 launch user_bringup sim.launch.py robot:=ur5e task:=reach rviz:=true
"""

from launch.actions import DeclareLaunchArgument

from launch import LaunchDescription
from user_bringup.launching import (
    AGGREGATOR,
    RVIZ,
    describe,
    diagnostic_aggregator,
    robot_state_publisher,
    rviz,
)


def generate_launch_description() -> LaunchDescription:
    """The deployment `sim_single`, with rviz, robot_state_publisher and what else is asked for, where installed."""
    return describe(
        "sim_single",
        arguments=(
            RVIZ,
            AGGREGATOR,
            DeclareLaunchArgument(
                "urdf", default_value="", description="URDF; empty: the arm's own."
            ),
        ),
        extras=(robot_state_publisher, rviz, diagnostic_aggregator),
    )
