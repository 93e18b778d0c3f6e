"""Trajectories as bytes: chunks for outboxes and stores, episode files for exchange.

A chunk is one block of bytes. Layout, little-endian::

    0   8  magic, the last byte is the version of this layout
    8   4  length H of the header, u32
    12  4  CRC-32 of everything from byte 16 on, u32
    16  H  header, JSON: identity, episode, result, and name, dtype and shape of each column
    ..     the columns in that order, each at a multiple of 64, its elements in C order

The columns are tensors of :mod:`user_core.codecs.tensor`, and go through its checks. Decoding
trusts nothing: sizes and the checksum come first, then every field; the arrays are read-only
views of the given bytes, so that a block costs no memory beyond its own, whatever it claims.

Recorded episodes are kept in one portable file, for demonstrations and exchange: a zip archive of
``.npy`` arrays and JSON, so ``numpy.load(file)`` opens it anywhere without this package. Each
member carries a CRC-32, episodes are written and read one at a time, and nothing in it is executed
(no pickle)::

    dataset.json                    format, version, schema
    000000/episode.json             identity, source, robot, task, result, first row
    000000/observation.<name>.npy   one array (rows, ...) per column of the schema
    000001/...

The last row of an episode is its final observation, see
:class:`~user_core.types.TrajectorySchema`.
"""

from __future__ import annotations

import json
import os
import struct
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import IO, Any, NoReturn

import numpy as np
from numpy.lib import format as npy_format

from user_core.codecs.tensor import DEFAULT_LIMITS, Limits, TensorRecord, decode, encode
from user_core.errors import CodecError, SpecError
from user_core.runtime.files import replace_durably
from user_core.specs import Array, ArraySpec, RobotSpec
from user_core.types import (
    ChunkId,
    EpisodeKey,
    EpisodeResult,
    EpisodeSource,
    Outcome,
    TrajectoryChunk,
    TrajectorySchema,
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
        reason_code=_text({"reason_code": "", **data}, "reason_code"),  # older data has none
        takeovers=_integer({"takeovers": 0, **data}, "takeovers"),
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


FORMAT = "user-episodes"
VERSION = 1
_DATASET = "dataset.json"
_EPISODE = "episode.json"
_JSON_BYTES = 2**20
_npy: Any = npy_format  # it has no types
_EPOCH = (1980, 1, 1, 0, 0, 0)  # equal content gives equal files


@dataclass(frozen=True)
class RecordedEpisode:
    """An episode, or what is left of one, with its rows.

    Attributes:
        key: Identity.
        source: Why it was recorded.
        columns: Rows by column, (n, ...), consecutive.
        result: Its result; None where it is not known.
        robot: Name of the robot.
        task: Name of the task.
        first_row: Index of the first row within the episode.
    """

    key: EpisodeKey
    source: EpisodeSource
    columns: Mapping[str, Array]
    result: EpisodeResult | None = None
    robot: str = ""
    task: str = ""
    first_row: int = 0

    def __len__(self) -> int:
        return len(self.columns["reward"])


def is_episode_file(path: Path) -> bool:
    """Whether there is a file of this name that :class:`EpisodeFileWriter` wrote, as far as a quick look tells."""
    if not path.is_file() or not zipfile.is_zipfile(path):
        return False
    try:
        with zipfile.ZipFile(path) as archive:
            return _DATASET in archive.namelist()
    except zipfile.BadZipFile:  # it only ends as one does
        return False


def _refuse_another_kind(path: Path) -> None:
    if not path.exists() or is_episode_file(path):
        return
    raise CodecError(
        f"episode file {path}",
        got="a folder of this name" if path.is_dir() else "a file of this name, of another kind",
        expected="a name that is not taken, or an episode file to replace", hint="Nothing was written",
    )  # fmt: skip


class EpisodeFileWriter:
    """Writes an episode file. It appears under its name when it is complete.

    Args:
        path: The file. An episode file of this name is replaced.
        schema: Schema of all its episodes.
        compress: Whether to deflate; images hardly shrink, and it is slow.
        meaning: What the numbers mean; None when that is not known.

    Raises:
        CodecError: Something else than an episode file has this name: it stays as it is.
        OSError: The file cannot be made.
    """

    def __init__(
        self,
        path: str | Path,
        schema: TrajectorySchema,
        compress: bool = False,
        meaning: RobotSpec | None = None,
    ) -> None:
        self._path, self._schema = Path(path), schema
        _refuse_another_kind(self._path)
        self._partial = self._path.with_name(f".{self._path.name}.{os.getpid()}.part")
        self._method = zipfile.ZIP_DEFLATED if compress else zipfile.ZIP_STORED
        self._archive = zipfile.ZipFile(self._partial, "w")
        self._count = 0
        head = {"format": FORMAT, "version": VERSION, "schema": schema.to_dict()}
        if meaning is not None:  # readers of before pass over it
            head["meaning"] = meaning.to_dict()
        self._write_json(_DATASET, head)

    def __enter__(self) -> EpisodeFileWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._archive.close()
        if kind is not None:
            self._partial.unlink(missing_ok=True)
            return
        replace_durably(self._partial, self._path)

    def __len__(self) -> int:
        return self._count

    def add(self, episode: RecordedEpisode) -> None:
        """Append an episode. Raises SpecError unless its columns are of the schema."""
        self._schema.check(episode.columns)
        folder = f"{self._count:06d}"
        self._write_json(
            f"{folder}/{_EPISODE}",
            {
                "key": asdict(episode.key),
                "source": int(episode.source),
                "robot": episode.robot,
                "task": episode.task,
                "first_row": episode.first_row,
                "result": None if episode.result is None else asdict(episode.result),
            },
        )
        for name, array in episode.columns.items():
            with self._open(f"{folder}/{name}.npy") as member:
                _npy.write_array(member, np.ascontiguousarray(array), allow_pickle=False)
        self._count += 1

    def _write_json(self, name: str, data: Mapping[str, Any]) -> None:
        with self._open(name) as member:
            member.write(json.dumps(data, allow_nan=False).encode())

    def _open(self, name: str) -> IO[bytes]:
        info = zipfile.ZipInfo(name, _EPOCH)
        info.compress_type = self._method
        return self._archive.open(info, "w", force_zip64=True)


class EpisodeFileReader:
    """Reads an episode file that need not be trusted, one episode at a time.

    Raises:
        CodecError: It is no episode file, of another version, or damaged.
    """

    def __init__(self, path: str | Path) -> None:
        self._path = Path(path)
        try:
            self._archive = zipfile.ZipFile(self._path)
        except (OSError, zipfile.BadZipFile, RuntimeError) as error:
            raise CodecError(
                f"episode file {path}", got=str(error), expected="a zip archive"
            ) from error
        try:
            head = self._read_json(_DATASET)
            if head.get("format") != FORMAT or head.get("version") != VERSION:
                raise CodecError(
                    f"episode file {path}",
                    got=f"format {head.get('format')!r}, version {head.get('version')!r}",
                    expected=f"{FORMAT!r}, version {VERSION}",
                )
            self.schema = TrajectorySchema.from_dict(head["schema"])
            meaning = head.get("meaning")
            #: What the numbers mean; None where the file does not say.
            self.meaning = None if meaning is None else RobotSpec.from_dict(meaning)
        except (KeyError, AttributeError, TypeError, SpecError) as error:
            self._archive.close()
            raise self._damaged(_DATASET, error) from error
        except CodecError:
            self._archive.close()
            raise
        names = [name.split("/") for name in self._archive.namelist()]
        self._folders = sorted({n[0] for n in names if len(n) == 2 and n[1] == _EPISODE})
        headless = sorted({n[0] for n in names if len(n) > 1} - set(self._folders))
        if headless:  # a damaged name in the archive's directory must not hide an episode
            self._archive.close()
            raise self._damaged(headless[0], KeyError(_EPISODE))

    def __enter__(self) -> EpisodeFileReader:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._archive.close()

    def __len__(self) -> int:
        return len(self._folders)

    def __iter__(self) -> Iterator[RecordedEpisode]:
        """The episodes; raises CodecError at one that is damaged or not of the schema."""
        for folder in self._folders:
            yield self._episode(folder)

    def _episode(self, folder: str) -> RecordedEpisode:
        values = self._read_json(f"{folder}/{_EPISODE}")
        try:
            result = values["result"]
            episode = RecordedEpisode(
                key=_key(values["key"]),
                source=EpisodeSource(values["source"]),
                columns=self._columns(folder),
                result=None if result is None else _episode_result(result),
                robot=str(values["robot"]),
                task=str(values["task"]),
                first_row=int(values["first_row"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            if isinstance(error, (CodecError, SpecError)):
                raise
            raise self._damaged(f"{folder}/{_EPISODE}", error) from error
        return episode

    def _columns(self, folder: str) -> dict[str, Array]:
        columns: dict[str, Array] = {}
        rows: int | None = None
        for name, spec in self.schema.columns.items():
            array = self._read_array(f"{folder}/{name}.npy", spec, rows)
            rows = len(array)
            columns[name] = array
        return columns

    def _read_array(self, name: str, spec: ArraySpec, rows: int | None) -> Array:
        """Read one array, after its header and size were found to be right."""
        try:
            info = self._archive.getinfo(name)
            with self._archive.open(info) as member:
                version = _npy.read_magic(member)
                if version != (1, 0):
                    raise ValueError(f"version {version} of an array")
                shape, fortran, dtype = _npy.read_array_header_1_0(member)
                wanted = (shape[0] if rows is None and shape else rows, *spec.shape)
                if shape != wanted or dtype != np.dtype(spec.dtype) or fortran:
                    raise ValueError(f"{dtype}{list(shape)}, not {spec.dtype}{list(wanted)}")
                nbytes = shape[0] * spec.nbytes
                if nbytes > info.file_size:
                    raise ValueError(f"{info.file_size} bytes for {nbytes}")
                data = member.read(nbytes + 1)
        except (KeyError, OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error,
                RuntimeError) as error:  # fmt: skip
            raise self._damaged(name, error) from error
        if len(data) != nbytes:
            raise self._damaged(name, ValueError(f"{len(data)} bytes for {nbytes}"))
        return np.frombuffer(data, dtype).reshape(shape) if data else np.empty(shape, dtype)

    def _read_json(self, name: str) -> dict[str, Any]:
        try:
            info = self._archive.getinfo(name)
            if info.file_size > _JSON_BYTES:
                raise ValueError(f"{info.file_size} bytes")
            data = json.loads(self._archive.read(info))
        except (KeyError, OSError, ValueError, RecursionError, EOFError, zipfile.BadZipFile,
                zlib.error, RuntimeError) as error:  # fmt: skip
            raise self._damaged(name, error) from error
        if not isinstance(data, dict):
            raise self._damaged(name, TypeError(f"a {type(data).__name__}, not a mapping"))
        return data

    def _damaged(self, member: str, error: Exception) -> CodecError:
        return CodecError(
            f"{member} in episode file {self._path}",
            got=f"{type(error).__name__}: {error}",
            expected=f"a whole {FORMAT} file, version {VERSION}",
        )


def _key(data: Mapping[str, Any]) -> EpisodeKey:
    return EpisodeKey(str(data["producer"]), int(data["incarnation"]), int(data["number"]))


def _episode_result(data: Mapping[str, Any]) -> EpisodeResult:
    numbers = ("length", "interventions", "first_version", "last_version", "start_ns", "end_ns")
    integers: dict[str, Any] = {name: int(data[name]) for name in numbers}
    return EpisodeResult(
        key=_key(data["key"]),
        source=EpisodeSource(data["source"]),
        outcome=Outcome(data["outcome"]),
        episode_return=float(data["episode_return"]),
        reason=str(data["reason"]),
        reason_code=str(data.get("reason_code", "")),  # older files have none
        takeovers=int(data.get("takeovers", 0)),
        **integers,
    )
