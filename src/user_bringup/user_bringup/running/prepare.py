"""The folder of a run: everything that is needed to understand or repeat it."""

from __future__ import annotations

import os
import re
import socket
import sys
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from user_bringup.running.apart import report_while_slow
from user_bringup.running.check import check_deployment
from user_bringup.running.find import config_folder, find_executable
from user_bringup.running.fit import check_fit
from user_core.config import shared_folders
from user_core.errors import ConfigError
from user_fleet.deployment import (
    CommandLine,
    Composition,
    Deployment,
    Faults,
    command_line,
    compose,
    write_parameters,
    write_record,
)

_LOCAL = re.compile(r"(tcp/127\.0\.0\.1:)(\d+)")
#: Of a router: where it listens.
_LISTEN = "--listen="
_RUN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


@dataclass(frozen=True)
class PreparedRun:
    """A deployment that is ready to be started.

    Attributes:
        deployment: What runs.
        folder: ``runs/<id>``: configuration, logs, store, checkpoints, history, report.
        commands: How each process is started, by its name.
        parameter_files: The ROS parameter file of each process, by its name.
        notes: What a person should know who starts it.
    """

    deployment: Deployment
    folder: Path
    commands: Mapping[str, CommandLine]
    parameter_files: Mapping[str, Path]
    notes: tuple[str, ...] = ()

    @property
    def log_dir(self) -> Path:
        """Where the output of each process goes."""
        return self.folder / "logs"

    @property
    def history(self) -> Path:
        """The history file of the run."""
        return self.folder / "history.jsonl"


def read_deployment(
    file: Path,
    overrides: Mapping[str, Any],
    folder: Path,
    faults: Faults,
    files: bool = True,
) -> Composition:
    """Read a deployment and check it whole, without writing or starting anything.

    Args:
        file: The deployment.
        overrides: Values for its arguments, and for parameters by their path.
        folder: Folder of the run, there or not.
        faults: Gets what is wrong.
        files: Whether files that it names must be there.

    Raises:
        ConfigError: The file itself cannot be read.
    """
    variables = {"run_dir": str(folder), "run": folder.name, "deployment": file.stem}
    composition = compose(file, overrides, variables, fragment_folders(), faults=faults)
    check_deployment(composition, faults, files)
    return composition


def fragment_folders() -> list[Path]:
    """Where fragments of all installed packages are, our own first."""
    mine = config_folder() / "fragments"
    return [mine, *(f for f in shared_folders("fragments").values() if f != mine)]


def prepare_run(
    file: Path,
    overrides: Mapping[str, Any],
    runs: Path,
    run: str = "",
    only: Collection[str] = (),
    *,
    asks_success: bool = False,
) -> PreparedRun:
    """Read a deployment, check it whole, and write the folder of its run.

    Args:
        file: The deployment.
        overrides: Values for its arguments, and for parameters by their path.
        runs: Folder of all runs.
        run: Name of this run; an existing one is continued. Empty: name and time.
        only: Names of the processes to take; all if empty.
        asks_success: Whether somebody waits for successes: say so where none is told.

    Raises:
        ConfigError: Anything wrong with the deployment; nothing has been written or started then.
            ConfigErrors, if there is more than one thing.
    """
    name = run or f"{file.stem}-{time.strftime('%Y%m%d-%H%M%S')}"
    if not _RUN_NAME.fullmatch(name):
        raise ConfigError("name of a run", got=repr(name), expected="letters, digits, _ . -")
    folder = (runs / name).resolve()
    there = next(one for one in (folder, *folder.parents) if one.exists())
    if not there.is_dir() or not os.access(
        there, os.W_OK
    ):  # told now, not after all that takes long
        raise ConfigError(
            f"folder of the run {folder}",
            got=f"{there}, in which nothing can be written" if there.is_dir() else f"{there}, which is a file",
            expected="a folder, or a name that is not taken yet", hint="--runs FOLDER; of a launch file runs:=FOLDER",
        )  # fmt: skip
    faults = Faults()
    with report_while_slow("reading the deployment and its plugins", _say):
        composition = read_deployment(file, overrides, folder, faults)
    deployment = composition.deployment
    faults.check()
    following = following_endpoints(deployment, overrides)
    overrides = {**overrides, **following}
    moved = {} if only else moved_ports(deployment, overrides)
    if following or moved:
        overrides = {**overrides, **moved}
        composition = read_deployment(file, overrides, folder, faults)
        deployment = composition.deployment
        faults.check()
    fits = check_fit(composition, faults, asks_success=asks_success)
    faults.check()
    if only:
        deployment = deployment.part(only)
    config = folder / "config"
    config.mkdir(parents=True, exist_ok=True)
    write_record(deployment, folder / "deployment.yaml")
    for memory in folder.glob("*lifecycle.json"):  # a person starts it: nothing is paused
        memory.unlink()
    parameter_files, commands = {}, {}
    for process in deployment.processes:
        if process.ros:
            parameter_files[process.name] = write_parameters(
                process, config / f"{process.name}.yaml"
            )
        commands[process.name] = command_line(
            process.replace(environment={**deployment.environment, **process.environment}),
            find_executable(process.package, process.executable),
            parameter_files.get(process.name),
        )
    notes = [
        f"{name}:={endpoint}, for the usual port is in use on this machine"
        for name, endpoint in moved.items()
    ] + [
        f"{name}:={endpoint}, as another argument with the same default was set"
        for name, endpoint in following.items()
    ]
    return PreparedRun(deployment, folder, commands, parameter_files, (*notes, *fits))


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def following_endpoints(deployment: Deployment, overrides: Mapping[str, Any]) -> dict[str, str]:
    """What arguments for the same endpoint of this machine become when another of them was chosen.

    Who moves the router of ``two_hosts`` (``router``) moves where robots look for it (``robot_router``),
    unless that was chosen, too, for a link in between; else they would wait for a router that is nowhere.
    """
    chosen: dict[str, set[str]] = {}
    for name, argument in deployment.arguments.items():
        if name in overrides and _LOCAL.fullmatch(str(argument.default)):
            chosen.setdefault(str(argument.default), set()).add(str(overrides[name]))
    following = {}
    for name, argument in deployment.arguments.items():
        values = chosen.get(str(argument.default), set())
        if name not in overrides and len(values) == 1:
            following[name] = next(iter(values))
    return following


def moved_ports(deployment: Deployment, overrides: Mapping[str, Any]) -> dict[str, str]:
    """Other endpoints for those of this machine alone whose usual port is in use, by argument.

    Both ends of such an endpoint belong to the deployment, so that another port is as good; where it
    only looks for one (``join``), the port in use is the right one. What was chosen on the command line
    stays, and is an error of the node where it is in use.
    """
    listens = _listens(deployment)
    moved: dict[str, str] = {}
    elsewhere: dict[str, str] = {}  # one place may have several names
    for name, argument in deployment.arguments.items():
        endpoint = str(argument.default)
        found = _LOCAL.fullmatch(endpoint)
        if name in overrides or found is None or endpoint not in listens:
            continue
        if not _is_free(int(found[2])):
            if endpoint not in elsewhere:
                elsewhere[endpoint] = f"{found[1]}{free_port()}"
            moved[name] = elsewhere[endpoint]
    return moved


def _listens(deployment: Deployment) -> set[str]:
    """Endpoints at which processes of a deployment listen."""
    found: set[str] = set()
    for process in deployment.processes:
        zenoh = process.parameters.get("zenoh")
        if isinstance(zenoh, Mapping):
            found |= {str(endpoint) for endpoint in zenoh.get("listen") or ()}
        found |= {
            word.removeprefix(_LISTEN) for word in process.arguments if word.startswith(_LISTEN)
        }
    return found


def _is_free(port: int) -> bool:
    with socket.socket() as one:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # what has ended counts not
        try:
            one.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def free_port() -> int:
    """A port of this machine on which nobody listens now."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])
