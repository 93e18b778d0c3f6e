"""Named arrays in safetensors files, and policy versions among them, named by their content.

Files are read by the ``safetensors`` package, which checks every size against the file before it
allocates, and executes nothing. They are written here, in twenty lines, because the package copies
all arrays to do so, takes no part in an atomic write (:mod:`user_core.runtime.files`), reports a full
disk as text, and writes metadata in random order: equal versions must give equal bytes.

Number, configuration hash, update, environment steps and time of creation of a version stand in
the metadata, with a SHA-256 over them and over every array. So a version cannot be damaged, mixed
up or taken for another without being refused.
"""

from __future__ import annotations

import hashlib
import json
import struct
import weakref
from collections.abc import Mapping
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open

from user_core.errors import CodecError, PolicyError
from user_core.specs import Array, Arrays
from user_core.types import PolicyVersion

_CODES = {
    "bool": "BOOL", "uint8": "U8", "int8": "I8", "uint16": "U16", "int16": "I16",
    "uint32": "U32", "int32": "I32", "uint64": "U64", "int64": "I64",
    "float16": "F16", "float32": "F32", "float64": "F64",
}  # fmt: skip
#: Under this name metadata stand in the header.
METADATA = "__metadata__"
_ALIGNMENT = 8


def pack(arrays: Arrays, metadata: Mapping[str, str]) -> list[memoryview | bytes]:
    """Encode to pieces that make the file when joined; large arrays are views, not copies.

    The larger the element type, the earlier an array stands, so that each is aligned; within
    one type they are sorted by name. Raises CodecError for a dtype that safetensors lacks.
    """
    header: dict[str, Any] = {}
    pieces: list[memoryview | bytes] = []
    offset = 0
    for name in packing_order(arrays):
        array = arrays[name]
        code = _CODES.get(array.dtype.name)
        if code is None or name == METADATA or not name:
            raise CodecError(
                f"array {name!r}", got=array.dtype, expected=f"a name and one of {list(_CODES)}"
            )
        flat = _little_endian(array)
        header[name] = {
            "dtype": code,
            "shape": list(array.shape),
            "data_offsets": [offset, offset + flat.nbytes],
        }
        offset += flat.nbytes
        pieces.append(flat.data)
    header[METADATA] = dict(metadata)
    text = json.dumps(header, sort_keys=True, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    return [struct.pack("<Q", len(text)) + text, *pieces]


def packing_order(arrays: Arrays) -> list[str]:
    """The names in the order in which :func:`pack` writes the arrays."""
    return sorted(arrays, key=lambda name: (-arrays[name].dtype.itemsize, name))


def read_arrays(path: Path) -> tuple[dict[str, Array], dict[str, str]]:
    """The arrays of a safetensors file, which are read-only, and its metadata.

    Raises:
        CodecError: It is no such file, is cut off, or has arrays of types that numpy lacks.
        OSError: It cannot be read.
    """
    try:
        # not mapped into memory: then a disk that cannot be read would end the process
        with safe_open(path, framework="np", backend="pread") as file:
            arrays, metadata = file.get_tensors(), file.metadata() or {}
    except SafetensorError as error:
        raise CodecError(f"{path.name}", got=str(error), expected="a safetensors file") from error
    except (AttributeError, TypeError) as error:
        raise CodecError(f"{path.name}: dtype", got=str(error), expected=list(_CODES)) from error
    for array in arrays.values():
        array.flags.writeable = False
    return arrays, metadata


def array_bytes(array: Array) -> memoryview:
    """The elements of an array as a file holds them, little-endian."""
    return _little_endian(array).data


def _little_endian(array: Array) -> Array:
    """The elements as bytes, in C order."""
    flat: Array = np.ascontiguousarray(array, array.dtype.newbyteorder("<")).reshape(-1)
    return flat.view(np.uint8)


FORMAT = "user.policy.1"
_NUMBERS = ("number", "update", "environment_steps", "created_ns")


def content_hash(version: PolicyVersion) -> str:
    """SHA-256, hexadecimal, over numbers, configuration hash and arrays of a version. Of a large one whose arrays
    cannot be written to it is computed once: that takes a second for each 2 GB."""
    known = _KNOWN.get(id(version))
    if known is not None and known[0]() is version:
        return known[1]
    found = _hash_of(version)
    arrays = version.arrays.values()
    large = sum(array.nbytes for array in arrays) >= _LARGE_BYTES
    if large and not any(array.flags.writeable for array in arrays):
        forget = partial(_forget, id(version))
        _KNOWN[id(version)] = weakref.ref(version, forget), found
    return found


def _forget(key: int, gone: weakref.ref[PolicyVersion]) -> None:
    known = _KNOWN.get(key)
    if known is not None and known[0] is gone:  # not of another that lies there now
        del _KNOWN[key]


#: Hashes of large versions that cannot change, for as long as these are there.
_KNOWN: dict[int, tuple[weakref.ref[PolicyVersion], str]] = {}
_LARGE_BYTES = 1 << 26


def _hash_of(version: PolicyVersion) -> str:
    described = {
        "format": FORMAT,
        "config_hash": version.config_hash,
        **{name: getattr(version, name) for name in _NUMBERS},
        "arrays": [[n, _dtype_name(a.dtype), a.shape] for n, a in sorted(version.arrays.items())],
    }
    digest = hashlib.sha256(json.dumps(described, sort_keys=True).encode())
    for _, array in sorted(version.arrays.items()):
        digest.update(array_bytes(array))
    return digest.hexdigest()


@lru_cache  # numpy makes the name anew each time, which takes longer than hashing a small array
def _dtype_name(dtype: np.dtype[Any]) -> str:
    return dtype.name


def encode_version(version: PolicyVersion) -> bytes:
    """A version as a safetensors file; equal versions give equal bytes."""
    return b"".join(version_pieces(version))


def version_pieces(version: PolicyVersion) -> list[memoryview | bytes]:
    """What :func:`encode_version` gives, in pieces, of which the large ones are no copies."""
    metadata = {name: str(getattr(version, name)) for name in _NUMBERS}
    metadata |= {
        "format": FORMAT,
        "config_hash": version.config_hash,
        "content_hash": content_hash(version),
    }
    return pack(version.arrays, metadata)


def read_version(
    path: Path,
    *,
    config_hash: str | None = None,
    expected_hash: str | None = None,
    layout: Mapping[str, Array] | None = None,
) -> PolicyVersion:
    """Read and verify; the arrays are read-only.

    Args:
        path: The file; not trusted.
        config_hash: The configuration it must be for
            (:func:`user_core.policies.policy_config_hash`); None takes any.
        expected_hash: The content hash that was announced; None trusts the one inside.
        layout: If given, the arrays must have exactly these names, shapes and dtypes.

    Raises:
        CodecError: Not a policy version, or damaged in form.
        PolicyError: Wrong hash, foreign configuration, or arrays that do not fit ``layout``.
        OSError: It cannot be read.
    """
    arrays, metadata = read_arrays(path)
    if metadata.get("format") != FORMAT:
        raise CodecError("policy version: format", got=metadata.get("format"), expected=FORMAT)
    try:
        numbers = {name: int(metadata[name]) for name in _NUMBERS}
        stated, made_for = metadata["content_hash"], metadata["config_hash"]
    except (KeyError, ValueError) as error:
        raise CodecError(
            "policy version: metadata", got=repr(error)[:200], expected=list(_NUMBERS)
        ) from error
    if not all(0 <= number < 2**63 for number in numbers.values()):
        raise CodecError("policy version: metadata", got=numbers, expected="0 to 2^63 - 1")
    version = PolicyVersion(arrays=arrays, config_hash=made_for, **numbers)
    check_identity(version, stated, expected_hash, config_hash)
    if layout is not None:
        _check_layout(version, layout)
    return version


def check_identity(
    version: PolicyVersion, stated: str, expected_hash: str | None, config_hash: str | None
) -> None:
    """Raise PolicyError unless a decoded version is what it says, and what is wanted.

    Args:
        version: What was decoded.
        stated: The content hash that came with it.
        expected_hash: The content hash that was announced; None trusts ``stated``.
        config_hash: The configuration it must be for; None takes any.
    """
    found = content_hash(version)
    if found != stated or (expected_hash is not None and found != expected_hash):
        raise PolicyError(
            f"content hash of policy version {version.number}",
            got=found,
            expected=stated if expected_hash is None else expected_hash,
            hint="It was damaged on the way: fetch it again",
        )
    if config_hash is not None and version.config_hash != config_hash:
        raise PolicyError(
            f"configuration of policy version {version.number}",
            got=version.config_hash[:200],
            expected=config_hash,
            hint="Actor and learner must have the same policy configuration and robot spec",
        )


def _check_layout(version: PolicyVersion, layout: Mapping[str, Array]) -> None:
    came = {name: f"{a.dtype}{list(a.shape)}" for name, a in version.arrays.items()}
    wanted = {name: f"{a.dtype}{list(a.shape)}" for name, a in layout.items()}
    if came != wanted:
        wrong = {n: came.get(n) for n in came.keys() | wanted if came.get(n) != wanted.get(n)}
        raise PolicyError(
            f"arrays of policy version {version.number}",
            got=wrong,
            expected={name: wanted.get(name) for name in wrong},
        )
