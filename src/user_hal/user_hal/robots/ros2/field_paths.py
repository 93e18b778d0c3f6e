"""Ways through messages: to a field, an element of a list by its place or its name, or all of them."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Sequence
from operator import attrgetter
from typing import Any, NamedTuple

from user_core.errors import ConfigError

_STEP = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)((?:\[(?:\d+|\*|[A-Za-z_][A-Za-z0-9_]*=[^\[\]]+)\])*)")
_INDEX = re.compile(r"\[([^\]]*)\]")
_SEQUENCE = re.compile(r"(?:sequence<)?([A-Za-z0-9_/]+)(?:, \d+>|>|\[\d+\])")

#: Finds the class of a message type.
MessageClass = Callable[[str], type[Any]]


class Select(NamedTuple):
    """The element of a list of which a field has some value.

    Attributes:
        field: Its name.
        value: The value, as text.
    """

    field: str
    value: str

    def __str__(self) -> str:
        return f"{self.field}={self.value}"

    def of(self, elements: Any) -> Any:
        """The element; raises NotSelected where there is none."""
        for element in elements:
            if str(getattr(element, self.field)) == self.value:
                return element
        raise NotSelected(f"no element with {self.field} = {self.value!r}")


class NotSelected(IndexError):
    """A message has no such element: it is about others."""


def _parts(text: str, separator: str) -> list[str]:
    """A text cut at separators that stand in no brackets."""
    found, depth = [""], 0
    for letter in text:
        depth += (letter == "[") - (letter == "]")
        if letter == separator and depth == 0:
            found.append("")
        else:
            found[-1] += letter
    return found


class FieldPath:
    """A way through a message, for instance ``pose.pose``, ``arms[1].joints[0].position``, or
    ``motor_state[*].q``: the ``q`` of every element, in order; ``status[name=arm].level``: of the
    element with that name, where messages without it are about others. Several ways, with commas
    between them, give a list: ``x, y, z, rx, ry, rz``.

    Raises:
        ConfigError: The text is not such a way.
    """

    def __init__(self, text: str) -> None:
        self.text = text
        self._steps: list[str | int | Select] = []  # ALL for every element
        self._direct: Callable[[Any], Any] | None = None  # where there are only names
        several = ways if len(ways := _parts(text, ",")) > 1 else []
        self._several = [FieldPath(way.strip()) for way in several]
        # whether it goes to an element that some messages may lack
        self.selects: bool = any(way.selects for way in self._several)
        if several:
            return
        for part in _parts(text, "."):
            match = _STEP.fullmatch(part)
            if match is None:
                raise ConfigError(
                    "path of a field",
                    got=repr(text),
                    expected="names, [indices], [*] and [field=value], joined by dots",
                )
            self._steps.append(match[1])
            self._steps += [_step(index) for index in _INDEX.findall(match[2])]
        self.selects = any(isinstance(step, Select) for step in self._steps)
        names = [step for step in self._steps if isinstance(step, str)]
        self._direct = attrgetter(".".join(names)) if len(names) == len(self._steps) else None

    def get(self, message: Any) -> Any:
        """What stands there; a list if there is a ``[*]``. Raises AttributeError or IndexError
        where there is nothing."""
        if self._direct is not None:
            return self._direct(message)
        if self._several:
            return [way.get(message) for way in self._several]
        return _follow(message, self._steps, 0)

    def check(
        self, message_class: type[Any], type_name: str, find: MessageClass | None = None
    ) -> None:
        """Raise ConfigError, listing what there is, unless messages of this type can have it.

        Args:
            message_class: The class of the messages.
            type_name: Its name, for the error.
            find: Finds the classes of what sequences hold, which are empty in a new message.
                Without it, what comes after an index is not checked.
        """
        for path in self._several:
            path.check(message_class, type_name, find)
        message, way, element = message_class(), type_name, ""
        for step in self._steps:
            if not isinstance(step, str):
                match = _SEQUENCE.fullmatch(element)
                if match is None and not hasattr(message, "__getitem__"):
                    raise ConfigError(
                        f"field {self.text!r}", got=f"{way} is no list", expected="no [...] there"
                    )
                at = max(step, 0) if isinstance(step, int) else 0
                if len(message) > at:  # of a fixed length
                    message = message[at]
                elif match is not None and "/" in match[1] and find is not None:
                    package, _, name = match[1].rpartition("/")
                    message = find(f"{package.split('/')[0]}/msg/{name}")()
                elif match is not None and "/" not in match[1]:
                    message = 0.0
                else:
                    return
                if isinstance(step, Select) and not hasattr(message, step.field):
                    raise no_such_field(self.text, step.field, message, way)
                way, element = f"{way}[{'*' if step == _ALL else step}]", ""
                continue
            if not hasattr(message, step):
                raise no_such_field(self.text, step, message, way)
            describe = getattr(message, "get_fields_and_field_types", None)
            element = "" if describe is None else describe().get(step, "")
            message = getattr(message, step)
            way = f"{way}.{step}"


_ALL = -1  # as a step: every element


def _step(index: str) -> int | Select:
    """What stands in brackets."""
    field, equals, value = index.partition("=")
    if equals:
        return Select(field, value.strip())
    return _ALL if index == "*" else int(index)


def _follow(message: Any, steps: Sequence[str | int | Select], start: int) -> Any:
    for index in range(start, len(steps)):
        step = steps[index]
        if isinstance(step, str):
            message = getattr(message, step)
        elif step == _ALL:
            return [_follow(element, steps, index + 1) for element in message]
        elif isinstance(step, Select):
            message = step.of(message)
        else:
            message = message[step]
    return message


def fields_of(message: Any) -> list[str]:
    """Names of the fields of a message."""
    describe = getattr(message, "get_fields_and_field_types", None)
    return sorted(describe()) if describe is not None else sorted(vars(message))


def no_such_field(path: str, step: str, message: Any, where: str) -> ConfigError:
    """The error for a field that is not there."""
    known = (
        fields_of(message)
        if hasattr(message, "__dict__") or hasattr(message, "get_fields_and_field_types")
        else []
    )
    near = difflib.get_close_matches(step, known, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return ConfigError(
        f"field {path!r}",
        got=f"{where} has no {step!r}",
        expected=f"one of {known}{hint}" if known else f"nothing below {where}",
    )
