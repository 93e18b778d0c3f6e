"""The folder of a run: everything that is needed to understand or repeat it."""

from __future__ import annotations

import re
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from user_bringup.running.find import find_executable
from user_core.config import to_mapping
from user_core.errors import ConfigError
from user_fleet.deployment import (
    CommandLine,
    Deployment,
    command_line,
    load_deployment,
    write_parameters,
)

_RUN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


@dataclass(frozen=True)
class PreparedRun:
    """A deployment that is ready to be started.

    Attributes:
        deployment: What runs.
        folder: ``runs/<id>``: configuration, logs, store, checkpoints, history, report.
        commands: How each process is started, by its name.
        parameter_files: The ROS parameter file of each process, by its name.
    """

    deployment: Deployment
    folder: Path
    commands: Mapping[str, CommandLine]
    parameter_files: Mapping[str, Path]

    @property
    def log_dir(self) -> Path:
        """Where the output of each process goes."""
        return self.folder / "logs"

    @property
    def history(self) -> Path:
        """The history file of the run."""
        return self.folder / "history.jsonl"


def prepare_run(
    file: Path,
    overrides: Mapping[str, Any],
    runs: Path,
    run: str = "",
    only: Collection[str] = (),
) -> PreparedRun:
    """Read a deployment and write the folder of its run.

    Args:
        file: The deployment.
        overrides: Values for its arguments.
        runs: Folder of all runs.
        run: Name of this run; an existing one is continued. Empty: name and time.
        only: Names of the processes to take; all if empty.

    Raises:
        ConfigError: Anything wrong with the deployment; nothing has been started then.
    """
    name = run or f"{file.stem}-{time.strftime('%Y%m%d-%H%M%S')}"
    if not _RUN_NAME.fullmatch(name):
        raise ConfigError("name of a run", got=repr(name), expected="letters, digits, _ . -")
    folder = (runs / name).resolve()
    deployment = load_deployment(
        file, overrides, {"run_dir": str(folder), "run": name, "deployment": file.stem}
    )
    if only:
        deployment = deployment.part(only)
    executables = {
        process.name: find_executable(process.package, process.executable)
        for process in deployment.processes
    }
    config = folder / "config"
    config.mkdir(parents=True, exist_ok=True)
    text = yaml.safe_dump(to_mapping(deployment), sort_keys=False)
    (folder / "deployment.yaml").write_text(text, encoding="utf-8")
    for memory in folder.glob("*lifecycle.json"):  # a person starts it: nothing is paused
        memory.unlink()
    files, commands = {}, {}
    for process in deployment.processes:
        if process.ros:
            files[process.name] = write_parameters(process, config / f"{process.name}.yaml")
        commands[process.name] = command_line(
            process.replace(environment={**deployment.environment, **process.environment}),
            executables[process.name],
            files.get(process.name),
        )
    return PreparedRun(deployment, folder, commands, files)
