"""Named arrays in the safetensors format, to bytes and back.

The format is simple (https://huggingface.co/docs/safetensors): eight bytes with the length of
a JSON header, the header (``{name: {dtype, shape, data_offsets}, "__metadata__": {...}}``), and
the data. It is read and written here, not by the ``safetensors`` package, for two reasons.
Equal arrays must give equal bytes on every machine, because versions are named by the hash of
their bytes, and the package writes metadata in random order. And what comes over a wire is
checked against limits before anything is allocated. Tests hold the two against each other.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from user_core.errors import CodecError
from user_core.specs import MAX_DIMENSIONS, Array, Arrays

_NAMES = {
    "bool": "BOOL", "uint8": "U8", "int8": "I8", "uint16": "U16", "int16": "I16",
    "uint32": "U32", "int32": "I32", "uint64": "U64", "int64": "I64",
    "float16": "F16", "float32": "F32", "float64": "F64",
}  # fmt: skip
_DTYPES = {code: np.dtype(name).newbyteorder("<") for name, code in _NAMES.items()}
_METADATA = "__metadata__"
_ALIGNMENT = 8
_ENTRY_KEYS = {"dtype", "shape", "data_offsets"}


@dataclass(frozen=True)
class FileLimits:
    """What a decoder accepts at most.

    Attributes:
        tensors: Arrays.
        name_length: Characters of a name.
        header_bytes: Bytes of the JSON header, metadata included.
        total_bytes: Bytes of the whole.
    """

    tensors: int = 4096
    name_length: int = 256
    header_bytes: int = 4 * 2**20
    total_bytes: int = 2**31


DEFAULT_LIMITS = FileLimits()


def pack(arrays: Arrays, metadata: Mapping[str, str]) -> list[memoryview | bytes]:
    """Encode to pieces that make the file when joined; large arrays are views, not copies.

    The larger the element type, the earlier an array stands, so that each is aligned; within
    one type they are sorted by name. Raises CodecError for a dtype that safetensors lacks.
    """
    header: dict[str, Any] = {}
    pieces: list[memoryview | bytes] = []
    offset = 0
    for name in sorted(arrays, key=lambda n: (-arrays[n].dtype.itemsize, n)):
        array = arrays[name]
        code = _NAMES.get(array.dtype.name)
        if code is None or name == _METADATA or not name:
            raise CodecError(
                f"array {name!r}", got=array.dtype, expected=f"a name and one of {list(_NAMES)}"
            )
        flat = np.ascontiguousarray(array, _DTYPES[code])
        header[name] = {
            "dtype": code,
            "shape": list(array.shape),
            "data_offsets": [offset, offset + flat.nbytes],
        }
        offset += flat.nbytes
        pieces.append(flat.reshape(-1).view(np.uint8).data)
    header[_METADATA] = dict(metadata)
    text = json.dumps(header, sort_keys=True, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    return [struct.pack("<Q", len(text)) + text, *pieces]


def unpack(
    data: bytes | bytearray | memoryview, limits: FileLimits = DEFAULT_LIMITS, where: str = "file"
) -> tuple[dict[str, Array], dict[str, str]]:
    """Decode to read-only views of ``data``, and the metadata.

    Raises:
        CodecError: Not this format, cut off or with something behind it; an unknown dtype, a
            shape that does not agree with its bytes, arrays that overlap or leave gaps; or
            more than the limits allow.
    """
    view = memoryview(data).cast("B")
    if not 8 <= view.nbytes <= limits.total_bytes:
        raise CodecError(
            f"{where}: size", got=view.nbytes, expected=f"8 to {limits.total_bytes} bytes"
        )
    length = struct.unpack_from("<Q", view)[0]
    if length > min(view.nbytes - 8, limits.header_bytes):
        raise CodecError(
            f"{where}: length of the header",
            got=length,
            expected=f"at most {min(view.nbytes - 8, limits.header_bytes)}",
        )
    header = _parse(bytes(view[8 : 8 + length]), where)
    metadata = _metadata(header.pop(_METADATA, {}), where)
    if len(header) > limits.tensors:
        raise CodecError(f"{where}: arrays", got=len(header), expected=f"<= {limits.tensors}")
    body = view[8 + length :]
    places = {name: _place(name, entry, limits, where) for name, entry in header.items()}
    end = 0
    for name, (_, _, start, stop) in sorted(places.items(), key=lambda item: item[1][2:]):
        if start != end:
            raise CodecError(f"{where}: start of {name!r}", got=start, expected=end)
        end = stop
    if end != body.nbytes:
        raise CodecError(f"{where}: bytes of all arrays", got=body.nbytes, expected=end)
    return {
        name: _view(body[start:stop], dtype, shape)
        for name, (dtype, shape, start, stop) in places.items()
    }, metadata


def _view(data: memoryview, dtype: np.dtype[Any], shape: tuple[int, ...]) -> Array:
    array: Array = np.frombuffer(data, dtype).reshape(shape)
    array.flags.writeable = False
    return array


def _parse(text: bytes, where: str) -> dict[str, Any]:
    try:
        header = json.loads(text.decode("utf-8"), object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise CodecError(f"{where}: header", got=str(error)[:200], expected="JSON") from error
    if not isinstance(header, dict):
        raise CodecError(f"{where}: header", got=type(header).__name__, expected="a mapping")
    return header


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key occurs twice")
    return found


def _metadata(value: Any, where: str) -> dict[str, str]:
    if not isinstance(value, dict) or not all(isinstance(text, str) for text in value.values()):
        raise CodecError(f"{where}: metadata", expected="texts by name")
    return value


def _place(
    name: str, entry: Any, limits: FileLimits, where: str
) -> tuple[np.dtype[Any], tuple[int, ...], int, int]:
    """dtype, shape, first and last byte of one array, each checked."""
    what = f"{where}: array {name[:80]!r}"
    if not 0 < len(name) <= limits.name_length:
        raise CodecError(what, got=f"{len(name)} characters", expected=f"<= {limits.name_length}")
    if not isinstance(entry, dict) or entry.keys() != _ENTRY_KEYS:
        raise CodecError(what, got=str(entry)[:200], expected=f"keys {sorted(_ENTRY_KEYS)}")
    code, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(code, str) or code not in _DTYPES:
        raise CodecError(f"{what}: dtype", got=str(code)[:80], expected=f"one of {list(_DTYPES)}")
    if not _sizes(shape) or len(shape) > MAX_DIMENSIONS:
        raise CodecError(
            f"{what}: shape", got=str(shape)[:80], expected=f"at most {MAX_DIMENSIONS} sizes >= 0"
        )
    if not _sizes(offsets) or len(offsets) != 2:
        raise CodecError(f"{what}: offsets", got=str(offsets)[:80], expected="start and end")
    nbytes = _DTYPES[code].itemsize
    for size in shape:  # Python integers do not overflow
        nbytes *= size
    if offsets[1] - offsets[0] != nbytes or max(shape, default=0) > limits.total_bytes:
        raise CodecError(f"{what}: bytes", got=offsets[1] - offsets[0], expected=nbytes)
    return _DTYPES[code], tuple(shape), offsets[0], offsets[1]


def _sizes(value: Any) -> bool:
    return isinstance(value, list) and all(type(n) is int and n >= 0 for n in value)
