"""Texts of message definitions, from the classes that rosidl makes."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

_NAMES = {"double": "float64", "float": "float32", "boolean": "bool", "octet": "byte"}
_BETWEEN = "=" * 80


def definition(cls: type[Any], find: Callable[[str], type[Any]]) -> str:
    """The definition of a message type and of those within it, as bags have it (``ros2msg``).

    Args:
        cls: The class of the type.
        find: Finds the class of ``package/msg/Name``.
    """
    texts: dict[str, str] = {}

    def add(name: str, one: type[Any]) -> None:
        if name in texts:
            return
        lines, inner = [], []
        for field, kind in one.get_fields_and_field_types().items():
            text, nested = _field(kind)
            lines.append(f"{text} {field}")
            inner += [nested] if nested else []
        texts[name] = "\n".join(lines) + "\n"
        for nested in inner:
            package, _, short = nested.partition("/")
            add(nested, find(f"{package}/msg/{short}"))

    add("", cls)
    own = texts.pop("")
    parts = [f"{_BETWEEN}\nMSG: {name}\n{text}" for name, text in texts.items()]
    return "".join([own, *parts])


def _field(kind: str) -> tuple[str, str]:
    """A field as a .msg file writes it, and the type within it, if that is a message."""
    sequence = re.fullmatch(r"sequence<(.*?)(?:, *(\d+))?>", kind)
    array = re.fullmatch(r"(.*)\[(\d+)\]", kind)
    if sequence:
        inner, nested = _field(sequence[1])
        return f"{inner}[<={sequence[2]}]" if sequence[2] else f"{inner}[]", nested
    if array:
        inner, nested = _field(array[1])
        return f"{inner}[{array[2]}]", nested
    text = re.fullmatch(r"(w?string)<(\d+)>", kind)
    if text:
        return f"{text[1]}<={text[2]}", ""
    return _NAMES.get(kind, kind), kind if "/" in kind else ""
