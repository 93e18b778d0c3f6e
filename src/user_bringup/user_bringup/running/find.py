"""Where installed deployments and executables are, and which ROS domains a deployment has."""

from __future__ import annotations

import os
from pathlib import Path

from ament_index_python.packages import (
    PackageNotFoundError,
    get_package_prefix,
    get_package_share_directory,
)

from user_core.config import file_meant
from user_core.errors import ConfigError
from user_fleet.deployment import Deployment


def config_folder() -> Path:
    """The installed ``config`` folder of user_bringup."""
    return Path(get_package_share_directory("user_bringup")) / "config"


def find_deployment(name: str) -> Path:
    """A deployment by its name, in any installed package (``PACKAGE/NAME``, where several have it),
    or by the path of its file or ``package://PACKAGE/FILE``.

    Raises:
        ConfigError: There is no such deployment; lists those that are installed.
    """
    return file_meant("deployments", name).resolve()


def find_executable(package: str, executable: str) -> Path:
    """The file that ``ros2 run package executable`` would run.

    Raises:
        ConfigError: The package is not installed, or has no such executable; lists its own.
    """
    try:
        folder = Path(get_package_prefix(package)) / "lib" / package
    except PackageNotFoundError as error:
        raise ConfigError(
            f"package {package!r}", got="not installed", expected="an installed ROS package",
            hint="Build it with colcon and source install/setup.bash",
        ) from error  # fmt: skip
    file = folder / executable
    if not file.is_file():
        known = sorted(f.name for f in folder.glob("*")) if folder.is_dir() else []
        raise ConfigError(
            f"executable {executable!r} of package {package!r}", expected=f"one of {known}"
        )
    return file


_VARIABLE = "ROS_DOMAIN_ID"


def ros_domains(deployment: Deployment) -> list[int]:
    """The domains of its processes, each once, that of the learner last.

    A process that names none has that of the deployment, or else of our own environment.
    """
    usual = deployment.environment.get(_VARIABLE) or os.environ.get(_VARIABLE) or "0"
    learner_last = sorted(deployment.processes, key=lambda p: p.executable == "learner_node")
    found: dict[int, None] = {}
    for process in learner_last:
        if process.ros:
            domain = int(process.environment.get(_VARIABLE) or usual)
            found.pop(domain, None)  # the last to name it decides its place
            found[domain] = None
    return list(found)
