"""Say which version of USER this is, and what it runs on."""

from __future__ import annotations

import argparse
import os
import platform
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version

_PACKAGES = (
    "user_core", "user_comm", "user_hal", "user_actor", "user_learner", "user_fleet",
    "user_bringup", "numpy", "torch", "mujoco", "gymnasium", "eclipse-zenoh",
)  # fmt: skip


def main(argv: Sequence[str]) -> int:
    """Print a line per package."""
    argparse.ArgumentParser(prog="user version", description=__doc__).parse_args(argv)
    print(f"{'Python':<16}{platform.python_version()}")
    print(f"{'ROS 2':<16}{os.environ.get('ROS_DISTRO', 'not sourced')}")
    for name in _PACKAGES:
        try:
            print(f"{name:<16}{version(name)}")
        except PackageNotFoundError:
            print(f"{name:<16}not installed")
    return 0
