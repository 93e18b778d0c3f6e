"""Deployments: one declarative description of what runs, for `ros2 launch` and `user up` alike."""

from user_fleet.deployment.load import load_deployment, parse_overrides
from user_fleet.deployment.model import (
    Argument,
    Deployment,
    ProcessSpec,
    RestartPolicy,
    start_order,
    stop_order,
)
from user_fleet.deployment.render import CommandLine, command_line, write_parameters

__all__ = [
    "Argument",
    "CommandLine",
    "Deployment",
    "ProcessSpec",
    "RestartPolicy",
    "command_line",
    "load_deployment",
    "parse_overrides",
    "start_order",
    "stop_order",
    "write_parameters",
]
