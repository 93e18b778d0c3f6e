"""The declaration of one configuration value, and how pydantic is to check it."""

from __future__ import annotations

import math
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import Enum
from functools import partial
from pathlib import Path
from typing import Any, Literal, Union

try:
    from pydantic import Field, GetCoreSchemaHandler, GetJsonSchemaHandler
    from pydantic.fields import FieldInfo
    from pydantic_core import CoreSchema, PydanticCustomError, PydanticUndefined, core_schema
except ImportError as error:
    raise ImportError(
        f"USER needs pydantic 2 ({error}). Ubuntu 24.04 ships pydantic 1: install a newer one "
        "beside it, as `make setup` does, with pip install 'pydantic>=2' in a virtual environment"
    ) from error

#: Type of the pydantic error of a value that does not fit its setting; its context says why.
UNFIT = "setting"
_KINDS = {float: "a number", int: "an integer", str: "text", bool: "true or false", Path: "a path"}


class WrittenInt(int):
    """An integer as YAML reads it, which knows how it was written: ``0012`` is a hash where text is wanted."""

    written: str

    def __new__(cls, value: int, written: str) -> WrittenInt:
        made = super().__new__(cls, value)
        made.written = written
        return made

    def __getnewargs__(self) -> tuple[int, str]:  # type: ignore[override]
        return int(self), self.written

    def __str__(self) -> str:
        return self.written


class WrittenFloat(float):
    """The same of a number with a point: ``1.10`` is a version where text is wanted."""

    written: str

    def __new__(cls, value: float, written: str) -> WrittenFloat:
        made = super().__new__(cls, value)
        made.written = written
        return made

    def __getnewargs__(self) -> tuple[float, str]:  # type: ignore[override]
        return float(self), self.written

    def __str__(self) -> str:
        return self.written


def as_written(value: Any) -> Any:
    """The text of a number that was read from YAML; any other value as it is."""
    return value.written if isinstance(value, WrittenInt | WrittenFloat) else value


def as_number(value: Any) -> Any:
    """A number that was read from YAML as a plain one; any other value as it is."""
    if isinstance(value, WrittenInt):
        return int(value)
    return float(value) if isinstance(value, WrittenFloat) else value


def plain_numbers(value: Any) -> Any:
    """The same with all numbers in it plain, for code that is not from here: to numpy another type of number is wider
    than float32, and who asks for the exact type finds another one."""
    if type(value) is dict:  # other mappings are objects, and not from YAML
        return {key: plain_numbers(one) for key, one in value.items()}
    return [plain_numbers(one) for one in value] if type(value) is list else as_number(value)


def as_if_written(value: Any) -> Any:
    """A plain number as if it had been read from YAML; any other value as it is."""
    if type(value) is int:
        return WrittenInt(value, repr(value))
    return WrittenFloat(value, repr(value)) if type(value) is float else value


def is_more_than_its_number(value: Any) -> bool:
    """Whether a number that was read from YAML was written as nobody writes it who knows but the number: ``0012``,
    ``1.10``."""
    return isinstance(value, WrittenInt | WrittenFloat) and repr(as_number(value)) != value.written


@dataclass(frozen=True)
class Setting:
    """What is known about one field of a :class:`~user_core.config.Config`.

    Attributes:
        doc: What it does, one sentence.
        unit: SI unit symbol, empty when dimensionless.
        ge: Smallest allowed value; for sequences and mappings, of each element.
        gt: Value that must be exceeded.
        le: Largest allowed value.
        lt: Value that must not be reached.
        min_length: Fewest elements or characters.
        max_length: Most elements or characters.
        read_only: True where a running node cannot change it.
        late: True where it came later than weights that are in use: at its default it does not count in what
            these were made for (:func:`~user_core.config.identity`).
        counts_as: What it counts as there, whatever it is: it does not change what weights mean; or a function that
            says so of its value. None: as it is.
        formerly: The key that it had before, if any: it is still taken, with a warning, and is what weights that
            exist know it by.
    """

    doc: str = ""
    unit: str = ""
    ge: float | None = None
    gt: float | None = None
    le: float | None = None
    lt: float | None = None
    min_length: int | None = None
    max_length: int | None = None
    read_only: bool = True
    late: bool = False
    counts_as: Any = None
    formerly: str = ""

    def counted(self, value: Any) -> Any:
        """A value as it counts in what weights were made for."""
        if self.counts_as is None:
            return value
        return self.counts_as(value) if callable(self.counts_as) else self.counts_as

    @property
    def range_text(self) -> str:
        """The allowed range for people, for instance ``>= 0 and < 1``; empty without one."""
        signs = ((">=", self.ge), (">", self.gt), ("<=", self.le), ("<", self.lt))
        return " and ".join(f"{sign} {limit:g}" for sign, limit in signs if limit is not None)

    @property
    def length_text(self) -> str:
        """The allowed length for people, for instance ``1 to 8`` or ``at least 1``; empty without a limit."""
        low, high = self.min_length, self.max_length
        if low is None and high is None:
            return ""
        return f"at least {low}" if high is None else f"{low or 0} to {high}"

    @property
    def limits(self) -> dict[str, Any]:
        """The limits of a number that there are, by the names that pydantic gives them."""
        limits = {"ge": self.ge, "gt": self.gt, "le": self.le, "lt": self.lt}
        return {name: limit for name, limit in limits.items() if limit is not None}

    @property
    def lengths(self) -> dict[str, Any]:
        """The limits of a length that there are, by the names that pydantic gives them."""
        lengths = {"min_length": self.min_length, "max_length": self.max_length}
        return {name: length for name, length in lengths.items() if length is not None}

    # What follows is the interface by which pydantic asks an annotation for its schema.

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        return _schema(source, self, handler)

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        made: dict[str, Any] = handler(schema)
        if self.unit:
            made["unit"] = self.unit
        return made


def setting(
    default: Any = PydanticUndefined,
    *,
    factory: Callable[[], Any] | None = None,
    doc: str,
    unit: str = "",
    ge: float | None = None,
    gt: float | None = None,
    le: float | None = None,
    lt: float | None = None,
    min_length: int | None = None,
    max_length: int | None = None,
    read_only: bool = True,
    late: bool = False,
    counts_as: Any = None,
    formerly: str = "",
) -> Any:
    """Declare a field of a configuration: default, purpose, unit and range.

    Example::

        class GateConfig(Config):
            max_age_s: float = setting(0.2, doc="Age at which a command is stale.", unit="s", gt=0)
    """
    if factory is not None:
        field = Field(default_factory=factory, description=doc)
    else:
        field = Field(default, description=doc)
    info = typing.cast(FieldInfo, field)
    info.metadata.append(
        Setting(
            doc, unit, ge, gt, le, lt, min_length, max_length, read_only, late, counts_as, formerly
        )
    )
    return info


def setting_of(field: FieldInfo) -> Setting:
    """The declaration behind a field of ``Config.model_fields``; an empty one without any."""
    return next((item for item in field.metadata if isinstance(item, Setting)), Setting())


def describe(hint: Any, rule: Setting | None = None) -> str:
    """What is allowed for a type, for people: ``a number > 0 and <= 2 m``."""
    rule = rule or Setting()
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (Union, types.UnionType):
        return " or ".join(describe(a, rule) for a in args if a is not type(None))
    if origin is Literal:
        return f"one of {list(args)}"
    if origin in (list, tuple):
        return "a list"
    if origin in (dict, Mapping):
        return "a mapping"
    if isinstance(hint, type) and issubclass(hint, Enum):
        return f"one of {enum_texts(hint)}"
    text = _KINDS.get(hint) or getattr(hint, "__name__", None) or str(hint)
    if hint in (int, float) and rule.range_text:
        return f"{text} {rule.range_text}{' ' * bool(rule.unit)}{rule.unit}"
    if hint is str and rule.length_text:
        return f"{text} of {rule.length_text} characters"
    return text


def enum_text(member: Enum) -> str:
    """How a member of an enumeration is written in a configuration."""
    return member.value if isinstance(member.value, str) else member.name.lower()


def enum_texts(cls: type[Enum]) -> list[str]:
    """How all members of an enumeration are written."""
    return [enum_text(member) for member in cls]


def _schema(hint: Any, rule: Setting, handler: GetCoreSchemaHandler) -> CoreSchema:
    """The schema of a type: strict as to scalars, lenient only where YAML has no such type."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (Union, types.UnionType):
        rest = [a for a in args if a is not type(None)]
        inner = [_schema(a, rule, handler) for a in rest]
        made = inner[0] if len(inner) == 1 else _unfit(core_schema.union_schema([*inner]), hint)
        if str in rest and (int in rest or float in rest):  # a number that was written is one here
            made = core_schema.no_info_before_validator_function(as_number, made)
        return made if len(rest) == len(args) else core_schema.nullable_schema(made)
    if origin is Literal:
        return _unfit(core_schema.literal_schema(list(args)), hint, options=args)
    if origin in (list, tuple, dict, Mapping):
        return _container(origin, args, rule, handler)
    if isinstance(hint, type) and issubclass(hint, Enum):
        return _enum(hint)
    if hint is float:
        number = core_schema.float_schema(strict=True, **rule.limits)
        before = _number_in_a_range if rule.limits else _number
        return _unfit(core_schema.no_info_before_validator_function(before, number), hint, rule)
    if hint is int:
        limits: dict[str, Any] = {
            name: math.ceil(limit) if name in ("ge", "lt") else math.floor(limit)
            for name, limit in rule.limits.items()
        }
        return _unfit(core_schema.int_schema(strict=True, **limits), hint, rule)
    if hint is str:
        text = core_schema.str_schema(strict=True, **rule.lengths)
        made = core_schema.no_info_before_validator_function(as_written, text)
        return _unfit(made, hint, rule)
    if hint is bool:
        return _unfit(core_schema.bool_schema(strict=True), hint)
    if hint is Path:
        place = core_schema.no_info_before_validator_function(
            lambda value: str(value) if isinstance(value, Path) else as_written(value),
            core_schema.str_schema(strict=True),
        )
        return _unfit(core_schema.no_info_after_validator_function(Path, place), hint)
    return handler.generate_schema(hint)  # another Config, Any


def _container(
    origin: Any, args: tuple[Any, ...], rule: Setting, handler: GetCoreSchemaHandler
) -> CoreSchema:
    """Lists, tuples and mappings: the limits of a number are those of each element."""
    each = Setting(rule.doc, rule.unit, rule.ge, rule.gt, rule.le, rule.lt)
    if origin in (dict, Mapping):
        keys, values = (_schema(a, each, handler) for a in args)
        return core_schema.dict_schema(keys, values, **rule.lengths)
    if origin is list:
        return core_schema.no_info_before_validator_function(
            _list, core_schema.list_schema(_schema(args[0], each, handler), **rule.lengths)
        )
    if args[-1] is Ellipsis:
        items = core_schema.tuple_schema(
            [_schema(args[0], each, handler)], variadic_item_index=0, **rule.lengths
        )
        return core_schema.no_info_before_validator_function(_list, items)
    items = core_schema.tuple_schema([_schema(a, each, handler) for a in args])
    return core_schema.no_info_before_validator_function(partial(_list, length=len(args)), items)


def _enum(cls: type[Enum]) -> CoreSchema:
    """By its text (a value that is one, else the name in small letters), value or member."""
    members = {enum_text(member): member for member in cls}

    def text_of(value: Any) -> Any:
        if isinstance(value, cls):
            return enum_text(value)
        for text, member in members.items():
            named = isinstance(value, str) and value.lower() in (text, member.name.lower())
            if named or (value == member.value and not isinstance(value, bool)):
                return text
        return value

    texts = core_schema.no_info_before_validator_function(
        text_of, core_schema.literal_schema(list(members))
    )
    found = core_schema.no_info_after_validator_function(members.__getitem__, texts)
    return _unfit(found, cls, options=members)


def _unfit(
    schema: CoreSchema, hint: Any, rule: Setting | None = None, options: Iterable[Any] = ()
) -> CoreSchema:
    """With one error of ours, whatever pydantic finds wrong with the value."""
    context = {"expected": describe(hint, rule), "options": [str(option) for option in options]}
    return core_schema.custom_error_schema(
        schema, UNFIT, custom_error_message="expected {expected}", custom_error_context=context
    )


def _number(value: Any) -> Any:
    """A number; YAML 1.1 reads ``1e-3`` as text."""
    if isinstance(value, bool):
        raise ValueError("not a number")
    return float(value) if isinstance(value, (str, int)) else value


def _number_in_a_range(value: Any) -> Any:
    number = _number(value)
    if number != number:
        raise ValueError("NaN is in no range")
    return number


def _list(value: Any, length: int | None = None) -> Any:
    """Only what YAML makes of a list, and a tuple; pydantic would take sets and more."""
    if isinstance(value, (list, tuple)) and len(value) == (length or len(value)):
        return value
    expected = "a list" if length is None else f"a list of {length} values"
    raise PydanticCustomError(UNFIT, "expected {expected}", {"expected": expected, "options": []})
