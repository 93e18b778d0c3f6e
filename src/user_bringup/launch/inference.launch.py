"""The policy of a robot whose own computer is too small for it, beside cloud.launch.py.

ros2 launch user_bringup inference.launch.py robot:=robot0 algorithm:=rlpd
"""

from launch import LaunchDescription
from user_bringup.launching import describe


def generate_launch_description() -> LaunchDescription:
    """The deployment `inference`."""
    return describe("inference")
