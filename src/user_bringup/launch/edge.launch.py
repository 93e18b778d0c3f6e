"""One robot's host, whose store and learner are elsewhere.

ros2 launch user_bringup edge.launch.py router:=tls/learner.example.org:7457
"""

from launch import LaunchDescription
from user_bringup.launching import describe


def generate_launch_description() -> LaunchDescription:
    """The deployment `edge`."""
    return describe("edge")
