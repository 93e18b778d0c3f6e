"""Typed configurations as flat lists of ROS parameters, and back. Plain data, no ROS needed.

===========================================  =============================================
field of a ``Config``                        ROS parameter
===========================================  =============================================
``bool``, ``int``, ``float``, ``str``        the same
``Path``, ``Literal`` of texts, ``Enum``     string, with the choices in its description
list or tuple of one of those                array
another ``Config``                           its fields, with a dot between the names
``Config | None``                            the same, or as a whole: string with YAML
``dict``                                     its keys, with a dot: ``params.arm.speed``
``PluginChoice``                             ``policy.plugin``, ``policy.params.seed``, ...
``... | None``                               as without None; not set means None
anything else, such as a list of ``Config``  string with YAML
===========================================  =============================================

**What ROS cannot carry is text.** ROS parameters are scalars and lists of one type. Null, an empty
list or mapping, a list of mappings or of mixed types, and a mapping with a key that is no name
are written as a string that begins with ``!yaml``: ``!yaml null``, ``!yaml []``,
``!yaml [{name: front}]``. Deployments write them so (:mod:`user_fleet.deployment.render`), and such
a string may stand anywhere. Where the type of a field leaves no doubt, plain YAML without the
mark will do, and an empty text for None.

**Parameters of a plugin** have the types, ranges and descriptions of the plugin's own ``Config``,
where that can be had (:func:`plugin_config`); else they have the type of what was given.
"""

from __future__ import annotations

import dataclasses
import re
import sys
import types
import typing
from collections.abc import Iterable, Iterator, Mapping
from enum import Enum
from pathlib import Path
from typing import Any, Literal, TypeVar, Union

import yaml

from user_core import plugins
from user_core.config import (
    MISSING,
    Config,
    Setting,
    config_fields,
    from_mapping,
    to_mapping,
    yaml_value,
)
from user_core.config.setting import as_if_written, as_number, is_more_than_its_number
from user_core.errors import ConfigError, SuiteError
from user_core.plugins import FIELD_KINDS, PluginChoice

C = TypeVar("C", bound=Config)
#: Begins a text that holds YAML, for values which ROS parameters cannot carry.
YAML_MARK = "!yaml "
_SCALARS = {bool: "bool", int: "int", float: "float", str: "str", Path: "str"}
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


@dataclasses.dataclass(frozen=True)
class ParameterField:
    """One ROS parameter of a configuration.

    Attributes:
        name: Dotted name.
        kind: ``bool``, ``int``, ``float``, ``str``; with ``[]`` for an array; ``yaml`` for a
            string that holds YAML; ``mapping`` for one whose keys are parameters of their own;
            ``any`` for a key of a mapping whose type nobody knows.
        setting: Purpose, unit and range.
        default: Its value in ROS, None for "not set", MISSING where one must be given; of a
            mapping, the mapping.
        optional: Whether None is allowed.
        choices: The texts that are allowed, where that is limited.
        element: Type of the values of a mapping.
        config: Class of a configuration that may be None; its fields are parameters where one of them is given.
        plugin: Of a mapping that holds the parameters of a plugin: the parameter that names it.
        plugin_kind: And the kind of plugin; empty if that is not known.
        in_mapping: Whether it is a key of a mapping: then it counts only if it is given.
    """

    name: str
    kind: str
    setting: Setting
    default: Any
    optional: bool = False
    choices: tuple[str, ...] = ()
    element: Any = Any
    config: type[Config] | None = None
    plugin: str = ""
    plugin_kind: str = ""
    in_mapping: bool = False

    @property
    def constraints(self) -> str:
        """What is allowed, for people."""
        parts = [f"one of: {', '.join(self.choices)}"] if self.choices else []
        if self.setting.range_text:
            each = "each " if self.kind.endswith("[]") else ""
            parts.append(each + self.setting.range_text)
        if self.setting.length_text:
            what = "elements" if self.kind.endswith("[]") else "long"
            parts.append(f"{self.setting.length_text} {what}")
        if self.kind == "yaml":
            parts.append("YAML in a string")
        if self.kind == "mapping":
            parts.append("keys after a dot")
        return "; ".join(parts)


def plugin_config(kind: str, name: str) -> type[Config] | None:
    """The configuration class of a plugin, for the types of its parameters; None without one.

    A plugin that cannot be imported has none here; who builds it says what is wrong. An algorithm
    that is not imported yet has none either: it brings torch, and the start of a node must not
    wait for seconds.
    """
    if not (kind and name):
        return None
    try:
        point = plugins.available(kind).get(name)
        if kind == "algorithms" and (point is None or point.module not in sys.modules):
            return None
        found = plugins.load(kind, name).Config
    except SuiteError:
        return None
    return found if isinstance(found, type) and issubclass(found, Config) else None


def parameter_fields(
    cls: type[Config], prefix: str = "", kind: str = ""
) -> Iterator[ParameterField]:
    """The ROS parameters of a configuration class, in the order of its fields.

    Args:
        cls: The class.
        prefix: Before each name.
        kind: Kind of plugin, if the class is a :class:`~user_core.plugins.PluginChoice`.
    """
    for item in config_fields(cls):
        default, name = item.default, prefix + item.name
        inner, optional = _without_none(item.type)
        if not optional and _is_config(inner):
            yield from _nested(inner, default, name, FIELD_KINDS.get(item.name, kind))
            continue
        ros_kind, choices = _kind(inner)
        field = ParameterField(
            name=name,
            kind=ros_kind,
            setting=item.setting,
            default=default if default is MISSING else ros_value(default, ros_kind),
            optional=optional,
            choices=choices,
        )
        if _is_config(inner):
            plugin_kind = FIELD_KINDS.get(item.name, kind)
            field = dataclasses.replace(field, config=inner, plugin_kind=plugin_kind)
        if ros_kind == "mapping":
            element = (*typing.get_args(inner), Any, Any)[1]
            field = dataclasses.replace(
                field, element=element, plugin_kind=FIELD_KINDS.get(item.name, kind)
            )
            if issubclass(cls, PluginChoice) and item.name == "params":
                field = dataclasses.replace(field, plugin=f"{prefix}plugin")
        yield field


def fields_with_keys(cls: type[Config], given: Mapping[str, Any]) -> Iterator[ParameterField]:
    """The ROS parameters of a configuration class, those within its mappings too.

    Args:
        cls: The class.
        given: The parameters that are given: they say which keys a mapping has, and which plugin
            is chosen.
    """
    names = {field.name: field.default for field in parameter_fields(cls)}
    for field in parameter_fields(cls):
        yield from _with_keys(field, {**names, **given}, given)


def _with_keys(
    field: ParameterField,
    values: Mapping[str, Any],
    given: Iterable[str],
) -> Iterator[ParameterField]:
    yield field
    prefix = f"{field.name}."
    below = [name for name in given if name.startswith(prefix)]
    if field.kind != "mapping" and not (field.config and below):
        return
    inner: list[ParameterField] = []
    if field.config is not None:
        inner += parameter_fields(field.config, prefix, field.plugin_kind)
    elif _is_config(field.element):
        for key in dict.fromkeys(name[len(prefix) :].partition(".")[0] for name in below):
            inner += parameter_fields(field.element, f"{prefix}{key}.", field.plugin_kind)
    elif field.plugin:
        chosen = values.get(field.plugin)
        config = plugin_config(field.plugin_kind, chosen) if isinstance(chosen, str) else None
        inner += parameter_fields(config, prefix) if config is not None else ()
    known = set()
    for one in inner:
        for each in _with_keys(one, values, given):
            known.add(each.name)
            yield dataclasses.replace(each, in_mapping=True)
    rule = Setting(f"{field.setting.doc} (one key of {field.name})".strip())
    for name in below:
        if name not in known:
            yield ParameterField(name, "any", rule, MISSING, in_mapping=True)


def assemble(
    cls: type[C], values: Mapping[str, Any], fields: Iterable[ParameterField] | None = None
) -> C:
    """Make a configuration from parameter values by dotted name.

    Args:
        cls: The configuration class.
        values: A value per parameter; leave out what is not set. Keys of a mapping win over
            the mapping as text.
        fields: As :func:`fields_with_keys` gave them; found anew, if not given.

    Raises:
        ConfigError: As :func:`user_core.config.from_mapping`, or a YAML string that is none.
    """
    data: dict[str, Any] = {}
    for field in fields if fields is not None else fields_with_keys(cls, values):
        if field.name in values:
            value = unmarked(values[field.name], field.name)
            if field.kind in ("yaml", "mapping"):
                value = _from_yaml(value, field)
            if field.kind.endswith("[]") and isinstance(value, str):
                value = _from_yaml(value, field)
            if field.kind == "any":
                value = as_if_written(value)  # for ROS a text of digits is a number
            _put(data, field.name, value)
    return from_mapping(cls, data)


def unmarked(value: Any, name: str = "parameter") -> Any:
    """What a text with :data:`YAML_MARK` stands for; any other value as it is.

    Raises:
        ConfigError: It is not valid YAML.
    """
    if not isinstance(value, str) or not value.startswith(YAML_MARK):
        return value
    try:
        return yaml_value(value.removeprefix(YAML_MARK))
    except yaml.YAMLError as error:
        raise ConfigError(name, got=repr(value)[:200], expected="YAML after !yaml") from error


def marked(value: Any) -> str:
    """A value that ROS parameters cannot carry, as a text that :func:`unmarked` understands."""
    return YAML_MARK + _yaml(value)


def flatten(config: Config) -> dict[str, Any]:
    """Parameter values by dotted name, as a launch file hands them to a node.

    Values that are None are left out: that is how ROS says "not set".
    """
    plain = to_mapping(config)
    flat: dict[str, Any] = {}
    for field in parameter_fields(type(config)):
        value: Any = plain
        for part in field.name.split("."):
            value = value[part]
        if value is None:
            continue
        if field.kind == "mapping":
            flat.update(_flat(field.name, value))
        else:
            flat[field.name] = ros_value(value, field.kind)
    return flat


def ros_value(value: Any, kind: str) -> Any:
    """A configuration value as ROS carries it; a mapping stays one, of plain data."""
    if value is None:
        return None
    if kind == "yaml":
        return _yaml(value)
    if kind.endswith("[]"):
        return [ros_value(element, kind[:-2]) for element in value]
    if kind == "float":
        return float(value)
    return _plain(value)


def _flat(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    """A value within a mapping as ROS parameters."""
    value = _plain(value)
    if isinstance(value, dict):
        if value and all(_NAME.fullmatch(key) for key in value):
            for key, inner in value.items():
                yield from _flat(f"{name}.{key}", inner)
        else:
            yield name, marked(value)
    elif isinstance(value, list):
        if any(map(is_more_than_its_number, value)):
            yield name, marked(value)
            return
        value = [as_number(element) for element in value]
        kinds = {type(element) for element in value}
        carried = len(kinds) == 1 and kinds <= {bool, int, float, str}
        yield name, value if carried else marked(value)
    elif _needs_mark(value):
        yield name, marked(value)
    else:
        yield name, as_number(value)


def _needs_mark(value: Any) -> bool:
    """Whether ROS would lose what a scalar is: null, a text with the mark, a number that is perhaps a text
    (``0012``)."""
    is_marked = isinstance(value, str) and value.startswith(YAML_MARK)
    return value is None or is_marked or is_more_than_its_number(value)


def _nested(cls: type[Config], default: Any, name: str, kind: str) -> Iterator[ParameterField]:
    for field in parameter_fields(cls, f"{name}.", kind):
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
    if hint is dict or origin in (dict, Mapping):
        return "mapping", ()
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


def _yaml(value: Any) -> str:
    text = yaml.safe_dump(_plain(value), default_flow_style=True, width=2**20)
    return text.removesuffix("...\n").strip()


def _from_yaml(value: Any, field: ParameterField) -> Any:
    if not isinstance(value, str):  # a plain number or list where any value is allowed
        return value
    try:
        return yaml_value(value)
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
