"""The learning half alone, for a host without robots: replay store and learner.

ros2 launch user_bringup learner.launch.py algorithm:=rlpd
"""

from launch import LaunchDescription
from user_bringup.launching import describe


def generate_launch_description() -> LaunchDescription:
    """The processes `replay` and `learner` of the deployment `sim_single`, and their manager."""
    return describe("sim_single", only=("replay", "learner", "lifecycle_manager"))
