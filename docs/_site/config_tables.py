"""Configuration classes as Markdown tables, and docstrings as Markdown."""

from __future__ import annotations

import inspect
import json
import re
import types
import typing
from collections.abc import Iterator, Mapping
from enum import Enum
from typing import Any

from user_core.config import MISSING, Config, config_fields, to_mapping
from user_core.config.setting import enum_text, enum_texts
from user_core.plugins import PluginChoice

_HEAD = (
    "| parameter | type | default | unit | range | meaning |\n| --- | --- | --- | --- | --- | --- |"
)


def config_table(config: type[Config]) -> str:
    """Table of all settings of a configuration, those of inner ones by their path."""
    rows = list(_rows(config, ""))
    return "\n".join([_HEAD, *rows]) if rows else "No parameters."


def _rows(config: type[Config], prefix: str) -> Iterator[str]:
    for field in config_fields(config):
        path = prefix + field.name
        inner, suffix = _inner(field.type)
        is_group = inner is not None and not suffix and inner is not PluginChoice
        rule = field.setting
        cells = [
            f"`{path}`",
            type_text(field.type),
            "" if is_group else _default(field.default).replace("|", "\\|"),
            rule.unit,
            rule.range_text or rule.length_text,
            plain_text(rule.doc),
        ]
        yield f"| {' | '.join(cells)} |"
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
    plain = {float: "number", int: "integer", str: "text", bool: "boolean", type(None): "null",
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
        return "mapping" if arguments[1] is Any else f"mapping to {type_text(arguments[1])}"
    if origin in (tuple, list):
        return f"list of {type_text(arguments[0])}" if arguments else "list"
    if isinstance(hint, type) and issubclass(hint, Enum):
        return " or ".join(f"`{text}`" for text in enum_texts(hint))
    if hint is PluginChoice:
        return "plugin and its params"
    if isinstance(hint, type) and issubclass(hint, Config):
        return "group"
    if isinstance(hint, type) and issubclass(hint, Mapping):
        return "mapping"
    return f"`{getattr(hint, '__name__', hint)}`"


def _default(value: Any) -> str:
    if value is MISSING:
        return "*required*"
    if isinstance(value, PluginChoice) and not value.params:
        return f"`{value.plugin}`"
    if isinstance(value, (Mapping, tuple, list)) and not value:
        return "empty"
    return f"`{json.dumps(_plain(value))}`"


def _plain(value: Any) -> Any:
    """A value as it is written in a file."""
    if isinstance(value, Config):
        return to_mapping(value)
    if isinstance(value, Enum):
        return enum_text(value)
    if isinstance(value, (tuple, list)):
        return [_plain(item) for item in value]
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    return value if isinstance(value, (bool, int, float, str, type(None))) else str(value)


def plain_text(text: str) -> str:
    """Text for a cell of a table, with what Markdown would take for markup outside of code."""
    parts = re.split(r"(`[^`]*`)", " ".join(text.split()).replace("``", "`").replace("|", "\\|"))
    return "".join(
        part if part.startswith("`") else re.sub(r"([<>*\[\]_{}])", r"\\\1", part) for part in parts
    )


def markdown_of(docstring: str | None) -> str:
    """The prose of a docstring as Markdown: without the sections about arguments and attributes."""
    text = inspect.cleandoc(docstring or "")
    text = re.split(
        r"^(?:Args|Attributes|Raises|Returns|Example):", text, maxsplit=1, flags=re.MULTILINE
    )[0]
    text = re.sub(r":\w+(?::\w+)?:`~[\w.]*?(\w+)`", r"`\1`", text)
    text = re.sub(r":\w+(?::\w+)?:`([\w.]+)`", r"`\1`", text)
    text = re.sub(r"``(.+?)``", r"`\1`", text, flags=re.DOTALL)
    # `::` and what is indented below it
    return re.sub(r"::\n\n((?:(?: {4}.*)?\n)+)", r":\n\n```python\n\1```\n", text + "\n").strip()


def first_sentence(item: Any) -> str:
    """The first paragraph of an object's docstring, for a cell of a table."""
    text = markdown_of(item.__doc__).partition("\n\n")[0]
    return " ".join(text.split()).replace("|", "\\|")
