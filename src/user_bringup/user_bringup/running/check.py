"""Whether a deployment can run here, found out before its first process starts.

Parameters and plugins are checked by :mod:`user_fleet.deployment.check`; this adds what needs the
other packages: executables, robot files, topics, and files that must exist.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from user_bringup.running.find import find_executable
from user_comm.topics import SERVICES, TOPICS
from user_core.config import Config, from_mapping, load_document, path_of_file
from user_core.config.model import Key
from user_core.errors import ConfigError
from user_fleet.deployment import Composition, Faults, ProcessSpec
from user_fleet.deployment.check import (
    check_parameters,
    check_plugins,
    check_references,
    node_config,
)
from user_fleet.deployment.tree import Node, read_tree
from user_hal.node_configs import HalConfig
from user_hal.robot_file import RobotFile, find_robot_file

#: Parameters that name a file or folder which must be there, unless they are empty.
_MUST_EXIST: tuple[Key, ...] = (("demonstrations",), ("zenoh", "credentials"))
#: Topics that drivers of hand devices listen to, unless their parameters name others.
_OF_DEVICES = {"joy", "twist", "leader/joint_states"}
_FOLDERS_OF_A_ROUTER = ("--network", "--credentials")


def check_deployment(composition: Composition, faults: Faults, files: bool = True) -> None:
    """Add to ``faults`` everything that would keep a process of a deployment from its work.

    Args:
        composition: The deployment.
        faults: Gets what is wrong.
        files: Whether files of this machine must be there. Without, a deployment can be checked
            on another machine than the one on which it will run.
    """
    configs = check_parameters(composition, faults)
    check_references(composition, faults)
    for process in composition.deployment.processes:
        try:
            find_executable(process.package, process.executable)
        except ConfigError as error:
            tree = composition.trees[process.name]
            faults.take(error, tree, f"{process.name}: ")
        _check_remappings(process, composition, faults)
        config = configs.get(process.name)
        if isinstance(config, HalConfig) and config.robot_file:
            _check_robot_file(process, config, composition, faults)
        if files:
            _check_files(process, configs, composition, faults)


def _check_remappings(process: ProcessSpec, composition: Composition, faults: Faults) -> None:
    """Remappings of our own nodes start from a topic or service that there is."""
    if not process.ros or node_config_or_none(process.executable) is None:
        return
    names = [topic.name for topic in TOPICS] + [service.name for service in SERVICES]
    known = {name.removeprefix("~/") for name in names} | _OF_DEVICES
    for name in process.remappings:
        if name.removeprefix("~/") not in known and not name.startswith(("/", "__")):
            origin = composition.origin(process.name, ("remappings", name))
            faults.unknown(origin, f"{process.name}.remappings", name, known)


def node_config_or_none(executable: str) -> type[Config] | None:
    """As :func:`node_config`, where an import that fails has been told already."""
    try:
        return node_config(executable)
    except ConfigError:
        return None


def _check_robot_file(
    process: ProcessSpec, config: HalConfig, composition: Composition, faults: Faults
) -> None:
    """The robot file is there and right, alone and with the parameters that win over it."""
    origin = composition.origin(process.name, ("parameters", "robot_file"))
    try:
        file = find_robot_file(config.robot_file)
    except ConfigError as error:
        what, got = f"{process.name}.robot_file", repr(config.robot_file)
        faults.add(origin, what, got, error.expected, error.hint)
        return
    try:
        document = load_document(file)
        alone = from_mapping(RobotFile, document.data)
        tree = read_tree(file)
    except ConfigError as error:
        try:
            faults.take(error, read_tree(file))
        except ConfigError as unreadable:
            faults.take(unreadable)
        return
    before = len(faults.found)
    check_plugins(alone, (), faults, tree)
    if len(faults.found) > before:
        return
    given = list(_dotted(process.parameters))
    mine = composition.trees[process.name].get("parameters") or Node({}, origin)
    try:
        whole = config.expand(given)
        check_plugins(whole, (process.name,), faults, Node({process.name: mine}, origin))
    except ConfigError as error:
        faults.take(error, mine, f"{process.name}: ")


def _dotted(parameters: Mapping[str, object], above: str = "") -> Iterator[str]:
    """Names of parameters as ROS has them."""
    for key, value in parameters.items():
        name = f"{above}{key}"
        if isinstance(value, Mapping) and value:
            yield from _dotted(value, f"{name}.")
        else:
            yield name


def _check_files(
    process: ProcessSpec,
    configs: Mapping[str, Config],
    composition: Composition,
    faults: Faults,
) -> None:
    for key in _MUST_EXIST:
        value: object = process.parameters
        for part in key:
            value = value.get(part) if isinstance(value, Mapping) else None
        if isinstance(value, str) and value and not path_of_file(value).exists():
            path = ".".join(map(str, (process.name, *key)))
            _missing(composition, process, ("parameters", *key), path, value, faults)
    if process.executable != "router":
        return
    for number, word in enumerate(process.arguments):
        option, _, value = word.partition("=")
        if option in _FOLDERS_OF_A_ROUTER and value and not Path(value).exists():
            _missing(
                composition,
                process,
                ("arguments", number),
                f"{process.name} {option}",
                value,
                faults,
            )


def _missing(
    composition: Composition,
    process: ProcessSpec,
    key: Key,
    path: str,
    value: str,
    faults: Faults,
) -> None:
    origin = composition.origin(process.name, key)
    beside = Path(value).parent
    near = sorted(entry.name for entry in beside.iterdir())[:20] if beside.is_dir() else []
    hint = f"{beside} has {', '.join(near)}" if near else f"There is no {beside} either"
    faults.add(origin, path, repr(value), "a file or folder that exists", hint)
