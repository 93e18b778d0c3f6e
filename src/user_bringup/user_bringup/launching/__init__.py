"""Deployments as launch descriptions. Imports `launch`, which only a ROS 2 installation has."""

from user_bringup.launching.description import describe
from user_bringup.launching.extras import robot_state_publisher, rviz

__all__ = ["describe", "robot_state_publisher", "rviz"]
