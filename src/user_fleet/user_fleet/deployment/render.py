"""From a process of a deployment to the command that starts it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from user_core.errors import ConfigError
from user_fleet.deployment.model import ProcessSpec


@dataclass(frozen=True)
class CommandLine:
    """What to execute.

    Attributes:
        words: Executable and arguments.
        environment: Variables that are set beside the inherited ones.
    """

    words: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)


def command_line(
    process: ProcessSpec, executable: str | Path, parameter_file: str | Path | None = None
) -> CommandLine:
    """The command of a process, as ``ros2 run`` would make it.

    Args:
        process: The process.
        executable: Path of its executable.
        parameter_file: File made by :func:`write_parameters`, if any.
    """
    words = [str(executable), *process.arguments]
    if process.ros:
        words += ["--ros-args", "-r", f"__node:={process.name}"]
        if process.namespace:
            words += ["-r", f"__ns:={process.namespace}"]
        for source, target in process.remappings.items():
            words += ["-r", f"{source}:={target}"]
        if parameter_file is not None:
            words += ["--params-file", str(parameter_file)]
    return CommandLine(tuple(words), dict(process.environment))


def write_parameters(process: ProcessSpec, file: str | Path) -> Path:
    """Write the ROS parameter file of a process; returns its path.

    ROS parameters are scalars and lists of one type. A list of mappings, an empty list or
    mapping, and a mapping under a key that ends in ``params`` (the parameters of a plugin,
    whose keys the node does not know before it has loaded the plugin) are written as YAML
    text, which the node's typed configuration reads again.
    """
    file = Path(file)
    try:
        parameters = {key: _ros_value(value, key) for key, value in process.parameters.items()}
        text = yaml.safe_dump({"/**": {"ros__parameters": parameters}}, sort_keys=False)
    except yaml.YAMLError as error:
        raise ConfigError(f"parameters of {process.name}", got=str(error)) from error
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text, encoding="utf-8")
    return file


def _ros_value(value: Any, key: str) -> Any:
    if isinstance(value, Mapping):
        if not value or key.endswith("params"):
            return yaml.safe_dump(dict(value), default_flow_style=True, width=1 << 20).strip()
        return {k: _ros_value(v, str(k)) for k, v in value.items()}
    if isinstance(value, list | tuple):
        kinds = {type(v) for v in value}
        if kinds == {int, float}:
            return [float(v) for v in value]
        if not value or len(kinds) > 1 or not kinds <= {bool, int, float, str}:
            return yaml.safe_dump(list(value), default_flow_style=True, width=1 << 20).strip()
        return list(value)
    if value is None:
        return ""
    return value
