"""Deployments as launch descriptions. Imports `launch`, which only a ROS 2 installation has."""

from user_bringup.launching.description import describe

__all__ = ["describe"]
