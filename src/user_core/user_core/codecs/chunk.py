"""The chunk codec: a trajectory chunk as one block of bytes, for outboxes and files.

Layout, little-endian::

    0   8  magic, the last byte is the version of this layout
    8   4  length H of the header, u32
    12  4  CRC-32 of everything from byte 16 on, u32
    16  H  header, JSON: identity, episode, result, and name, dtype and shape of each column
    ..     the columns in that order, each at a multiple of 64, its elements in C order

The columns are tensors of :mod:`user_core.codecs.tensor`, and go through its checks. Decoding
trusts nothing: sizes and the checksum come first, then every field; the arrays are read-only
views of the given bytes, so that a block costs no memory beyond its own, whatever it claims.
"""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, NoReturn

from user_core.codecs.tensor import DEFAULT_LIMITS, Limits, TensorRecord, decode, encode
from user_core.errors import CodecError
from user_core.types import (
    ChunkId,
    EpisodeKey,
    EpisodeResult,
    EpisodeSource,
    Outcome,
    TrajectoryChunk,
)

MAGIC = b"USERCHK\x01"
_PREFIX = struct.Struct("<8sII")
_CHECKED_FROM = _PREFIX.size
_ALIGNMENT = 64
_HEADER_BYTES = 2**20
_TEXT_LENGTH = 4096
_WHERE = "trajectory chunk"
_MISSING = object()


def encode_chunk(chunk: TrajectoryChunk) -> bytes:
    """Encode a chunk; copies each array once.

    Raises CodecError for a dtype without a code, or a result that is not finite.
    """
    records = encode(chunk.columns)
    try:
        text = json.dumps(_header(chunk, records), separators=(",", ":"), allow_nan=False)
    except (TypeError, ValueError) as error:  # a NaN return, a name that is no text
        raise CodecError(
            f"{_WHERE}: header", got=str(error), expected="plain finite values"
        ) from error
    header = text.encode()
    parts: list[bytes | memoryview] = [header]
    end = _CHECKED_FROM + len(header)
    for record in records:
        padding = -end % _ALIGNMENT
        parts += [bytes(padding), record.data]
        end += padding + record.data.nbytes
    checksum = 0
    for part in parts:
        checksum = zlib.crc32(part, checksum)
    return b"".join([_PREFIX.pack(MAGIC, len(header), checksum), *parts])


def decode_chunk(data: bytes | memoryview, limits: Limits = DEFAULT_LIMITS) -> TrajectoryChunk:
    """Decode a chunk to read-only views of ``data``.

    Args:
        data: What was read; not trusted.
        limits: What is accepted at most.

    Raises:
        CodecError: Not a chunk, of another version, cut short, damaged, too large, or a field
            that is missing, of the wrong type or out of range.
    """
    view = memoryview(data).cast("B")
    header_end = _check_block(view, limits)
    header = _parse(view[_CHECKED_FROM:header_end])
    columns = decode(_records(header, view, header_end), limits, where=_WHERE)
    _check_rows(columns)
    result = _get(header, "result", (dict, type(None)))
    return TrajectoryChunk(
        id=ChunkId(*_identity(header, "id")),
        episode=EpisodeKey(*_identity(header, "episode")),
        source=_enum(EpisodeSource, header, "source"),
        first_row=_integer(header, "first_row"),
        columns=columns,
        schema_hash=_text(header, "schema_hash"),
        result=None if result is None else _result(result),
        robot=_text(header, "robot"),
        task=_text(header, "task"),
    )


@dataclass
class _Column:
    """One column as the header describes it, with the bytes that belong to it; a TensorLike."""

    name: str
    dtype: int
    shape: Sequence[int]
    data: Any


def _header(chunk: TrajectoryChunk, records: list[TensorRecord]) -> dict[str, Any]:
    result = chunk.result
    if result is not None:
        result = replace(result, episode_return=float(result.episode_return))
    return {
        "id": [chunk.id.producer, chunk.id.incarnation, chunk.id.sequence],
        "episode": [chunk.episode.producer, chunk.episode.incarnation, chunk.episode.number],
        "source": int(chunk.source),
        "first_row": chunk.first_row,
        "schema_hash": chunk.schema_hash,
        "result": None if result is None else asdict(result),
        "robot": chunk.robot,
        "task": chunk.task,
        "columns": [[r.name, r.dtype, list(r.shape), r.data.nbytes] for r in records],
    }


def _check_block(view: memoryview, limits: Limits) -> int:
    """Check what does not need the header's content; return where the header ends."""
    if not _CHECKED_FROM <= len(view) <= limits.total_bytes + _HEADER_BYTES:
        _refuse("size", len(view), f"{_CHECKED_FROM} to {limits.total_bytes + _HEADER_BYTES} bytes")
    magic, header_bytes, checksum = _PREFIX.unpack_from(view)
    if magic != MAGIC:
        _refuse("first bytes", magic, MAGIC)
    header_end = _CHECKED_FROM + header_bytes
    if header_bytes > _HEADER_BYTES or header_end > len(view):
        _refuse("length of the header", header_bytes, f"at most {_HEADER_BYTES}, within the block")
    if zlib.crc32(view[_CHECKED_FROM:]) != checksum:
        _refuse("checksum", f"{zlib.crc32(view[_CHECKED_FROM:]):08x}", f"{checksum:08x}")
    return int(header_end)


def _parse(data: memoryview) -> dict[str, Any]:
    def no_constant(text: str) -> NoReturn:
        raise ValueError(f"{text} is not JSON")

    try:
        header = json.loads(bytes(data), parse_constant=no_constant)
    except (ValueError, RecursionError) as error:
        raise CodecError(f"{_WHERE}: header", got=str(error), expected="JSON") from error
    if not isinstance(header, dict):
        _refuse("header", type(header).__name__, "a mapping")
    return header


def _records(header: Mapping[str, Any], view: memoryview, end: int) -> list[_Column]:
    """Cut the block into columns as the header says; the last must end where the block ends."""
    records = []
    for entry in _get(header, "columns", list):
        if not isinstance(entry, list) or len(entry) != 4:
            _refuse("entry of a column", repr(entry)[:200], "[name, dtype, shape, bytes]")
        name, dtype, shape, nbytes = entry
        if not isinstance(shape, list) or not all(type(n) is int for n in shape):
            _refuse(f"shape of {name!r:.200}", repr(shape)[:200], "a list of integers")
        start = end + -end % _ALIGNMENT
        if type(nbytes) is not int or nbytes < 0 or start + nbytes > len(view):
            _refuse(f"bytes of {name!r:.200}", nbytes, f"at most {len(view) - start}")
        if type(dtype) is not int:
            _refuse(f"dtype of {name!r:.200}", repr(dtype)[:200], "a code")
        end = start + nbytes
        records.append(_Column(name, dtype, tuple(shape), view[start:end]))
    if end != len(view):
        _refuse("end of the block", len(view), f"{end} bytes")
    return records


def _check_rows(columns: Mapping[str, Any]) -> None:
    counts = {name: array.shape[0] if array.ndim else None for name, array in columns.items()}
    if "reward" not in counts or len(set(counts.values())) != 1 or None in counts.values():
        _refuse("rows of the columns", counts, "a column 'reward', and equally many rows in all")


def _identity(header: Mapping[str, Any], key: str) -> tuple[str, int, int]:
    entry = _get(header, key, list)
    if len(entry) != 3:
        _refuse(key, repr(entry)[:200], "[producer, incarnation, number]")
    named = {"producer": entry[0], "incarnation": entry[1], "number": entry[2]}
    return _text(named, "producer"), _integer(named, "incarnation"), _integer(named, "number")


def _result(data: Mapping[str, Any]) -> EpisodeResult:
    key = _get(data, "key", dict)
    return EpisodeResult(
        key=EpisodeKey(
            _text(key, "producer"), _integer(key, "incarnation"), _integer(key, "number")
        ),
        source=_enum(EpisodeSource, data, "source"),
        outcome=_enum(Outcome, data, "outcome"),
        length=_integer(data, "length"),
        episode_return=_get(data, "episode_return", float),
        interventions=_integer(data, "interventions"),
        first_version=_integer(data, "first_version"),
        last_version=_integer(data, "last_version"),
        start_ns=_integer(data, "start_ns"),
        end_ns=_integer(data, "end_ns"),
        reason=_text(data, "reason"),
    )


def _get(data: Mapping[str, Any], key: str, kind: type | tuple[type, ...]) -> Any:
    value = data.get(key, _MISSING)
    if isinstance(value, bool) or not isinstance(value, kind):
        came = "nothing" if value is _MISSING else repr(value)[:200]
        _refuse(key, came, f"a value of type {kind}")
    return value


def _integer(data: Mapping[str, Any], key: str) -> int:
    value: int = _get(data, key, int)
    if not 0 <= value < 2**63:
        _refuse(key, value, "0 to 2**63 - 1")
    return value


def _text(data: Mapping[str, Any], key: str) -> str:
    value: str = _get(data, key, str)
    if len(value) > _TEXT_LENGTH:
        _refuse(key, f"{len(value)} characters", f"at most {_TEXT_LENGTH}")
    return value


def _enum(kind: Any, data: Mapping[str, Any], key: str) -> Any:
    try:
        return kind(_integer(data, key))
    except ValueError as error:
        raise CodecError(
            f"{_WHERE}: {key}", got=data.get(key), expected=f"one of {[*map(int, kind)]}"
        ) from error


def _refuse(what: str, came: object, expected: object) -> NoReturn:
    raise CodecError(f"{_WHERE}: {what}", got=came, expected=expected)
