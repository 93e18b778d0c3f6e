"""ROS parameters of a node, declared from its configuration class and read back into it."""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Generic, TypeVar

import yaml
from rcl_interfaces.msg import (
    FloatingPointRange,
    IntegerRange,
    ParameterDescriptor,
    SetParametersResult,
)
from rclpy.exceptions import ParameterUninitializedException
from rclpy.node import Node
from rclpy.parameter import Parameter

from user_comm.parameter_values import (
    YAML_MARK,
    ParameterField,
    assemble,
    fields_with_keys,
    ros_value,
    unmarked,
)
from user_core.config import MISSING, Config, as_written, yaml_value
from user_core.errors import ConfigError, SuiteError

C = TypeVar("C", bound=Config)
_TYPES = {
    "bool": Parameter.Type.BOOL,
    "int": Parameter.Type.INTEGER,
    "float": Parameter.Type.DOUBLE,
    "str": Parameter.Type.STRING,
    "yaml": Parameter.Type.STRING,
    "mapping": Parameter.Type.STRING,
    "bool[]": Parameter.Type.BOOL_ARRAY,
    "int[]": Parameter.Type.INTEGER_ARRAY,
    "float[]": Parameter.Type.DOUBLE_ARRAY,
    "str[]": Parameter.Type.STRING_ARRAY,
}
_INT64 = 2**63 - 1
_DOUBLE = 1.7976931348623157e308
#: A part of a configuration of which a deployment says nothing (:mod:`user_comm.parameter_values`).
_NOTHING = f"{YAML_MARK}{{}}"
#: Parameters that rclpy declares or reads by itself.
_OF_RCLPY = ("use_sim_time", "qos_overrides.", "start_type_description_service")


class ConfigParameters(Generic[C]):
    """The parameters of one node.

    Declares one parameter per field, with description, unit, range and ``read_only``; reads
    them back as a checked configuration; refuses a wrong change with the reason; and applies an
    allowed one. What stands for what is in :mod:`user_comm.parameter_values`. Keys of mappings are
    parameters too, those of a plugin's parameters with the types of the plugin's own
    configuration; they cannot be changed while the node runs.

    A wrong value from a launch file does not end the process: it is kept, and :meth:`read`
    raises it, so that the node can say so on ``/diagnostics``.

    Args:
        node: Declares them.
        cls: The configuration class.
        on_change: Called with the old and the new configuration after a running node's
            parameters were changed. What it raises is the caller's affair.
        known: Parameters of the node that belong to others, for the search for typing errors.
        accept: Called likewise before a change; what it raises refuses the change, with its text.
    """

    def __init__(
        self,
        node: Node,
        cls: type[C],
        on_change: Callable[[C, C], None] | None = None,
        known: Sequence[str] = (),
        accept: Callable[[C, C], None] | None = None,
    ) -> None:
        self._node, self._cls, self._on_change = node, cls, on_change
        self._accept = accept
        # rclpy has no public way to see overrides before a parameter is declared with a type.
        overrides = {
            name: _plain(parameter.value) for name, parameter in node._parameter_overrides.items()
        }
        self._fields = {field.name: field for field in fields_with_keys(cls, overrides)}
        self._given = self._fields.keys() & overrides.keys()
        self._wrong: dict[str, ConfigError] = {}
        self._nothing: set[str] = set()
        self._config: C | None = None
        self._candidate: C | None = None
        for field in self._fields.values():
            self._declare(field, overrides)
        self.unknown = self._find_unknown(overrides, known)
        node.add_on_set_parameters_callback(self._check_change)
        node.add_post_set_parameters_callback(self._apply_change)

    def read(self) -> C:
        """The configuration as the parameters are now. Raises ConfigError, naming the parameter."""
        for error in self._wrong.values():
            raise error
        self._config = assemble(self._cls, self._values(), self._fields.values())
        return self._config

    def _declare(self, field: ParameterField, overrides: Mapping[str, Any]) -> None:
        value = field.default
        if field.name in overrides:
            try:
                value = self._given_value(field, overrides[field.name])
            except ConfigError as error:
                self._wrong[field.name] = error
        elif field.kind == "mapping" or (field.in_mapping and value is MISSING):
            return
        descriptor = _descriptor(field)
        if value is not MISSING:
            try:
                self._node.declare_parameter(field.name, value, descriptor, ignore_override=True)
                return
            except Exception as error:  # out of range: several classes, by distribution
                self._wrong[field.name] = ConfigError(
                    field.name, got=value, expected=field.constraints or str(error)
                )
        descriptor = _descriptor(field)
        descriptor.dynamic_typing = False
        kind = _TYPES.get(field.kind, Parameter.Type.STRING)
        self._node.declare_parameter(field.name, kind, descriptor, ignore_override=True)

    def _given_value(self, field: ParameterField, given: Any) -> Any:
        """An override as it is declared; raises ConfigError."""
        plain = unmarked(given, field.name)
        empty = field.kind != "str" and isinstance(plain, str) and not plain
        if field.optional and (plain is None or empty):
            self._nothing.add(field.name)
            return None
        # What is text for want of a type in ROS stays so; assemble() reads it.
        as_text = field.kind in ("any", "mapping", "yaml") and isinstance(given, str)
        return given if as_text else _fitting(field, plain)

    def _values(self) -> dict[str, Any]:
        values = {}
        for name, field in self._fields.items():
            if field.in_mapping and name not in self._given:
                continue
            if field.kind == "mapping" and name not in self._given:
                if (default := self._default(field)) is not None:
                    values[name] = default
                continue
            try:
                value = self._node.get_parameter(name).value
            except ParameterUninitializedException:
                continue
            if value is not None:
                values[name] = _plain(value)
            elif name in self._nothing:
                values[name] = None
        return values

    def _default(self, field: ParameterField) -> Any:
        """The default of a mapping of which no key was given; None: leave that to the class."""
        if field.default is MISSING or any(n.startswith(field.name + ".") for n in self._given):
            return None
        if field.plugin in self._given:
            chosen = self._node.get_parameter(field.plugin).value
            if chosen != self._fields[field.plugin].default:
                return None  # it was that of another plugin
        return field.default

    def _check_change(self, parameters: Sequence[Parameter[Any]]) -> SetParametersResult:
        ours = [p for p in parameters if p.name in self._fields]
        if not ours:
            return SetParametersResult(successful=True)
        try:
            values = self._values()
            for parameter in ours:
                field = self._fields[parameter.name]
                if parameter.type_ is Parameter.Type.NOT_SET:
                    raise ConfigError(field.name, got="no value", expected=field.kind)
                values[field.name] = _fitting(field, unmarked(parameter.value, field.name))
            self._candidate = assemble(self._cls, values, self._fields.values())
            if self._accept is not None and self._config is not None:
                self._accept(self._config, self._candidate)
        except SuiteError as error:
            self._candidate = None
            return SetParametersResult(successful=False, reason=str(error))
        return SetParametersResult(successful=True)

    def _apply_change(self, parameters: Sequence[Parameter[Any]]) -> None:
        old, new, self._candidate = self._config, self._candidate, None
        if new is None or old is None:
            return
        self._config = new
        if self._on_change is not None:
            self._on_change(old, new)

    def _find_unknown(self, overrides: Mapping[str, Any], known: Sequence[str]) -> dict[str, str]:
        """Overrides of parameters that do not exist, with the name that may have been meant.

        Only a hint: a parameter file may serve several nodes.
        """
        names = [*self._fields, *known]
        return {
            name: next(iter(difflib.get_close_matches(name, names, n=1)), "")
            for name, value in overrides.items()
            if name not in names
            and not name.startswith(_OF_RCLPY)
            and not (value == _NOTHING and any(n.startswith(f"{name}.") for n in names))
        }


def _descriptor(field: ParameterField) -> ParameterDescriptor:
    rule = field.setting
    unit = f" [{rule.unit}]" if rule.unit else ""
    descriptor = ParameterDescriptor(
        name=field.name,
        description=rule.doc + unit,
        additional_constraints=field.constraints,
        read_only=rule.read_only or field.in_mapping,
        # An empty array has no type of its own in rclpy, and "not set" is no type at all.
        dynamic_typing=field.optional or field.kind == "any" or field.kind.endswith("[]"),
    )
    if rule.ge is None and rule.le is None:
        return descriptor
    if field.kind == "float":
        descriptor.floating_point_range = [
            FloatingPointRange(
                from_value=-_DOUBLE if rule.ge is None else float(rule.ge),
                to_value=_DOUBLE if rule.le is None else float(rule.le),
            )
        ]
    elif field.kind == "int":
        descriptor.integer_range = [
            IntegerRange(
                from_value=-_INT64 if rule.ge is None else math.ceil(rule.ge),
                to_value=_INT64 if rule.le is None else math.floor(rule.le),
            )
        ]
    return descriptor


def _fitting(field: ParameterField, value: Any) -> Any:
    """The value in the field's type; an integer will do where a number is wanted."""
    kind, value = field.kind, _plain(value)
    if kind == "yaml":
        return value if isinstance(value, str) else ros_value(value, kind)
    if kind == "any":
        return value
    if kind.endswith("[]"):
        value = _from_text(value)
        if isinstance(value, list):
            return [_fitting_scalar(kind[:-2], element, field) for element in value]
    elif kind != "mapping":
        return _fitting_scalar(kind, value, field)
    raise ConfigError(field.name, got=f"{value!r} ({type(value).__name__})", expected=kind)


def _fitting_scalar(kind: str, value: Any, field: ParameterField) -> Any:
    if kind == "float" and isinstance(value, (int, str)) and not isinstance(value, bool):
        with suppress(ValueError):  # YAML 1.1 reads 1e-3 as text
            return float(value)
    if kind == "str":
        value = as_written(value)
        if type(value) in (int, float):  # ROS has read a text of digits as a number
            value = str(value)
    wanted = {"bool": bool, "int": int, "float": float, "str": str}[kind]
    if not isinstance(value, wanted) or (kind == "int" and isinstance(value, bool)):
        raise ConfigError(
            f"parameter {field.name}",
            got=f"{value!r} ({type(value).__name__})",
            expected=field.kind + (f", {field.constraints}" if field.constraints else ""),
        )
    return value


def _plain(value: Any) -> Any:
    """Arrays of rclpy (array.array, tuple) as lists."""
    if isinstance(value, (str, bytes, bool, int, float)) or value is None:
        return value
    return list(value)


def _from_text(value: Any) -> Any:
    """A list that stands in a text, because ROS has no type for an empty one."""
    if isinstance(value, str):
        with suppress(yaml.YAMLError):
            return yaml_value(value)
    return value
