"""YAML as a tree that remembers where each value comes from, and how trees are laid over each other."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from user_core.config import Document, load_document
from user_core.config.model import Key


@dataclass(frozen=True)
class Origin:
    """Where a value comes from.

    Attributes:
        place: ``file:line``, or ``command line``.
        through: What put it there, where its text only names it: ``argument seed, ...``.
    """

    place: str
    through: str = ""

    def __str__(self) -> str:
        return f"{self.place} ({self.through})" if self.through else self.place


@dataclass(frozen=True)
class Node:
    """A value and where it comes from; mappings and lists hold nodes."""

    value: Any
    origin: Origin

    def __getitem__(self, key: str) -> Node:
        return self.value[key]  # type: ignore[no-any-return]

    def get(self, key: str) -> Node | None:
        """What a mapping has under this key; None where there is nothing, or no mapping."""
        return self.value.get(key) if isinstance(self.value, dict) else None

    def without(self, *keys: str) -> Node:
        """A mapping without these keys."""
        kept = {key: node for key, node in self.value.items() if key not in keys}
        return Node(kept, self.origin)


def read_tree(file: Path) -> Node:
    """The tree of a YAML file. Raises ConfigError when it cannot be read."""
    document = load_document(file)
    return _tree(document.data, document, ())


def _tree(value: Any, document: Document, key: Key) -> Node:
    origin = Origin(document.place(key))
    if isinstance(value, dict):
        below = {str(k): _tree(v, document, (*key, str(k))) for k, v in value.items()}
        return Node(below, origin)
    if isinstance(value, list):
        return Node([_tree(v, document, (*key, i)) for i, v in enumerate(value)], origin)
    return Node(value, origin)


def tree_of(value: Any, origin: Origin) -> Node:
    """The tree of plain data that all comes from one place."""
    if isinstance(value, Mapping):
        return Node({str(k): tree_of(v, origin) for k, v in value.items()}, origin)
    if isinstance(value, list | tuple):
        return Node([tree_of(v, origin) for v in value], origin)
    return Node(value, origin)


def plain(node: Node) -> Any:
    """The data of a tree."""
    if isinstance(node.value, dict):
        return {key: plain(below) for key, below in node.value.items()}
    if isinstance(node.value, list):
        return [plain(below) for below in node.value]
    return node.value


def overlay(base: Node | None, top: Node) -> Node:
    """One tree laid over another: mappings are joined, everything else is replaced. Where another plugin is chosen, the
    parameters of the one below go with it."""
    if base is None or not (isinstance(base.value, dict) and isinstance(top.value, dict)):
        return top
    joined = dict(base.value)
    before, chosen = base.get("plugin"), top.get("plugin")
    if before is not None and chosen is not None and before.value != chosen.value:
        joined.pop("params", None)
    for key, node in top.value.items():
        joined[key] = overlay(joined.get(key), node)
    return Node(joined, base.origin)


def put(node: Node, path: Sequence[str], value: Node) -> Node:
    """A tree with a value laid over what is at this path; mappings on the way are made."""
    for part in reversed(path):
        value = Node({part: value}, value.origin)
    return overlay(node, value)


def leaves(node: Node, key: Key = ()) -> Iterator[tuple[Key, Node]]:
    """Every value that is no mapping, and every empty mapping, with its key."""
    if isinstance(node.value, dict) and node.value:
        for name, below in node.value.items():
            yield from leaves(below, (*key, name))
    else:
        yield key, node


def place_of(node: Node, key: Key) -> Origin:
    """Where the value at a key comes from; the nearest one above it, if it is not there."""
    for part in key:
        below = node.value
        is_there = (
            part in below
            if isinstance(below, dict)
            else (isinstance(below, list) and isinstance(part, int) and part < len(below))
        )
        if not is_there:
            break
        node = below[part]
    return node.origin
