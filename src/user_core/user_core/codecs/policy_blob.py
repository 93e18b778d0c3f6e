"""Policy versions as they travel: complete (keyframe), or against one that a robot has (delta).

Lossless both: what is decoded has the content hash of what was encoded. Layout, little-endian::

    0   8  magic, the last byte is the version of this layout
    8   4  bytes of the header as it stands here, u32
    12  4  bytes of the header decompressed, u32
    16     header: JSON in a zstd frame; numbers, hashes, and in a keyframe the arrays' layout
    ..     the elements of all arrays of 8, 4, 2 and 1 byte, each kind one vector in the order of
           the names, see ``codecs.blocks``; so many small arrays cost no more than one large one

At rest a version is a safetensors file (:mod:`user_core.codecs.weights`), which other tools
read; this form exists because it is smaller. Nothing in it is trusted: hashes are compared, and
memory is allocated for what the limits allow only.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import zstandard

from user_core.codecs.blocks import BlockCoder, Pieces, unpack_frame
from user_core.codecs.weights import check_identity, content_hash
from user_core.errors import CodecError, PolicyError
from user_core.specs import DTYPES, MAX_DIMENSIONS, Array
from user_core.types import PolicyVersion

MAGIC = b"USERPOL\x01"
_PREFIX = struct.Struct("<8sII")
_NUMBERS = ("number", "update", "environment_steps", "created_ns")
_WHERE = "policy blob"
_UNSIGNED: dict[int, np.dtype[Any]] = {
    8: np.dtype("<u8"),
    4: np.dtype("<u4"),
    2: np.dtype("<u2"),
    1: np.dtype("u1"),
}
_Entry = tuple[str, np.dtype[Any], tuple[int, ...]]


@dataclass(frozen=True)
class BlobLimits:
    """What a decoder accepts at most.

    Attributes:
        tensors: Arrays.
        name_length: Characters of a name.
        header_bytes: Bytes of the header, decompressed.
        total_bytes: Bytes of all arrays.
    """

    tensors: int = 4096
    name_length: int = 256
    header_bytes: int = 2**20
    total_bytes: int = 2**30


DEFAULT_LIMITS = BlobLimits()


@dataclass(frozen=True)
class _Header:
    numbers: dict[str, int]
    config_hash: str
    content_hash: str
    base: int
    base_hash: str
    arrays: list[Any] | None


def encode_keyframe(version: PolicyVersion, name: str = "") -> bytes:
    """A complete version; ``name`` is its content hash where the caller knows it."""
    header = {**_identity(version, name), "arrays": _layout(version.arrays)}
    return _join(header, version.arrays, {})


def encode_delta(
    version: PolicyVersion, base: PolicyVersion, name: str = "", base_name: str = ""
) -> bytes | None:
    """A version for those who have ``base``; None where their arrays are not of one layout.

    ``name`` and ``base_name`` are the content hashes where the caller knows them.
    """
    if _layout(version.arrays) != _layout(base.arrays):
        return None
    header = {
        **_identity(version, name),
        "base": base.number,
        "base_hash": base_name or content_hash(base),
    }
    return _join(header, version.arrays, base.arrays)


def decode_blob(
    data: bytes | bytearray | memoryview,
    *,
    base: PolicyVersion | None = None,
    base_name: str = "",
    config_hash: str | None = None,
    expected_hash: str | None = None,
    limits: BlobLimits = DEFAULT_LIMITS,
) -> PolicyVersion:
    """Decode and verify; the arrays are new and read-only, ``base`` stays as it is.

    Args:
        data: What came; not trusted.
        base: The version that a delta may build on.
        base_name: Its content hash, where the caller knows it.
        config_hash: The configuration it must be for; None takes any.
        expected_hash: The content hash that was announced; None trusts the one inside.
        limits: What is accepted at most; ``total_bytes`` bounds the decoded arrays.

    Raises:
        CodecError: Not such a blob, or damaged in form.
        PolicyError: Wrong hash, foreign configuration, or a delta on another base.
    """
    view = memoryview(data).cast("B")
    header, start = _read_header(view, limits)
    number = header.numbers["number"]
    if expected_hash is not None and header.content_hash != expected_hash:
        raise PolicyError(
            f"content hash of policy version {number}",
            got=header.content_hash[:80],
            expected=expected_hash,
        )
    if header.arrays is not None:
        layout, before = _checked(header.arrays, limits), None
    else:
        before = _require_base(header, base, base_name)
        layout = [(n, a.dtype, a.shape) for n, a in sorted(before.arrays.items())]
    arrays, start = _decode_arrays(view, start, layout, before)
    if start != len(view):
        raise CodecError(f"{_WHERE}: end", got=f"{len(view)} bytes", expected=start)
    version = PolicyVersion(arrays=arrays, config_hash=header.config_hash, **header.numbers)
    check_identity(version, header.content_hash, expected_hash, config_hash)
    return version


def _identity(version: PolicyVersion, name: str) -> dict[str, Any]:
    return {
        **{key: getattr(version, key) for key in _NUMBERS},
        "config_hash": version.config_hash,
        "content_hash": name or content_hash(version),
    }


def _join(header: dict[str, Any], arrays: Mapping[str, Array], base: Mapping[str, Array]) -> bytes:
    coder = BlockCoder()
    pieces: Pieces = []
    before = _vectors(base)
    for width, vectors in _vectors(arrays).items():
        pieces += coder.encode(vectors, before[width] if base else None)
    plain = json.dumps(header, separators=(",", ":")).encode()
    packed = zstandard.ZstdCompressor(level=9).compress(plain)
    return b"".join([_PREFIX.pack(MAGIC, len(packed), len(plain)), packed, *pieces])


def _vectors(arrays: Mapping[str, Array]) -> dict[int, list[Array]]:
    """By bytes a number: all elements as unsigned integers, little-endian, in the names' order,
    a vector an array; copies only where that is not how they lie."""
    parts: dict[int, list[Array]] = {width: [] for width in _UNSIGNED}
    for _, array in sorted(arrays.items()):
        dtype = array.dtype
        if dtype.byteorder == ">" or not array.flags.c_contiguous:
            array = np.ascontiguousarray(array, dtype.newbyteorder("<"))
        parts[dtype.itemsize].append(array.reshape(-1).view(_UNSIGNED[dtype.itemsize]))
    return parts


def _decode_arrays(
    view: memoryview, start: int, layout: list[_Entry], before: PolicyVersion | None
) -> tuple[dict[str, Array], int]:
    """The arrays, and where they end."""
    coder, arrays = BlockCoder(), dict[str, Array]()
    base = None if before is None else _vectors(before.arrays)
    for width, unsigned in _UNSIGNED.items():
        entries = [entry for entry in layout if entry[1].itemsize == width]
        flat = np.empty(sum(_count(shape) for _, _, shape in entries), unsigned)
        start += coder.decode(view[start:], flat, None if base is None else base[width])
        at = 0
        for name, dtype, shape in entries:
            end = at + _count(shape)
            arrays[name] = _typed(flat[at:end], dtype, shape, name)
            at = end
    return {name: arrays[name] for name, _, _ in layout}, start


def _typed(flat: Array, dtype: np.dtype[Any], shape: tuple[int, ...], name: str) -> Array:
    if dtype == np.bool_ and flat.size and flat.max() > 1:
        raise CodecError(f"{_WHERE}: elements of {name[:80]!r}", got=flat.max(), expected="0 or 1")
    array: Array = flat.view(dtype).reshape(shape)
    array.flags.writeable = False
    return array


def _layout(arrays: Mapping[str, Array]) -> list[tuple[str, str, tuple[int, ...]]]:
    return [(n, _dtype_name(a.dtype), a.shape) for n, a in sorted(arrays.items())]


@lru_cache  # numpy makes the name anew each time, which costs more than coding a small array
def _dtype_name(dtype: np.dtype[Any]) -> str:
    if dtype.name not in DTYPES:
        raise CodecError("dtype of a policy's array", got=dtype, expected=f"one of {DTYPES}")
    return dtype.name


def _require_base(header: _Header, base: PolicyVersion | None, base_name: str) -> PolicyVersion:
    have = "" if base is None else base_name or content_hash(base)
    if base is None or have != header.base_hash:
        raise PolicyError(
            f"base of policy version {header.numbers['number']}",
            got="none" if base is None else f"version {base.number} ({have[:16]})",
            expected=f"version {header.base} ({header.base_hash[:16]})",
            hint="Fetch its keyframe",
        )
    return base


def _read_header(view: memoryview, limits: BlobLimits) -> tuple[_Header, int]:
    if not _PREFIX.size <= len(view) <= limits.total_bytes + limits.header_bytes:
        raise CodecError(f"{_WHERE}: size", got=len(view), expected=f"<= {limits.total_bytes}")
    magic, packed, plain = _PREFIX.unpack_from(view)
    end = _PREFIX.size + packed
    if magic != MAGIC:
        raise CodecError(f"{_WHERE}: first bytes", got=magic, expected=MAGIC)
    if end > len(view) or plain > limits.header_bytes:
        raise CodecError(
            f"{_WHERE}: size of the header",
            got=f"{packed} bytes for {plain}",
            expected=f"within {len(view)} bytes, for at most {limits.header_bytes}",
        )
    try:
        text = unpack_frame(view[_PREFIX.size : end], plain)
        fields = json.loads(text)
        header = _Header(
            {key: _whole(fields[key], key) for key in _NUMBERS},
            _text(fields["config_hash"]),
            _text(fields["content_hash"]),
            _whole(fields.get("base", 0), "base"),
            _text(fields.get("base_hash", "")),
            fields.get("arrays"),
        )
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CodecError(
            f"{_WHERE}: header", got=repr(error)[:200], expected="numbers, hashes and layout"
        ) from error
    if (header.arrays is None) == (header.base_hash == ""):
        raise CodecError(f"{_WHERE}: header", expected="either a layout or a base")
    return header, end


def _whole(value: Any, what: str) -> int:
    if type(value) is not int or not 0 <= value < 2**63:
        raise ValueError(f"{what} is {str(value)[:80]}")
    return value


def _text(value: Any) -> str:
    if not isinstance(value, str) or len(value) > 200:
        raise ValueError(f"a hash is {str(value)[:80]}")
    return value


def _checked(entries: list[Any], limits: BlobLimits) -> list[_Entry]:
    """The layout of a keyframe, each entry checked, and their sum against the limits."""
    if not isinstance(entries, list) or len(entries) > limits.tensors:
        raise CodecError(f"{_WHERE}: arrays", expected=f"a list of at most {limits.tensors}")
    layout, total, last = [], 0, ""
    for entry in entries:
        if not _is_entry(entry, limits) or entry[0] <= last:
            raise CodecError(
                f"{_WHERE}: layout of an array",
                got=str(entry)[:200],
                expected=f"[name, dtype, shape] in the order of the names, after {last[:80]!r}",
            )
        last, shape, dtype = entry[0], tuple(entry[2]), np.dtype(entry[1]).newbyteorder("<")
        total += _count(shape) * dtype.itemsize  # Python integers do not overflow
        if total > limits.total_bytes or max(shape, default=0) > limits.total_bytes:
            raise CodecError(
                f"{_WHERE}: bytes of all arrays", got=total, expected=f"<= {limits.total_bytes}"
            )
        layout.append((last, dtype, shape))
    return layout


def _is_entry(entry: Any, limits: BlobLimits) -> bool:
    return (
        isinstance(entry, list)
        and len(entry) == 3
        and isinstance(entry[0], str)
        and 0 < len(entry[0]) <= limits.name_length
        and entry[1] in DTYPES
        and isinstance(entry[2], list)
        and len(entry[2]) <= MAX_DIMENSIONS
        and all(type(n) is int and n >= 0 for n in entry[2])
    )


def _count(shape: tuple[int, ...]) -> int:
    count = 1
    for n in shape:
        count *= n
    return count


def to_bfloat16(array: Array) -> Array:
    """Round float32 to the nearest bfloat16, ties to even; the result is float32 still.

    numpy has no bfloat16, and what comes out needs none: it computes like any float32, and the
    policy codec (:mod:`user_core.codecs.blocks`) sends it in half the bytes. Other types are
    returned as they are. Infinities and NaN stay what they are.
    """
    if array.dtype != np.float32:
        return array
    bits = np.ascontiguousarray(array).view(np.uint32)
    rounded = bits + np.uint32(0x7FFF) + ((bits >> 16) & 1)
    rounded &= np.uint32(0xFFFF0000)
    special = ~np.isfinite(array)
    result: Array = rounded.view(np.float32).reshape(array.shape)
    if special.any():
        result[special] = array[special]
    return result
