"""The base class of all configurations, made from and into plain data."""

from __future__ import annotations

import dataclasses
import difflib
import logging
import re
import types
import typing
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar, Union, cast

import pydantic
from pydantic.fields import FieldInfo

from user_core.config.setting import UNFIT, Setting, as_number, describe, setting_of
from user_core.errors import ConfigError

_log = logging.getLogger(__name__)
C = TypeVar("C", bound="Config")
#: Default of a field for which something must be given.
MISSING = dataclasses.MISSING
#: Where a value stands in a document: names of keys and numbers of elements.
Key = tuple[str | int, ...]


class ConfigErrors(ConfigError):
    """Several faults of one document, told at once.

    Attributes:
        errors: Each of them.
    """

    def __init__(self, errors: Sequence[ConfigError]) -> None:
        super().__init__(f"{len(errors)} faults")
        self.errors = tuple(errors)

    def __str__(self) -> str:
        return f"{self.what}:" + "".join(f"\n  {error}" for error in self.errors)

    @classmethod
    def of(cls, errors: Sequence[ConfigError]) -> ConfigError:
        """One error for all of these; at least one."""
        return errors[0] if len(errors) == 1 else cls(errors)


if TYPE_CHECKING:
    from typing_extensions import dataclass_transform

    @dataclass_transform(kw_only_default=True, frozen_default=True)
    class _Model:
        """What a type checker is to know of ``BaseModel``, whose own ``validate`` is deprecated."""

        model_config: ClassVar[pydantic.ConfigDict]
        model_fields: ClassVar[dict[str, FieldInfo]]

        def __init__(self, /, **values: Any) -> None: ...
        def __iter__(self) -> Iterator[tuple[str, Any]]: ...
        @classmethod
        def model_validate(cls, obj: Any) -> Any: ...
        @classmethod
        def model_construct(cls, _fields_set: set[str] | None = None, **values: Any) -> Any: ...
        @classmethod
        def model_json_schema(cls) -> dict[str, Any]: ...

else:
    _Model = pydantic.BaseModel


class Config(_Model):
    """A frozen model whose fields are checked when it is made, from wherever it is made.

    Subclasses declare fields with :func:`~user_core.config.setting` and may override
    :meth:`validate` for what concerns several fields. Arguments are keywords.

    Raises:
        ConfigError: Names the path of the key, what was got and what is allowed.
        ConfigErrors: The same, of several faults at once.
    """

    model_config: ClassVar[pydantic.ConfigDict] = pydantic.ConfigDict(
        frozen=True,
        extra="forbid",
        validate_default=True,
        defer_build=True,  # most classes that a process imports are not used by it
        protected_namespaces=(),
    )

    def __init__(self, /, **values: Any) -> None:
        try:
            super().__init__(**values)
        except pydantic.ValidationError as error:
            raise _faults(type(self), error, ()) from None

    # pydantic calls an __init__ without this mark for every model within a model, and then
    # errors would not know where they are.
    __init__.__pydantic_base_init__ = True  # type: ignore[attr-defined]

    def validate(self) -> None:
        """Check what concerns several fields; raise ConfigError. Does nothing by default."""

    @pydantic.model_validator(mode="before")
    @classmethod
    def _keep_defaults(cls, data: Any) -> Any:
        """What is not given of a nested configuration keeps the default of its field."""
        if not isinstance(data, Mapping):
            return data
        data = _with_new_keys(cls, data)
        merged = {
            name: over_default(cls.model_fields[name].get_default(call_default_factory=True), value)
            for name, value in data.items()
            if name in cls.model_fields and isinstance(value, Mapping)
        }
        return {**data, **merged}

    @pydantic.model_validator(mode="after")
    def _validate(self: C) -> C:
        self.validate()
        return self

    def replace(self: C, **changes: Any) -> C:
        """The same with some fields changed, checked anew."""
        return type(self)(**{**dict(self), **changes})


def from_mapping(cls: type[C], data: Mapping[str, Any] | None, path: str = "") -> C:
    """Make a configuration from plain data.

    Args:
        cls: The configuration class.
        data: Keys and values, for instance from YAML; None and {} give the defaults.
        path: Where the data stands in a larger document, for error messages.

    Raises:
        ConfigError: An unknown or missing key, a wrong type or a value out of range; names
            the path of the key, what was got and what is allowed. ConfigErrors, if several.
    """
    try:
        made: C = cls.model_validate({} if data is None else data)
    except pydantic.ValidationError as error:
        raise _faults(cls, error, key_of(path)) from None
    return made


def over_default(default: Any, given: Any) -> Any:
    """A mapping for a nested configuration, completed by the default of its field.

    ``zenoh: {connect: [...]}`` keeps the other values of a field's own default, also where they
    are not those of the class; as ROS parameters do, each of which has its default. The
    parameters of a plugin belong to that plugin: who chooses another one begins without.
    """
    if not (isinstance(default, Config) and isinstance(given, Mapping)):
        return given
    kept, given = dict(default), _with_new_keys(type(default), given)
    if "plugin" in given and given["plugin"] != kept.get("plugin"):
        kept.pop("params", None)
    nested = {name: over_default(kept.get(name), value) for name, value in given.items()}
    return {**kept, **nested}


def to_mapping(config: Config) -> dict[str, Any]:
    """Plain data that :func:`from_mapping` turns into an equal configuration."""
    return {name: _plain(value) for name, value in config}


def identity(config: Config) -> dict[str, Any]:
    """As :func:`to_mapping`, without what does not change what weights mean: what a class lists in
    ``NOT_IN_HASH`` (where a file lies, for instance), and late settings at their default; with what settings count
    as."""
    without = getattr(type(config), "NOT_IN_HASH", ())
    found = {}
    for item in config_fields(type(config)):
        value = item.setting.counted(getattr(config, item.name))
        if item.name in without or (item.setting.late and value == item.default):
            continue
        key = item.setting.formerly or item.name
        found[key] = identity(value) if isinstance(value, Config) else _plain(value)
    return found


@cache
def _old_keys(cls: Any) -> dict[str, str]:
    """The keys that fields of a configuration class had before, to their names."""
    return {
        item.setting.formerly: item.name for item in config_fields(cls) if item.setting.formerly
    }


def _with_new_keys(cls: type[Config], data: Mapping[str, Any]) -> Mapping[str, Any]:
    """The same data, where keys that were renamed have their names of today."""
    renamed: dict[str, str] = _old_keys(cast(Hashable, cls))
    old = {key: name for key, name in renamed.items() if key in data}
    for key, name in old.items():
        if name in data:
            raise ConfigError(
                f"keys {key!r} and {name!r}", got="both", expected=f"{name!r}, as it is called now"
            )
        _say_renamed(cls.__name__, key, name)
    return {old.get(key, key): value for key, value in data.items()} if old else data


@cache
def _say_renamed(config: str, key: str, name: str) -> None:
    """Once in a process."""
    _log.warning("%s: key %r is called %r now; please rename it", config, key, name)


@dataclass(frozen=True)
class ConfigField:
    """One field of a configuration class.

    Attributes:
        name: Its key.
        type: Its type, resolved.
        default: What it is when nothing is given; MISSING where something must be.
        setting: Purpose, unit and range.
    """

    name: str
    type: Any
    default: Any
    setting: Setting


def config_fields(cls: type[Config]) -> Iterator[ConfigField]:
    """The fields of a configuration class, in their order."""
    for name, field in cls.model_fields.items():
        default = MISSING if field.is_required() else field.get_default(call_default_factory=True)
        yield ConfigField(name, field.annotation, default, setting_of(field))


def json_schema(cls: type[Config]) -> dict[str, Any]:
    """A JSON Schema of what :func:`from_mapping` takes, with purpose, unit and range of each key."""
    return cls.model_json_schema()


def key_of(path: str) -> Key:
    """The parts of a path as errors show it: ``a.b[1].c`` has ``a``, ``b``, 1 and ``c``."""
    return tuple(
        int(number) if number else name
        for name, number in re.findall(r"([^.\[\]]+)(?!\])|\[(\d+)\]", path)
    )


def path_of(key: Iterable[str | int]) -> str:
    """The path of a key as errors show it."""
    path = ""
    for part in key:
        path += f"[{part}]" if isinstance(part, int) else f".{part}" if path else str(part)
    return path


def _plain(value: Any) -> Any:
    if isinstance(value, Config):
        return to_mapping(value)
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    if isinstance(value, Mapping):
        return {_plain(k): _plain(v) for k, v in value.items()}
    return value


# From here on: what pydantic found wrong, in the words of our errors.


def _faults(cls: type[Config], error: pydantic.ValidationError, above: Key) -> ConfigError:
    found: list[ConfigError] = []
    for fault in error.errors(include_url=False):
        found += _fault(cls, dict(fault), above)
    return ConfigErrors.of(found)


def _fault(cls: type[Config], fault: dict[str, Any], above: Key) -> list[ConfigError]:
    """The errors that one of pydantic's stands for."""
    key, kind, value = tuple(fault["loc"]), fault["type"], fault["input"]
    context = fault.get("ctx", {})
    if kind == "value_error" and isinstance(raised := context.get("error"), ConfigError):
        return _moved(raised, above + key)  # from validate(), which knows its own keys only
    path = path_of(above + key)
    if kind in ("extra_forbidden", "invalid_key"):
        names = list(_model_at(cls, key[:-1]).model_fields)
        made = ConfigError(
            f"unknown key {path!r}", expected=f"one of {names}{_near(key[-1], names)}"
        )
    elif kind == "missing":
        field = _model_at(cls, key[:-1]).model_fields[str(key[-1])]
        rule = setting_of(field)
        doc = f" ({rule.doc})" if rule.doc else ""
        made = ConfigError(f"missing key {path!r}", expected=describe(field.annotation, rule) + doc)
    elif kind in ("model_type", "model_attributes_type", "dict_type", "mapping_type"):
        model = _model_at(cls, key)
        keys = f" with keys {list(model.model_fields)}" if kind.startswith("model") else ""
        made = _wrong(path or cls.__name__, value, f"a mapping{keys}")
    elif kind in ("too_long", "too_short"):
        limits = (context.get("min_length"), context.get("max_length"))
        word = "at least" if kind == "too_short" else "at most"
        number = limits[0] if kind == "too_short" else limits[1]
        made = _wrong(path, value, f"{word} {number} elements")
    elif kind == UNFIT:
        made = _wrong(path, value, context["expected"] + _near(value, context["options"]))
    else:
        made = _wrong(path, value, fault["msg"].removeprefix("Value error, "))
    made.key = above + key
    return [made]


def _moved(error: ConfigError, key: Key) -> list[ConfigError]:
    """The same errors, of something that stands there in the document."""
    moved = []
    for one in error.errors if isinstance(error, ConfigErrors) else (error,):
        inner = one.key or key_of(one.what)
        if key:
            what = path_of((*key, one.what))
            one = ConfigError(what, got=one.got, expected=one.expected, hint=one.hint)
        one.key = (*key, *inner)
        moved.append(one)
    return moved


def _model_at(cls: type[Config], key: Key) -> type[Config]:
    """The configuration class of what stands there; the last one on the way, if it is none."""
    hint: Any = cls
    for part in key:
        if isinstance(hint, type) and issubclass(hint, Config):
            cls = hint
            field = hint.model_fields.get(str(part))
            hint = field.annotation if field else None
        else:
            hint = _element(hint, part)
        if typing.get_origin(hint) in (Union, types.UnionType):
            hint = next((a for a in typing.get_args(hint) if a is not type(None)), None)
    return hint if isinstance(hint, type) and issubclass(hint, Config) else cls


def _element(hint: Any, part: str | int) -> Any:
    """The type of an element of a list, a tuple or a mapping."""
    args = typing.get_args(hint)
    if typing.get_origin(hint) in (dict, Mapping):
        return args[1]
    if isinstance(part, int) and part < len(args) and args[-1] is not Ellipsis:
        return args[part]  # a tuple of several types
    return args[0] if args else None


def _wrong(path: str, value: Any, expected: str) -> ConfigError:
    text = repr(value)
    if len(text) > 200:
        text = text[:200] + "..."
    kind = type(as_number(value)).__name__
    hint = ""
    if isinstance(value, bool) and expected.startswith("text"):
        hint = "yes, no, on, off, true and false are truth values in YAML: give the word in quotes, as '\"on\"'"
    return ConfigError(path, got=f"{text} ({kind})", expected=expected, hint=hint)


def _near(value: object, options: Iterable[object]) -> str:
    close = difflib.get_close_matches(str(value), [str(o) for o in options], n=1)
    return f"; did you mean {close[0]!r}?" if close else ""
