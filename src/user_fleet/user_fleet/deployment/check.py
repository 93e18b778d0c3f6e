"""Checking every parameter of every process before anything starts.

Which executable takes which configuration is said by the entry-point group ``user.nodes``, in which
any package registers its nodes::

    # setup.py:  entry_points={"user.nodes": ["my_node = my_lab.configs:MyNodeConfig"]}

The class must be importable without ROS. An executable that is not registered is not checked.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from user_core import plugins
from user_core.config import Config, from_mapping
from user_core.config.model import Key, path_of
from user_core.errors import ConfigError, SuiteError, in_words, is_of_a_person
from user_core.plugins import FIELD_KINDS, PluginChoice
from user_fleet.deployment.compose import Composition
from user_fleet.deployment.faults import Faults
from user_fleet.deployment.known_good import KnownGood, key_of_choice
from user_fleet.deployment.model import ProcessSpec
from user_fleet.deployment.tree import Node, plain

GROUP = "user.nodes"
#: Parameters that every managed node has, besides those of its configuration.
OF_EVERY_NODE = ("autostart", "use_sim_time")


@cache
def _points() -> dict[str, EntryPoint]:
    return {point.name: point for point in entry_points(group=GROUP)}


def node_config(executable: str) -> type[Config] | None:
    """The configuration class of an executable; None where none is registered.

    Raises:
        ConfigError: It is registered, and cannot be imported.
    """
    point = _points().get(executable)
    if point is None:
        return None
    try:
        found = point.load()
    except BaseException as error:  # of whatever its module imports
        if is_of_a_person(error):
            raise
        raise ConfigError(
            f"configuration of {executable} ({point.value})", got=in_words(error),
            expected="one that can be imported",
        ) from error  # fmt: skip
    if not (isinstance(found, type) and issubclass(found, Config)):
        raise ConfigError(
            f"configuration of {executable} ({point.value})", got=repr(found), expected="a Config"
        )
    return found


def is_registered(executable: str) -> bool:
    """Whether a package says which configuration this executable takes."""
    return executable in _points()


def check_parameters(composition: Composition, faults: Faults) -> dict[str, Config]:
    """Check the parameters of all processes, those of their plugins too.

    Returns:
        The configuration of each process that has a valid one, by its name.
    """
    configs = {}
    for process in composition.deployment.processes:
        if process.name in composition.incomplete:
            continue
        whole = composition.trees[process.name]
        tree = whole.get("parameters") or Node({}, whole.origin)
        below = Node({process.name: tree.without(*OF_EVERY_NODE)}, tree.origin)
        try:
            cls = node_config(process.executable) if process.ros else None
            if cls is None:
                continue
            config = from_mapping(cls, plain(below[process.name]), process.name)
        except ConfigError as error:
            faults.take(error, below)
            continue
        configs[process.name] = config
        check_plugins(config, (process.name,), faults, below)
    return configs


def plugin_choices(
    config: Any, key: Key = (), kind: str = ""
) -> Iterator[tuple[Key, str, PluginChoice]]:
    """Every choice of a plugin within a configuration, with its key and the kind of plugin."""
    if isinstance(config, PluginChoice):
        if kind and config.plugin:
            yield key, kind, config
    elif isinstance(config, Config):
        for name, value in config:
            yield from plugin_choices(value, (*key, name), FIELD_KINDS.get(name, kind))
    elif isinstance(config, Mapping):
        for name, value in config.items():
            yield from plugin_choices(value, (*key, str(name)), kind)


def check_plugins(config: Config, above: Key, faults: Faults, tree: Node, kind: str = "") -> None:
    """Check that the chosen plugins are there, and take the parameters that they are given.

    ``kind`` is that of the plugin whose configuration this is; a plugin that it chooses in turn is
    of the same kind, unless the name of the field says another.
    """
    known = KnownGood()
    for key, found, choice in plugin_choices(config, above, kind):
        where = ".".join(map(str, key))
        sign = key_of_choice(found, choice.plugin, choice.params)
        if known.has(sign):
            continue
        before = len(faults.found)
        try:
            cls = plugins.load(found, choice.plugin).Config
            params = from_mapping(cls, choice.params, f"{where}.params")
            check_plugins(params, (*key, "params"), faults, tree, found)
            if len(faults.found) == before:
                known.add(sign)
        except ConfigError as error:
            faults.take(error, tree)
        except SuiteError as error:
            wrong = ConfigError(
                f"{where}.plugin: {error.what}", got=error.got, expected=error.expected,
                hint=error.hint,
            )  # fmt: skip
            wrong.key = (*key, "plugin")
            faults.take(wrong, tree)


def check_references(composition: Composition, faults: Faults) -> None:
    """Check that robots that are named are there, where the deployment has robots of its own."""
    robots = {
        process.namespace.strip("/")
        for process in composition.deployment.processes
        if process.executable == "hal_node" and process.namespace
    }
    if not robots:
        return
    robots |= {robot.rpartition("/")[2] for robot in robots}  # by name, and by namespace
    for process in composition.deployment.processes:
        for key, robot in _robots_named(process):
            if robot not in robots:
                path = path_of((process.name, *(k for k in key if k != "parameters")))
                faults.unknown(composition.origin(process.name, key), path, robot, robots)


def _robots_named(process: ProcessSpec) -> Iterator[tuple[Key, str]]:
    """Where a process names a robot."""
    parameters = process.parameters
    if process.executable in ("actor_node", "bridge_node"):
        robot = parameters.get("robot")
        if isinstance(robot, str) and robot:
            yield ("parameters", "robot"), robot
    for number, robot in enumerate(parameters.get("inference_for") or ()):
        yield ("parameters", "inference_for", number), str(robot)
    target = process.remappings.get("robot_spec", "")
    if target.startswith("/"):
        yield ("remappings", "robot_spec"), target.strip("/").rpartition("/")[0]
