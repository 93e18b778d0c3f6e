"""YAML documents with the line at which each key stands, and parameters of command lines."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from user_core.config.model import ConfigErrors, Key
from user_core.config.setting import WrittenFloat, WrittenInt
from user_core.errors import ConfigError


@dataclass(frozen=True)
class Document:
    """What a YAML file holds, with the place of each key.

    Attributes:
        file: Where it was read.
        data: Plain data; its top is a mapping.
        lines: Number of the line, from 1, of each key and element.
    """

    file: Path
    data: dict[str, Any]
    lines: dict[Key, int] = field(default_factory=dict)

    def place(self, key: Key) -> str:
        """``file:line`` of a key; of the nearest one above it, if it is not there itself."""
        while key and key not in self.lines:
            key = key[:-1]
        return f"{self.file}:{self.lines.get(key, 1)}"

    def located(self, error: ConfigError) -> ConfigError:
        """An error about a key of this document, with ``file:line`` at its beginning."""
        found: list[ConfigError] = []
        for one in error.errors if isinstance(error, ConfigErrors) else (error,):
            what = f"{self.place(one.key)}: {one.what}"
            moved = ConfigError(what, got=one.got, expected=one.expected, hint=one.hint)
            moved.key = one.key
            found.append(moved)
        return ConfigErrors.of(found)


def load_document(path: str | Path) -> Document:
    """Read a YAML file whose top is a mapping. Keys that occur twice are refused.

    A key that is written as a number or a truth value (``0``, ``on``) is that text. A number knows how it was written,
    so that it is that text where a field is one (``base_hash: 0012``).

    Raises:
        ConfigError: The file is not there, is not valid YAML, or is something else.
    """
    try:
        with open(path, encoding="utf-8") as stream:
            loader = _Loader(stream)
            try:
                node = loader.get_single_node()
                data = None if node is None else loader.construct_document(node)
            finally:
                loader.dispose()
    except OSError as error:
        raise ConfigError(f"cannot read {path}", got=error.strerror, expected="a file") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not valid YAML", got=str(error)) from error
    if node is None or data is None:
        return Document(Path(path), {})
    if not isinstance(data, dict):
        raise ConfigError(f"top of {path}", got=type(data).__name__, expected="a mapping")
    return Document(Path(path), data, dict(_lines(node, (), ())))


def load_yaml(path: str | Path) -> dict[str, Any]:
    """The data of a YAML file, see :func:`load_document`."""
    return load_document(path).data


def _lines(node: yaml.Node, key: Key, above: tuple[int, ...]) -> Iterator[tuple[Key, int]]:
    if id(node) in above:  # an alias of something that it is a part of
        return
    above = (*above, id(node))
    if isinstance(node, yaml.MappingNode):
        for name, value in node.value:
            if isinstance(name, yaml.ScalarNode):
                inner = (*key, str(name.value))
                yield inner, name.start_mark.line + 1
                yield from _lines(value, inner, above)
    elif isinstance(node, yaml.SequenceNode):
        for number, value in enumerate(node.value):
            inner = (*key, number)
            yield inner, value.start_mark.line + 1
            yield from _lines(value, inner, above)


def yaml_value(text: str) -> Any:
    """A value of YAML, read as in documents: each key is a text, and occurs once; numbers know how they were written.

    Raises:
        yaml.YAMLError: It is not valid YAML, or has another key.
    """
    return yaml.load(text, _Loader)  # noqa: S506 (it is a safe one)


_TEXT, _MERGE = "tag:yaml.org,2002:str", "tag:yaml.org,2002:merge"


class _Loader(yaml.SafeLoader):
    """Each key is the text that was written: ``0``, ``on`` and ``1e3`` as well.

    To plain YAML those are a number and a truth value, which ROS parameters, JSON and the names of fields are not. And
    a key that occurs twice is a mistake: plain YAML would silently keep the last.

    What type a value has is not known here, but where it is used. So a number keeps its text, and a day
    (``2026-11-30``) is one: no field is a date.
    """

    def __init__(self, stream: Any) -> None:
        super().__init__(stream)
        self._read: dict[int, yaml.Node] = {}  # mappings whose keys are texts already

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        """Comes before a mapping is made, and before others merge it (``<<: *base``), in whatever order."""
        if id(node) not in self._read:
            self._read[id(node)] = node
            node.value = [(_key_of_text(key), value) for key, value in node.value]
            seen = set()
            for key, _ in node.value:
                if key.tag == _MERGE:  # may occur more than once
                    continue
                if key.value in seen:
                    raise yaml.constructor.ConstructorError(
                        None, None, f"key {key.value!r} occurs twice", key.start_mark
                    )
                seen.add(key.value)
        super().flatten_mapping(node)


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if not tag.endswith(":timestamp")]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def _written_int(loader: _Loader, node: yaml.ScalarNode) -> WrittenInt:
    return WrittenInt(loader.construct_yaml_int(node), node.value)


def _written_float(loader: _Loader, node: yaml.ScalarNode) -> WrittenFloat:
    return WrittenFloat(loader.construct_yaml_float(node), node.value)


_Loader.add_constructor("tag:yaml.org,2002:int", _written_int)
_Loader.add_constructor("tag:yaml.org,2002:float", _written_float)


def _write_int(dumper: yaml.SafeDumper, value: WrittenInt) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:int", value.written)


def _write_float(dumper: yaml.SafeDumper, value: WrittenFloat) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:float", value.written)


# Whoever writes a document writes numbers as they stood in the one that was read.
yaml.SafeDumper.add_representer(WrittenInt, _write_int)
yaml.SafeDumper.add_representer(WrittenFloat, _write_float)


def _key_of_text(key: yaml.Node) -> yaml.Node:
    if not isinstance(key, yaml.ScalarNode):
        raise yaml.constructor.ConstructorError(
            None, None, "a key is a list or a mapping, expected a name", key.start_mark
        )
    if key.tag in (_TEXT, _MERGE):
        return key
    return yaml.ScalarNode(_TEXT, key.value, key.start_mark, key.end_mark)


def parse_parameters(words: Sequence[str]) -> dict[str, Any]:
    """``name:=value`` and ``outer.inner:=value``, as on command lines, as a nested mapping.

    Values are YAML. Raises ConfigError for another spelling, for what is not YAML, and where a
    name is both a value and a mapping.
    """
    found: dict[str, Any] = {}
    for word in words:
        path, separator, text = word.partition(":=")
        if not separator or not path:
            raise ConfigError("parameter", got=repr(word), expected="name:=value")
        *outer, last = path.split(".")
        inner = found
        for key in outer:
            inner = inner.setdefault(key, {})
            if not isinstance(inner, dict):
                raise ConfigError(path, got=f"{key}:={inner!r} as well", expected="one of both")
        try:
            inner[last] = yaml_value(text)
        except yaml.YAMLError as error:
            raise ConfigError(path, got=text, expected=f"a value of YAML ({error})") from error
    return found
