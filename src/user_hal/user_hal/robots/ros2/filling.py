"""Messages, requests and goals of any type, filled by a mapping of a contract.

A mapping says what stands in which field. Keys are names, or paths such as ``goal.width`` and
``points[0].positions``; a value is a mapping again, a list, a number, a text, or a *word*: a text
in a field that takes no text stands for what is known at the moment of sending::

    fields: {name: arm, cmd: values}                                  # JointGroupCommand
    fields: {joint_names: joints, points: [{positions: values, time_from_start: duration}]}

All of it is checked against the type before anything is sent: fields that are not there, words
that nobody knows, numbers where a text belongs, lists of another length. A header is stamped. The
constants of a type stand by their names: ``{command_type: TWIST}``.
"""

from __future__ import annotations

import difflib
import re
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from user_core.errors import ConfigError
from user_hal.robots.ros2.field_paths import no_such_field

#: What words stand for: numbers, lists, texts, or a :class:`Duration`.
Words = Mapping[str, Any]
Fill = Callable[[Any, Words], None]


class MessageClasses(Protocol):
    """Finds the classes of nested messages, and tells the time of headers."""

    def message_class(self, type_name: str) -> type[Any]:
        """The class of a message type."""

    def now_ns(self) -> int:
        """Time that headers are stamped with, nanoseconds."""


class Duration(float):
    """Seconds that fill fields of type builtin_interfaces/Duration."""


@dataclass(frozen=True)
class FieldType:
    """What a field takes.

    Attributes:
        base: ``float``, ``int``, ``bool``, ``string`` or ``message``.
        count: None: one value; -1: any number; else this many.
        name: Type of a nested message, ``package/Name``; or its class.
    """

    base: str
    count: int | None = None
    name: Any = ""

    def __str__(self) -> str:
        what = getattr(self.name, "__name__", self.name) if self.base == "message" else self.base
        many = "" if self.count is None else "[]" if self.count < 0 else f"[{self.count}]"
        return f"{what}{many}"


def field_types(cls: type[Any]) -> dict[str, FieldType]:
    """The fields of a message class, in their order."""
    describe = getattr(cls, "get_fields_and_field_types", None)
    if describe is not None:
        return {name: _ros_type(text) for name, text in describe().items()}
    return {name: _python_type(hint) for name, hint in typing.get_type_hints(cls).items()}


class Template:
    """A mapping that is ready to fill messages of one type.

    Args:
        io: Finds classes, and tells the time.
        cls: Class of the messages.
        type_name: Its name, for errors.
        fields: The mapping.
        words: The words that will be there, with samples of what they stand for.
        where: Path of the mapping in the contract, for errors.

    Attributes:
        used: The words that stand in the mapping.

    Raises:
        ConfigError: The mapping does not fit the type; names the field.
    """

    def __init__(
        self,
        io: MessageClasses,
        cls: type[Any],
        type_name: str,
        fields: Mapping[str, Any],
        words: Words,
        where: str,
    ) -> None:
        self._io, self._words, self._where = io, words, where
        self._type_name = type_name
        self.used: set[str] = set()
        self._fill = self._message(cls, type_name, _tree(fields, where), "", top=True)
        try:
            self._fill(cls(), words)
        except (AssertionError, TypeError, ValueError, OverflowError, AttributeError) as error:
            raise ConfigError(where, got=f"{error}", expected=f"what {type_name} takes") from error

    def fill(self, message: Any, words: Words) -> Any:
        """Fill a new message; returns it.

        Args:
            message: Of the class that this was made for.
            words: What the words stand for now; as many numbers as in the samples.
        """
        self._fill(message, words)
        return message

    def _message(
        self, cls: type[Any], name: str, tree: Mapping[str, Any], at: str, *, top: bool = False
    ) -> Fill:
        known, steps = field_types(cls), []
        for field, value in tree.items():
            path = f"{at}.{field}" if at else field
            if field not in known:
                error = no_such_field(path, field, cls(), name)
                raise ConfigError(f"{self._where}.{path}", got=error.got, expected=error.expected)
            steps.append(self._step(field, self._value(known[field], cls, field, value, path)))
        if top and "header" in known and "header" not in tree:
            steps.append(self._stamp)

        def fill(message: Any, words: Words) -> None:
            for step in steps:
                step(message, words)

        return fill

    def _step(self, field: str, value: Any) -> Fill:
        if isinstance(value, _Nested):
            inner = value.fill
            return lambda message, words: inner(getattr(message, field), words)
        if callable(value):
            return lambda message, words: setattr(message, field, value(words))
        return lambda message, words: setattr(
            message, field, list(value) if isinstance(value, list) else value
        )

    def _value(self, kind: FieldType, cls: type[Any], field: str, value: Any, path: str) -> Any:
        """A constant, a function of the words, or a nested message to fill."""
        if kind.base == "message":
            return self._messages(kind, cls, field, value, path)
        if isinstance(value, str) and not (kind.base == "string" and kind.count is None):
            if value not in self._words and (known := constant(cls, value)) is not None:
                return known
            return self._word(kind, value, path)
        if kind.count is None:
            if isinstance(value, (list, Mapping)):
                raise self._misfit(kind, value, path)
            return self._constant(kind, value, path)
        if not isinstance(value, list):
            raise self._misfit(kind, value, path)
        if kind.count >= 0 and len(value) != kind.count:
            raise self._misfit(kind, f"{len(value)} values", path)
        one = FieldType(kind.base)
        made = [self._value(one, cls, field, v, f"{path}[{i}]") for i, v in enumerate(value)]
        if not any(callable(v) for v in made):
            return made
        return lambda words: [v(words) if callable(v) else v for v in made]

    def _messages(self, kind: FieldType, cls: type[Any], field: str, value: Any, path: str) -> Any:
        if kind.count is None:
            inner = type(getattr(cls(), field))
            if isinstance(value, str):
                return self._word(kind, value, path, inner)
            if not isinstance(value, Mapping):
                raise self._misfit(kind, value, path)
            return _Nested(self._message(inner, str(kind), _tree(value, self._where), path))
        if not isinstance(value, list) or not all(isinstance(v, Mapping) for v in value):
            raise self._misfit(kind, value, path)
        if kind.count >= 0 and len(value) != kind.count:
            raise self._misfit(kind, f"{len(value)} values", path)
        element = kind.name if isinstance(kind.name, type) else self._io.message_class(kind.name)
        fills = [
            self._message(element, str(kind), _tree(v, self._where), f"{path}[{i}]")
            for i, v in enumerate(value)
        ]

        def make(words: Words) -> list[Any]:
            made = [element() for _ in fills]
            for message, fill in zip(made, fills):
                fill(message, words)
            return made

        return make

    def _word(self, kind: FieldType, text: str, path: str, inner: type[Any] | None = None) -> Any:
        match = re.fullmatch(r"(\w+)(?:\[(\d+)\])?", text)
        name = match[1] if match else text
        self.used.add(name)
        if match is None or name not in self._words:
            near = difflib.get_close_matches(name, list(self._words), n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise ConfigError(
                f"{self._where}.{path}",
                got=repr(text),
                expected=f"{kind}, or one of the words {sorted(self._words)}{hint}",
            )
        sample = self._words[name]
        if isinstance(sample, Duration):
            return self._duration(kind, name, path, inner)
        many = isinstance(sample, (list, tuple))
        if match[2] is not None:
            index = int(match[2])
            if not many or index >= len(sample):
                got = f"{text!r} of {len(sample) if many else 'one'}"
                raise ConfigError(f"{self._where}.{path}", got=got, expected="an element of it")
            sample, many = sample[index], False
            take: Callable[[Words], Any] = lambda words: words[name][index]  # noqa: E731
        else:
            take = lambda words: words[name]  # noqa: E731
        if many != (kind.count is not None) or kind.base == "message":
            raise self._misfit(kind, f"{text!r}, {'several' if many else 'one'}", path)
        if many and kind.count is not None and 0 <= kind.count != len(sample):
            raise self._misfit(kind, f"{text!r}, {len(sample)} values", path)
        first = (sample[0] if sample else 0.0) if many else sample
        if isinstance(first, str) != (kind.base == "string"):
            raise self._misfit(kind, f"{text!r}, {type(first).__name__}", path)
        convert = _CONVERT[kind.base]
        if many:
            return lambda words: [convert(v) for v in take(words)]
        return lambda words: convert(take(words))

    def _duration(self, kind: FieldType, name: str, path: str, inner: type[Any] | None) -> Any:
        if kind.base == "float" and kind.count is None:
            return lambda words: float(words[name])
        if inner is None or not {"sec", "nanosec"} <= set(field_types(inner)):
            raise self._misfit(kind, repr(name), path)

        def fill(message: Any, words: Words) -> None:
            message.sec, message.nanosec = divmod(round(words[name] * 1e9), 1_000_000_000)

        return _Nested(fill)

    def _constant(self, kind: FieldType, value: Any, path: str) -> Any:
        fits = {
            "float": isinstance(value, (int, float)) and not isinstance(value, bool),
            "int": isinstance(value, int) and not isinstance(value, bool),
            "bool": isinstance(value, bool),
            "string": isinstance(value, str),
        }[kind.base]
        if not fits:
            raise self._misfit(kind, value, path)
        return float(value) if kind.base == "float" else value

    def _misfit(self, kind: FieldType, got: Any, path: str) -> ConfigError:
        text = got if isinstance(got, str) else repr(got)
        return ConfigError(
            f"{self._where}.{path}", got=text, expected=f"{kind}, as {self._type_name} has it"
        )

    def _stamp(self, message: Any, words: Words) -> None:
        stamp = message.header.stamp
        stamp.sec, stamp.nanosec = divmod(self._io.now_ns(), 1_000_000_000)
        message.header.frame_id = str(words.get("frame", ""))


@dataclass(frozen=True)
class _Nested:
    fill: Fill


_CONVERT: dict[str, Callable[[Any], Any]] = {
    "float": float,
    "int": lambda value: round(float(value)),
    "bool": lambda value: float(value) > 0.5,
    "string": str,
}

_ROS_BASES = {
    "double": "float", "float": "float", "float32": "float", "float64": "float",
    "boolean": "bool", "bool": "bool", "string": "string", "wstring": "string",
}  # fmt: skip


def _ros_type(text: str) -> FieldType:
    """A type as rclpy writes it: ``sequence<double, 3>``, ``double[7]``, ``geometry_msgs/Pose``."""
    sequence = re.fullmatch(r"sequence<(.*?)(?:, *\d+)?>", text)
    array = re.fullmatch(r"(.*)\[(\d+)\]", text)
    count = -1 if sequence else int(array[2]) if array else None
    inner = sequence[1] if sequence else array[1] if array else text
    inner = re.sub(r"<\d+>$", "", inner)  # a text of bounded length
    if "/" in inner:
        return FieldType("message", count, inner)
    return FieldType(_ROS_BASES.get(inner, "int"), count)


def _python_type(hint: Any) -> FieldType:
    if typing.get_origin(hint) in (list, tuple):
        one = _python_type(typing.get_args(hint)[0])
        return FieldType(one.base, -1, one.name)
    names = {float: "float", int: "int", bool: "bool", str: "string"}
    return FieldType(names[hint]) if hint in names else FieldType("message", None, hint)


def _tree(fields: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Paths as nested mappings and lists: ``{a.b: 1}`` is ``{a: {b: 1}}``."""
    tree: dict[str, Any] = {}
    for path, value in fields.items():
        steps: Sequence[str | int] = [
            int(number) if number else name
            for name, number in re.findall(r"([^.\[\]]+)(?!\])|\[(\d+)\]", str(path))
        ]
        if len(steps) < 2:
            tree[str(path)] = value
        else:
            _put(tree, steps, value, f"{where}.{path}")
    return tree


def _put(at: Any, steps: Sequence[str | int], value: Any, where: str) -> None:
    for step, following in zip(steps, [*steps[1:], None]):
        empty: Any = value if following is None else [] if isinstance(following, int) else {}
        if isinstance(step, int):
            if not isinstance(at, list) or step > len(at):
                raise ConfigError(where, got=f"[{step}]", expected="elements from [0] on, in order")
            if step == len(at):
                at.append(empty)
        elif not isinstance(at, dict):
            raise ConfigError(where, got="a path into what was given already", expected="one way")
        elif step not in at:
            at[step] = empty
        at = at[step]  # type: ignore[index]


def constant(cls: type[Any], name: str) -> int | None:
    """A constant of a message type, by its name; None: it has none of this name."""
    value = getattr(cls, name, None) if name.isidentifier() and name.isupper() else None
    return value if isinstance(value, int) else None


def constants(io: MessageClasses, cls: type[Any], type_name: str, fields: Mapping[str, Any],
              where: str) -> Any:  # fmt: skip
    """A message with these fields, none of which is a word. Raises ConfigError."""
    return Template(io, cls, type_name, fields, {}, where).fill(cls(), {})
