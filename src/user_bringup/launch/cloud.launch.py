"""The learning half on a host that robots reach over the internet.

ros2 launch user_bringup cloud.launch.py network:=net robot:=robot0
"""

from launch import LaunchDescription
from user_bringup.launching import describe


def generate_launch_description() -> LaunchDescription:
    """The deployment `cloud`."""
    return describe("cloud")
