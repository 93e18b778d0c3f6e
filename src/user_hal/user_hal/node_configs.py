"""Configurations of the nodes, which can be imported without ROS.

The entry-point group ``user.nodes`` maps the executables to these classes, so that a whole
deployment can be checked before anything starts.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from pydantic import model_validator

from user_core.config import Config, config_fields, from_mapping, setting, to_mapping
from user_core.errors import ConfigError
from user_core.plugins import PluginChoice
from user_hal.robot_file import (
    RobotFile,
    find_robot_file,
    load_robot_file,
    refuse_old_spelling,
)

_OLD_SPELLING = "Older files say `driver` and `params`: that is {0}.plugin and {0}.params now."


class HalRobotChoice(PluginChoice):
    """Which driver; nothing where a robot file says it."""

    plugin: str = setting(
        "", doc="Robot plugin, or package.module:Class; empty: as robot_file says."
    )


class TeleopChoice(PluginChoice):
    """Which device."""

    plugin: str = setting(
        "",
        doc="Teleop plugin: joy, twist, keyboard, spacemouse, leader, groups, expert; or "
        "package.module:Class.",
    )


class HalConfig(RobotFile):
    """``hal_node``: a robot file, by its name or by its content."""

    robot: HalRobotChoice = setting(
        factory=HalRobotChoice, doc="The driver: {plugin: ros2, params: {...}}."
    )
    robot_file: str = setting(
        "",
        doc="Robot file with the rest of these parameters: a path, or the name of a ready one. "
        "Parameters given beside it replace the file's.",
    )
    resource: str = setting("", doc="Name as a resource; empty: the node's namespace or name.")
    state_dir: str = setting(
        "",
        doc="Folder in which an emergency stop stays latched while no process runs; empty: "
        "user/<resource> in $ROS_HOME, or in ~/.ros.",
    )

    def validate(self) -> None:
        if not (self.robot.plugin or self.robot_file):
            raise ConfigError(
                "robot.plugin",
                got="none",
                expected="the name of a driver, or a robot_file",
                hint=_OLD_SPELLING.format("robot"),
            )

    def expand(self, given: Iterable[str] | Mapping[str, Any]) -> RobotFile:
        """The robot file that this amounts to.

        Args:
            given: Dotted names of the parameters that were given and win over the file; or
                these parameters themselves, mappings within mappings.

        Raises:
            ConfigError: The file is not there or wrong.
        """
        mine = to_mapping(self)
        if not self.robot_file:
            names = [field.name for field in config_fields(RobotFile)]
            return from_mapping(RobotFile, {name: mine[name] for name in names})
        data = to_mapping(load_robot_file(find_robot_file(self.robot_file)))
        for name in leaves(given) if isinstance(given, Mapping) else given:
            _overrule(data, mine, name.split("."))
        return from_mapping(RobotFile, data)


class TeleopConfig(Config):
    """``teleop_node``: which device."""

    teleop: TeleopChoice = setting(
        factory=TeleopChoice, doc="The device: {plugin: joy, params: {...}}."
    )
    device: str = setting("", doc="Its name in what is published; empty: the plugin's.")

    def validate(self) -> None:
        if not self.teleop.plugin:
            raise ConfigError(
                "teleop.plugin",
                got="none",
                expected="the name of a device",
                hint=_OLD_SPELLING.format("teleop"),
            )

    @model_validator(mode="before")
    @classmethod
    def _refuse_old_spelling(cls, data: Any) -> Any:
        refuse_old_spelling(data if isinstance(data, Mapping) else (), "teleop")
        return data


def leaves(parameters: Mapping[str, Any]) -> Iterator[str]:
    """Dotted names of all values within mappings."""
    for key, value in parameters.items():
        if isinstance(value, Mapping):
            yield from (f"{key}.{name}" for name in leaves(value))
        else:
            yield str(key)


def _overrule(data: dict[str, Any], by: Mapping[str, Any], path: list[str]) -> None:
    """Put the value at a path of ``by`` into ``data``, if it is a parameter of a robot file.

    A mapping is merged key by key: what it does not name stays as the file says.
    """
    *outer, last = path
    for key in outer:
        if not isinstance(data.get(key), dict) or not isinstance(by.get(key), Mapping):
            return
        data, by = data[key], by[key]
    if last not in by or not (outer or last in data):
        return
    if isinstance(by[last], Mapping) and isinstance(data.get(last), dict):
        data[last] = {**data[last], **by[last]}
    else:
        data[last] = by[last]
