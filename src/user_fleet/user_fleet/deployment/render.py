"""From a process of a deployment to the command that starts it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from user_core.config.setting import as_number, is_more_than_its_number
from user_core.errors import ConfigError
from user_fleet.deployment.check import is_registered
from user_fleet.deployment.model import ProcessSpec

#: Begins a parameter that is YAML in a text; :data:`user_comm.parameter_values.YAML_MARK` is the same.
YAML_MARK = "!yaml "
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


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

    Mappings stay mappings. ROS parameters are scalars and lists of one type; what they cannot
    carry (null, an empty list or mapping, a list of mappings or of mixed types, a key that is no
    name) is written as a text that begins with ``!yaml``, which the node reads again
    (:func:`user_comm.parameter_values.unmarked`). So is a number that may be meant as text (``0012``), where the node
    has a configuration that says which it is.
    """
    file = Path(file)
    try:
        typed = is_registered(process.executable)
        parameters = {key: _ros_value(value, typed) for key, value in process.parameters.items()}
        text = yaml.safe_dump({"/**": {"ros__parameters": parameters}}, sort_keys=False)
    except yaml.YAMLError as error:
        raise ConfigError(f"parameters of {process.name}", got=str(error)) from error
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text, encoding="utf-8")
    return file


def _ros_value(value: Any, typed: bool) -> Any:
    if isinstance(value, Mapping):
        if value and all(isinstance(k, str) and _NAME.fullmatch(k) for k in value):
            return {k: _ros_value(v, typed) for k, v in value.items()}
        return _marked(dict(value))
    elements = value if isinstance(value, list | tuple) else [value]
    if typed and any(map(is_more_than_its_number, elements)):
        return _marked(value)
    if isinstance(value, list | tuple):
        value = [as_number(v) for v in value]
        kinds = {type(v) for v in value}
        if kinds == {int, float}:
            return [float(v) for v in value]
        if len(kinds) == 1 and kinds <= {bool, int, float, str}:
            return list(value)
        return _marked(list(value))
    if value is None or (isinstance(value, str) and value.startswith(YAML_MARK)):
        return _marked(value)
    return as_number(value)


def _marked(value: Any) -> str:
    text = yaml.safe_dump(value, default_flow_style=True, width=1 << 20)
    return f"{YAML_MARK}{text.removesuffix('...' + chr(10)).strip()}"
