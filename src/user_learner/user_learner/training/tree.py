"""Nested state as flat arrays and JSON, and back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from user_core.errors import StoreError
from user_core.specs import Array

_ARRAY = "$array"


def flatten(state: Mapping[str, Any]) -> tuple[dict[str, Array], dict[str, Any]]:
    """Take the arrays out of a state: by their path (``a/b/c``), and the rest, ready for JSON.

    Raises StoreError for what is neither mapping, list, number, text, truth value, None, nor
    array: a state must never hold code.
    """
    arrays: dict[str, Array] = {}
    rest = _flatten(state, "", arrays)
    assert isinstance(rest, dict)
    return arrays, rest


def unflatten(arrays: Mapping[str, Array], rest: Any) -> Any:
    """The state from which :func:`flatten` made these (tuples have become lists)."""
    if isinstance(rest, Mapping):
        if rest.keys() == {_ARRAY}:
            try:
                return arrays[rest[_ARRAY]]
            except (KeyError, TypeError) as error:
                raise StoreError(
                    "array of a state", got=rest[_ARRAY], expected="one of the file's"
                ) from error
        return {key: unflatten(arrays, value) for key, value in rest.items()}
    if isinstance(rest, list):
        return [unflatten(arrays, value) for value in rest]
    return rest


def _flatten(value: Any, path: str, arrays: dict[str, Array]) -> Any:
    if isinstance(value, np.ndarray):
        arrays[path] = value
        return {_ARRAY: path}
    if isinstance(value, Mapping):
        if not all(isinstance(key, str) and key != _ARRAY for key in value):
            raise StoreError(f"keys of state {path!r}", got=list(value), expected="texts")
        return {k: _flatten(v, f"{path}/{k}" if path else k, arrays) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_flatten(v, f"{path}/{i}", arrays) for i, v in enumerate(value)]
    if isinstance(value, np.generic):
        return value.item()
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise StoreError(
        f"state {path!r}", got=type(value).__name__, expected="arrays and plain values"
    )
