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
#: What makes the folder of one certificate, by the folder in which it lies (:mod:`user_comm.net.network`).
_NETWORK = "init --host THIS_HOST"
_MADE_BY = {
    "robots": "add-robot {name}", "sites": "add-site {name} --host THIS_HOST",
    "learners": "add-learner {name}",
}  # fmt: skip
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
    made = "" if path.endswith(".demonstrations") else _what_makes(Path(value))
    hint = made or _what_is_beside(Path(value))
    faults.add(origin, path, repr(value), "a file or folder that exists", hint)


def _what_makes(path: Path) -> str:
    """The command that makes a part of a network with its certificates; empty for anything else."""
    kind, name = path.parent.name, path.name
    if (kind, name) == ("learners", "learner"):
        network, made = path.parent.parent, _NETWORK
    elif kind in _MADE_BY:
        network, made = path.parent.parent, _MADE_BY[kind].format(name=name)
    elif name in ("net", "router"):
        network, made = path if name == "net" else path.parent, _NETWORK
    else:
        return ""
    option = "" if network == Path("net") else f" --net {network}"
    return f"`user net {made}{option}` makes it, where the network's keys are kept; another host gets a copy of its folder"


def _what_is_beside(path: Path) -> str:
    """What stands where a file or folder was expected."""
    beside = path.parent
    if not beside.exists():
        return f"There is no {beside} either"
    if not beside.is_dir():
        return f"{beside} is no folder"
    try:
        near = sorted(entry.name for entry in beside.iterdir())[:20]
    except OSError as error:
        return f"{beside}: {error.strerror}"
    return f"{beside.resolve()} has {', '.join(near)}" if near else f"{beside.resolve()} is empty"
