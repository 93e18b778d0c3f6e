"""Turn plain data into typed values, and check typed values, with errors that name the path."""

from __future__ import annotations

import dataclasses
import difflib
import math
import types
import typing
from collections.abc import Mapping
from enum import Enum
from pathlib import Path
from typing import Any, Literal, Union

from user_core.config.setting import Setting, setting_of
from user_core.errors import ConfigError, SuiteError

_NO_SETTING = Setting()


def hints_of(cls: type) -> dict[str, Any]:
    """Type hints of a class, with string annotations resolved."""
    return typing.get_type_hints(cls)


def convert(value: Any, hint: Any, path: str) -> Any:
    """Turn plain data into the hinted type; raise ConfigError naming ``path`` otherwise."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return value
    if origin in (Union, types.UnionType):
        return _convert_union(value, args, path)
    if origin is Literal:
        if not any(value == a and type(value) is type(a) for a in args):
            raise _wrong(path, value, f"one of {list(args)}" + _near(value, args))
        return value
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return value if isinstance(value, hint) else convert_mapping(hint, value, path)
    if origin in (tuple, list):
        return _convert_sequence(value, origin, args, path)
    if origin in (dict, Mapping):
        if not isinstance(value, Mapping):
            raise _wrong(path, value, "a mapping")
        return {
            convert(k, args[0], f"{path}.{k}"): convert(v, args[1], f"{path}.{k}")
            for k, v in value.items()
        }
    if isinstance(hint, type) and issubclass(hint, Enum):
        return _convert_enum(value, hint, path)
    if hint is Path:
        if isinstance(value, (str, Path)):
            return Path(value)
        raise _wrong(path, value, "a path")
    return _convert_scalar(value, hint, path)


def convert_mapping(cls: type, data: Any, path: str) -> Any:
    """Make a configuration dataclass from a mapping; unknown keys are refused."""
    if not isinstance(data, Mapping):
        raise _wrong(path or cls.__name__, data, f"a mapping with keys {_known(cls)}")
    hints, values = hints_of(cls), {}
    names = [item.name for item in dataclasses.fields(cls) if item.init]
    for key, value in data.items():
        if key not in names:
            raise ConfigError(
                f"unknown key {_join(path, key)!r}",
                expected=f"one of {names}" + _near(key, names),
            )
        values[key] = convert(value, hints[key], _join(path, key))
    for item in dataclasses.fields(cls):
        needed = item.default is dataclasses.MISSING and item.default_factory is dataclasses.MISSING
        if item.init and needed and item.name not in values:
            doc = setting_of(item).doc
            raise ConfigError(
                f"missing key {_join(path, item.name)!r}",
                expected=f"a {_name(hints[item.name])}" + (f" ({doc})" if doc else ""),
            )
        if item.name in values:  # before construction, so that the error has the full path
            check_value(
                values[item.name], hints[item.name], setting_of(item), _join(path, item.name)
            )
    try:
        return cls(**values)
    except ConfigError as error:  # from validate(): it knows its own keys only
        if not path:
            raise
        raise ConfigError(
            _join(path, error.what), got=error.got, expected=error.expected, hint=error.hint
        ) from error


def check_value(value: Any, hint: Any, rule: Setting, path: str) -> None:
    """Raise ConfigError unless a typed value has its type and is within its range."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return
    if origin in (Union, types.UnionType):
        _check_union(value, args, rule, path)
    elif dataclasses.is_dataclass(hint):
        if not isinstance(value, typing.cast(type, hint)):
            raise _wrong(path, value, _name(hint))
    elif origin in (tuple, list):
        _check_sequence(value, hint, rule, path)
    elif origin in (dict, Mapping):
        if not isinstance(value, Mapping):
            raise _wrong(path, value, "a mapping")
        _check_length(value, rule, path)
        for key, element in value.items():
            check_value(element, args[1], _elements(rule), f"{path}.{key}")
    else:
        _check_scalar(value, hint, rule, path)


def _check_union(value: Any, options: tuple[Any, ...], rule: Setting, path: str) -> None:
    if value is None and type(None) in options:
        return
    errors = []
    for option in (option for option in options if option is not type(None)):
        try:
            check_value(value, option, rule, path)
        except ConfigError as error:
            errors.append(error)
        else:
            return
    raise errors[-1]


def _check_sequence(value: Any, hint: Any, rule: Setting, path: str) -> None:
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if not isinstance(value, (tuple, list)) or type(value) is not origin:
        raise _wrong(path, value, _name(hint))
    _check_length(value, rule, path)
    variadic = origin is list or (len(args) == 2 and args[1] is Ellipsis)
    if not variadic and len(value) != len(args):
        raise _wrong(path, value, f"{len(args)} values")
    for i, element in enumerate(value):
        check_value(element, args[0 if variadic else i], _elements(rule), f"{path}[{i}]")


def _check_scalar(value: Any, hint: Any, rule: Setting, path: str) -> None:
    if convert(value, hint, path) != value and not _is_nan(value):
        raise _wrong(path, value, _name(hint))
    if isinstance(value, (int, float)) and not isinstance(value, bool) and not rule.allows(value):
        raise _wrong(path, value, f"a number {rule.range_text}{' ' * bool(rule.unit)}{rule.unit}")
    if isinstance(value, str):
        _check_length(value, rule, path)


def _elements(rule: Setting) -> Setting:
    return dataclasses.replace(rule, min_length=None, max_length=None)


def _check_length(value: Any, rule: Setting, path: str) -> None:
    low, high = rule.min_length, rule.max_length
    if (low is not None and len(value) < low) or (high is not None and len(value) > high):
        raise _wrong(path, value, f"{low or 0} to {'any' if high is None else high} elements")


def _convert_union(value: Any, options: tuple[Any, ...], path: str) -> Any:
    if value is None and type(None) in options:
        return None
    rest = [option for option in options if option is not type(None)]
    errors: list[SuiteError] = []
    for option in rest:
        try:
            return convert(value, option, path)
        except ConfigError as error:
            errors.append(error)
    if len(rest) == 1:  # Optional[X]: the error of X is the one that helps
        raise errors[0]
    raise _wrong(path, value, " or ".join(_name(option) for option in options))


def _convert_sequence(value: Any, origin: type, args: tuple[Any, ...], path: str) -> Any:
    if isinstance(value, (str, bytes)) or not isinstance(value, (list, tuple)):
        raise _wrong(path, value, "a list")
    variadic = origin is list or (len(args) == 2 and args[1] is Ellipsis)
    if not variadic and len(value) != len(args):
        raise _wrong(path, value, f"a list of {len(args)} values")
    return origin(
        convert(v, args[0] if variadic else args[i], f"{path}[{i}]") for i, v in enumerate(value)
    )


def _convert_enum(value: Any, hint: type[Enum], path: str) -> Enum:
    if isinstance(value, hint):
        return value
    names = {member.name.lower(): member for member in hint}
    for member in hint:
        if value == member.value and not isinstance(value, bool):
            return member
    if isinstance(value, str) and value.lower() in names:
        return names[value.lower()]
    raise _wrong(path, value, f"one of {sorted(names)}" + _near(value, sorted(names)))


def _convert_scalar(value: Any, hint: Any, path: str) -> Any:
    if hint is float and isinstance(value, (int, float)) and not isinstance(value, bool):
        return float(value)
    if hint is float and isinstance(value, str):  # YAML 1.1 reads "1e-3" as a string
        try:
            return float(value)
        except ValueError:
            raise _wrong(path, value, "a number") from None
    if hint is int and isinstance(value, int) and not isinstance(value, bool):
        return value
    if hint in (bool, str, bytes) and isinstance(value, hint):
        return value
    if hint is type(None) and value is None:
        return None
    raise _wrong(path, value, _name(hint))


def _wrong(path: str, value: Any, expected: str) -> ConfigError:
    text = repr(value)
    if len(text) > 200:
        text = text[:200] + "..."
    return ConfigError(path, got=f"{text} ({type(value).__name__})", expected=expected)


def _near(value: object, options: typing.Iterable[object]) -> str:
    close = difflib.get_close_matches(str(value), [str(o) for o in options], n=1)
    return f"; did you mean {close[0]!r}?" if close else ""


def _known(cls: type) -> list[str]:
    return [item.name for item in dataclasses.fields(cls) if item.init]


def _join(path: str, key: object) -> str:
    return f"{path}.{key}" if path else str(key)


def _name(hint: Any) -> str:
    plain = {float: "number", int: "integer", bool: "true or false", str: "text"}
    if hint in plain:
        return plain[hint]
    return getattr(hint, "__name__", None) or str(hint).replace("typing.", "")


def _is_nan(value: Any) -> bool:
    return isinstance(value, float) and math.isnan(value)
