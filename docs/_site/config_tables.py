"""Configuration classes as Markdown tables, and docstrings as Markdown."""

from __future__ import annotations

import dataclasses
import inspect
import json
import re
import types
import typing
from collections.abc import Iterator, Mapping
from dataclasses import MISSING
from enum import Enum
from typing import Any

from user_core.config import Config, config_fields
from user_core.plugins import PluginChoice

_HEAD = (
    "| parameter | type | default | unit | range | meaning |\n| --- | --- | --- | --- | --- | --- |"
)


def config_table(config: type[Config]) -> str:
    """Table of all settings of a configuration, those of inner ones by their path."""
    rows = list(_rows(config, ""))
    return "\n".join([_HEAD, *rows]) if rows else "No parameters."


@dataclasses.dataclass(frozen=True)
class _Setting:
    name: str
    type: Any
    default: str
    unit: str
    range: str
    doc: str


def _settings(config: type[Config]) -> Iterator[_Setting]:
    for field in config_fields(config):
        what = field.setting
        yield _Setting(field.name, field.type, _default(field.default), what.unit,
                       what.range_text, what.doc)  # fmt: skip


def _rows(config: type[Config], prefix: str) -> Iterator[str]:
    for setting in _settings(config):
        path = prefix + setting.name
        inner, suffix = _inner(setting.type)
        is_group = inner is not None and not suffix
        cells = [
            f"`{path}`",
            type_text(setting.type),
            "" if is_group else setting.default,
            setting.unit,
            setting.range,
            setting.doc,
        ]
        yield f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"
        if inner is not None and inner is not PluginChoice:
            yield from _rows(inner, f"{path}{suffix}.")


def _inner(hint: Any) -> tuple[type[Config] | None, str]:
    """The configuration in a type, and how its settings are reached from the field's name."""
    if isinstance(hint, type) and issubclass(hint, Config):
        return hint, ""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Annotated:
        return _inner(arguments[0])
    suffix = ""
    if isinstance(origin, type) and issubclass(origin, Mapping):
        suffix, arguments = ".NAME", arguments[1:]
    elif origin in (tuple, list):
        suffix = "[i]"
    for argument in arguments:
        found, deeper = _inner(argument)
        if found is not None:
            return found, suffix + deeper
    return None, ""


def type_text(hint: Any) -> str:
    """A type for people: ``number``, ``list of text``, ``a or b``."""
    plain = {float: "number", int: "integer", str: "text", bool: "true or false", type(None): "null",
             Any: "anything"}  # fmt: skip
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint in plain:
        return plain[hint]
    if origin is typing.Annotated:
        return type_text(arguments[0])
    if origin is typing.Literal:
        return " or ".join(f"`{argument}`" for argument in arguments)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(type_text(argument) for argument in arguments)
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return f"mapping to {type_text(arguments[1])}"
    if origin in (tuple, list):
        return f"list of {type_text(arguments[0])}" if arguments else "list"
    if isinstance(hint, type) and issubclass(hint, Enum):
        return " or ".join(f"`{member.value}`" for member in hint)
    if hint is PluginChoice:
        return "plugin and params"
    if isinstance(hint, type) and issubclass(hint, Config):
        return "group"
    if isinstance(hint, type) and issubclass(hint, Mapping):
        return "mapping"
    return f"`{getattr(hint, '__name__', hint)}`"


def _default(value: Any) -> str:
    if value is MISSING:
        return "*required*"
    if isinstance(value, Enum):
        value = value.value
    if isinstance(value, (Config, Mapping, tuple, list, set, frozenset)) and not value:
        return "empty"
    if isinstance(value, PluginChoice):
        return f"`{value.plugin}`"
    if isinstance(value, Config):
        return ""
    try:
        return f"`{json.dumps(value)}`"
    except TypeError:
        return f"`{value}`"


def markdown_of(docstring: str | None) -> str:
    """The prose of a docstring as Markdown: without the sections about arguments and attributes."""
    text = inspect.cleandoc(docstring or "")
    text = re.split(
        r"^(?:Args|Attributes|Raises|Returns|Example):", text, maxsplit=1, flags=re.MULTILINE
    )[0]
    text = re.sub(r":\w+(?::\w+)?:`~?(?:[\w.]*\.)?(\w+)`", r"`\1`", text)
    text = re.sub(r"``(.+?)``", r"`\1`", text, flags=re.DOTALL)
    # `::` and what is indented below it
    return re.sub(r"::\n\n((?:(?: {4}.*)?\n)+)", r":\n\n```python\n\1```\n", text + "\n").strip()


def first_sentence(item: Any) -> str:
    """The first paragraph of an object's docstring, for a cell of a table."""
    text = markdown_of(item.__doc__).partition("\n\n")[0]
    return " ".join(text.split()).replace("|", "\\|")
