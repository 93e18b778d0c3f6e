"""From the name of a deployment to a running system and its folder."""

from user_bringup.running.explain import explain
from user_bringup.running.find import find_deployment, find_executable, ros_domains
from user_bringup.running.prepare import PreparedRun, prepare_run, read_deployment

__all__ = [
    "PreparedRun",
    "explain",
    "find_deployment",
    "find_executable",
    "prepare_run",
    "read_deployment",
    "ros_domains",
]
