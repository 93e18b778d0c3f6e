"""A contract as YAML that a person goes on writing: comments, and one line for what is short."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import yaml

_WIDTH = 100


def to_yaml(data: Mapping[str, Any], comments: Mapping[str, Sequence[str]], head: str = "") -> str:
    """Write plain data.

    Args:
        data: Mappings, lists and plain values.
        comments: Lines above a key, by its dotted path; those of a path that is not there stand at
            the end of the mapping that it would be in.
        head: Lines at the top.
    """
    lines = [f"# {line}".rstrip() for line in head.splitlines()]
    lines += _lines(data, comments, "", 0)
    return "\n".join(lines) + "\n"


def _lines(
    data: Mapping[str, Any], comments: Mapping[str, Sequence[str]], path: str, depth: int
) -> list[str]:
    pad, found = "  " * depth, []
    for key, value in data.items():
        here = f"{path}.{key}" if path else str(key)
        found += [f"{pad}# {line}".rstrip() for line in comments.get(here, ())]
        word = _flow(key)
        flow = f"{pad}{word}: {_flow(value)}"
        simple = not isinstance(value, Mapping) or not value
        inside = any(other.startswith(f"{here}.") for other in comments)
        if (simple or (depth >= 2 and not inside)) and len(flow) <= _WIDTH:
            found.append(flow)
        elif isinstance(value, Mapping):
            found += [f"{pad}{word}:", *_lines(value, comments, here, depth + 1)]
        elif isinstance(value, (list, tuple)):
            found.append(f"{pad}{word}:")
            found += [f"{pad}  - {_flow(item)}" for item in value]
        else:
            found.append(flow)
    for other, texts in comments.items():
        parent, _, key = other.rpartition(".")
        if parent == path and key not in data:
            found += [f"{pad}# {line}".rstrip() for line in texts]
    return found


def _flow(value: Any) -> str:
    text = yaml.safe_dump(
        _plain(value), default_flow_style=True, width=10**6, sort_keys=False, allow_unicode=True
    )
    return text.removesuffix("\n").removesuffix("\n...").strip()


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value
