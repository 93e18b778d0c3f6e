"""Mappings of arrays and plain values as bytes: arrays as safetensors, the rest as JSON in the metadata.

For what processes that trust each other tell each other: nothing in it can be code, unlike in a pickle.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load

from user_core.codecs.weights import METADATA, pack
from user_core.errors import CodecError, StoreError
from user_core.specs import Array

_ARRAY, _REST = "$array", "rest"


def flatten(state: Any) -> tuple[dict[str, Array], Any]:
    """Take the arrays out of a state: by their path (``a/b/c``), and the rest, ready for JSON.

    Raises StoreError for what is neither mapping, list, number, text, truth value, None, nor
    array: a state must never hold code.
    """
    arrays: dict[str, Array] = {}
    return arrays, _flatten(state, "", arrays)


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
        while path in arrays:  # {"a/b": ..., "a": {"b": ...}}
            path += "+"
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


def encode_state(state: Any) -> bytes:
    """A state as bytes.

    Raises:
        StoreError: It holds what is neither array nor plain value.
        CodecError: It holds an array of texts or objects.
    """
    arrays, rest = flatten({_REST: state})
    return b"".join(pack(arrays, {_REST: json.dumps(rest)}))


def decode_state(content: bytes) -> Any:
    """What :func:`encode_state` was given, with lists for tuples; arrays may be written to.

    Raises CodecError where these are no such bytes.
    """
    try:
        (size,) = struct.unpack_from("<Q", content)
        arrays = load(content)  # checks all sizes
        text = json.loads(content[8 : 8 + size])[METADATA][_REST]
        return unflatten(arrays, json.loads(text))[_REST]
    except (SafetensorError, struct.error, LookupError, TypeError, ValueError, StoreError) as error:
        raise CodecError("a state that came", got=str(error), expected="safetensors") from error
