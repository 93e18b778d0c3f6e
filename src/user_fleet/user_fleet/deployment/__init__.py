"""Deployments: one declarative description of what runs, for `ros2 launch` and `user up` alike."""

from user_fleet.deployment.compose import Composition, compose, load_deployment, parse_overrides
from user_fleet.deployment.faults import Faults
from user_fleet.deployment.model import (
    Argument,
    Deployment,
    ProcessSpec,
    RestartPolicy,
    start_order,
    stop_order,
)
from user_fleet.deployment.record import load_record, write_record
from user_fleet.deployment.render import CommandLine, command_line, write_parameters

__all__ = [
    "Argument",
    "CommandLine",
    "Composition",
    "Deployment",
    "Faults",
    "ProcessSpec",
    "RestartPolicy",
    "command_line",
    "compose",
    "load_deployment",
    "load_record",
    "parse_overrides",
    "start_order",
    "stop_order",
    "write_parameters",
    "write_record",
]
