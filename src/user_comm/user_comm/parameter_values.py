"""Typed configurations as flat lists of ROS parameters, and back. Plain data, no ROS needed.

===========================================  =============================================
field of a ``Config``                        ROS parameter
===========================================  =============================================
``bool``, ``int``, ``float``, ``str``        the same
``Path``, ``Literal`` of texts, ``Enum``     string, with the choices in its description
list or tuple of one of those                array
another ``Config``                           its fields, with a dot between the names
``... | None``                               as without None; not set means None
``dict``                                     string with YAML; or its keys after a dot
anything else, such as a list of ``Config``  string with YAML
===========================================  =============================================
"""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Iterator, Mapping
from enum import Enum
from pathlib import Path
from typing import Any, Literal, TypeVar, Union

import yaml

from user_core.config import MISSING, Config, Setting, config_fields, from_mapping, to_mapping
from user_core.errors import ConfigError

C = TypeVar("C", bound=Config)
#: Begins a text that holds YAML, for values which ROS parameters cannot carry: null, an empty list
#: or mapping, a list of mappings. Deployments write them so.
YAML_MARK = "!yaml "
_SCALARS = {bool: "bool", int: "int", float: "float", str: "str", Path: "str"}


@dataclasses.dataclass(frozen=True)
class ParameterField:
    """One ROS parameter of a configuration.

    Attributes:
        name: Dotted name.
        kind: ``bool``, ``int``, ``float``, ``str``; with ``[]`` for an array; ``yaml`` for a
            string that holds YAML.
        setting: Purpose, unit and range.
        default: Its value in ROS, None for "not set", MISSING where one must be given.
        optional: Whether None is allowed.
        choices: The texts that are allowed, where that is limited.
        mapping: Whether keys may also be given as parameters of their own, after a dot.
    """

    name: str
    kind: str
    setting: Setting
    default: Any
    optional: bool = False
    choices: tuple[str, ...] = ()
    mapping: bool = False

    @property
    def constraints(self) -> str:
        """What is allowed, for people."""
        parts = [f"one of: {', '.join(self.choices)}"] if self.choices else []
        if self.setting.range_text:
            each = "each " if self.kind.endswith("[]") else ""
            parts.append(each + self.setting.range_text)
        low, high = self.setting.min_length, self.setting.max_length
        if low is not None or high is not None:
            what = "elements" if self.kind.endswith("[]") else "long"
            parts.append(f"{low or 0} to {'any' if high is None else high} {what}")
        if self.kind == "yaml":
            parts.append("YAML in a string" + (", or keys after a dot" if self.mapping else ""))
        return "; ".join(parts)


def parameter_fields(cls: type[Config], prefix: str = "") -> Iterator[ParameterField]:
    """The ROS parameters of a configuration class, in the order of its fields."""
    for item in config_fields(cls):
        hint, default, name = item.type, item.default, prefix + item.name
        inner, optional = _without_none(hint)
        if not optional and _is_config(inner):
            yield from _nested(inner, default, name)
            continue
        kind, choices = _kind(inner)
        yield ParameterField(
            name=name,
            kind=kind,
            setting=item.setting,
            default=default if default is MISSING else ros_value(default, kind),
            optional=optional,
            choices=choices,
            mapping=typing.get_origin(inner) in (dict, Mapping),
        )


def assemble(cls: type[C], values: Mapping[str, Any]) -> C:
    """Make a configuration from parameter values by dotted name.

    Args:
        cls: The configuration class.
        values: A value per parameter; leave out what is not set.

    Raises:
        ConfigError: As :func:`user_core.config.from_mapping`, or a YAML string that is none.
    """
    data: dict[str, Any] = {}
    fields = list(parameter_fields(cls))
    for field in fields:
        if field.name in values:
            value = values[field.name]
            _put(
                data,
                field.name,
                _from_yaml(value, field) if field.kind == "yaml" else value,
            )
    for field in fields:
        if not field.mapping:
            continue
        for name, value in values.items():
            if name.startswith(field.name + "."):
                _put(data, name, unmarked(value))
    return from_mapping(cls, data)


def unmarked(value: Any) -> Any:
    """What a text with :data:`YAML_MARK` stands for; any other value as it is.

    Raises:
        ConfigError: It is not valid YAML.
    """
    if not isinstance(value, str) or not value.startswith(YAML_MARK):
        return value
    try:
        return yaml.safe_load(value.removeprefix(YAML_MARK))
    except yaml.YAMLError as error:
        raise ConfigError(
            "parameter", got=repr(value)[:200], expected="YAML after !yaml"
        ) from error


def flatten(config: Config) -> dict[str, Any]:
    """Parameter values by dotted name, as a launch file hands them to a node.

    Values that are None are left out: that is how ROS says "not set".
    """
    plain, flat = to_mapping(config), {}
    for field in parameter_fields(type(config)):
        value: Any = plain
        for part in field.name.split("."):
            value = value[part]
        if value is not None:
            flat[field.name] = ros_value(value, field.kind)
    return flat


def ros_value(value: Any, kind: str) -> Any:
    """A configuration value as ROS carries it."""
    if value is None:
        return None
    if kind == "yaml":
        return yaml.safe_dump(_plain(value), default_flow_style=True, width=2**20).strip()
    if kind.endswith("[]"):
        return [ros_value(element, kind[:-2]) for element in value]
    if kind == "float":
        return float(value)
    return _plain(value)


def _nested(cls: type[Config], default: Any, name: str) -> Iterator[ParameterField]:
    for field in parameter_fields(cls, f"{name}."):
        if default is not MISSING:
            value: Any = to_mapping(default)
            for part in field.name[len(name) + 1 :].split("."):
                value = value[part]
            field = dataclasses.replace(field, default=ros_value(value, field.kind))
        yield field


def _without_none(hint: Any) -> tuple[Any, bool]:
    """The hint without None, and whether None was in it."""
    if typing.get_origin(hint) not in (Union, types.UnionType):
        return hint, False
    options = [option for option in typing.get_args(hint) if option is not type(None)]
    optional = len(options) < len(typing.get_args(hint))
    return (options[0] if len(options) == 1 else Any), optional


def _is_config(hint: Any) -> bool:
    return isinstance(hint, type) and issubclass(hint, Config)


def _kind(hint: Any) -> tuple[str, tuple[str, ...]]:
    """Kind and choices of a parameter."""
    if hint in _SCALARS:
        return _SCALARS[hint], ()
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal and all(isinstance(a, str) for a in args):
        return "str", tuple(args)
    if isinstance(hint, type) and issubclass(hint, Enum):
        return "str", tuple(_enum_text(member) for member in hint)
    if origin in (list, tuple) and args:
        kinds = {_kind(a) for a in args if a is not Ellipsis}
        if len(kinds) == 1:
            kind, choices = kinds.pop()
            if kind in _SCALARS.values():
                return f"{kind}[]", choices
    return "yaml", ()


def _enum_text(member: Enum) -> str:
    return member.value if isinstance(member.value, str) else member.name.lower()


def _plain(value: Any) -> Any:
    if isinstance(value, Config):
        return to_mapping(value)
    if isinstance(value, Enum):
        return _enum_text(value)
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    return value


def _from_yaml(value: Any, field: ParameterField) -> Any:
    if not isinstance(value, str):  # a plain number or list where any value is allowed
        return value
    try:
        return yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise ConfigError(field.name, got=repr(value)[:200], expected=f"YAML ({error})") from error


def _put(data: dict[str, Any], name: str, value: Any) -> None:
    *path, last = name.split(".")
    for part in path:
        inner = data.setdefault(part, {})
        if not isinstance(inner, dict):
            raise ConfigError(name, got=f"{part} = {inner!r}", expected=f"a mapping at {part}")
        data = inner
    data[last] = value
