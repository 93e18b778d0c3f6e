"""The host of a site with several robots: its own router, and a relay of policy versions.

ros2 launch user_bringup site.launch.py name:=hall upstream:=tls/learner.example.org:7457
"""

from launch import LaunchDescription
from user_bringup.launching import describe


def generate_launch_description() -> LaunchDescription:
    """The deployment `site`."""
    return describe("site")
