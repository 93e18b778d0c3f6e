"""ROS tests of this package: a domain of their own, on this machine only."""

from __future__ import annotations

import os

import pytest

os.environ["ROS_DOMAIN_ID"] = str(10 + (os.getpid() + 45) % 90)
os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"

pytest.importorskip("rclpy", reason="needs ROS 2 (a sourced installation, or the wheels)")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Everything in this folder needs ROS."""
    for item in items:
        if item.path.is_relative_to(os.path.dirname(__file__)):
            item.add_marker(pytest.mark.ros)
