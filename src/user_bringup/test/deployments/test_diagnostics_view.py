"""Diagnostics are grouped by robot, and every node has its place."""

from pathlib import Path

import pytest

pytest.importorskip("rclpy")

from user_bringup.diagnostics_view import aggregator_parameters
from user_bringup.running import find_deployment, read_deployment
from user_fleet.deployment import Faults, parse_overrides


def parameters_of(name, *words):
    faults = Faults()
    composition = read_deployment(
        find_deployment(name), parse_overrides(words), Path("runs") / "r", faults, False
    )
    faults.check()
    return aggregator_parameters(composition.deployment), composition.deployment


def analyzers_of(parameters, status):
    """Paths of the analyzers that take a status, by its name."""
    for group in parameters["/**"]["ros__parameters"].values():
        if isinstance(group, dict):
            for analyzer in group["analyzers"].values():
                if status.startswith(tuple(analyzer["startswith"])):
                    yield f"{group['path']}/{analyzer['path']}"


@pytest.mark.parametrize("name", ["sim_single", "real_robot", "two_robots", "cloud", "two_sites"])
def test_every_node_has_one_place(name):
    parameters, deployment = parameters_of(name)
    for process in deployment.processes:
        if process.ros:
            (path,) = analyzers_of(parameters, f"{process.node_name.lstrip('/')}: lifecycle")
            assert path.endswith(f"/{process.name}")
    assert not list(analyzers_of(parameters, "somebody: else"))


def test_robots_are_groups():
    parameters, _ = parameters_of("two_robots")
    assert list(analyzers_of(parameters, "robot1/hal1: safety")) == ["robot1/hal1"]
    assert list(analyzers_of(parameters, "learner: lifecycle")) == ["host/learner"]
    parameters, _ = parameters_of("real_robot", "namespace:=/lab1", "name:=arm")
    assert list(analyzers_of(parameters, "lab1/arm/teleop: device")) == ["lab1/arm/teleop"]


def test_parameters_are_such_as_ros_takes():
    def leaves(value):
        for below in value.values():
            yield from leaves(below) if isinstance(below, dict) else [below]

    parameters, _ = parameters_of("sim_single")
    for value in leaves(parameters):
        assert isinstance(value, str | float | list) and value != []
