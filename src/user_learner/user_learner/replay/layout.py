"""How rows lie on disk: the schema of a store, its column files, and the log of a segment.

Equal schemas have equal layouts on every machine, so that the index needs to hold the schema
only. The log of a segment, one line per piece of a chunk, holds what the index says of its
rows: from the logs alone a lost index is written again (:mod:`user_learner.replay.recovery`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any
from urllib.parse import quote

import numpy as np

from user_core.codecs.lines import decode_line, encode_line
from user_core.errors import SchemaMismatch, StoreCorrupt
from user_core.specs import Array, Arrays, ArraySpec, RobotSpec, difference
from user_core.types import (
    ChunkId,
    EpisodeKey,
    EpisodeResult,
    EpisodeSource,
    Outcome,
    TrajectoryChunk,
    TrajectorySchema,
)


def schema_of(columns: Arrays) -> TrajectorySchema:
    """Shapes and dtypes of the columns of a chunk, as far as they can be a schema."""
    return TrajectorySchema(
        {name: ArraySpec(array.shape[1:], array.dtype.name) for name, array in columns.items()}
    )


def schema_difference(stored: TrajectorySchema, other: TrajectorySchema) -> list[str]:
    """How two schemas differ in what counts: names, shapes and dtypes. Empty when they fit."""

    def plain(schema: TrajectorySchema) -> dict[str, dict[str, str]]:
        return {
            name: {"shape": str(list(spec.shape)), "dtype": spec.dtype}
            for name, spec in schema.required.columns.items()
        }

    return difference(plain(stored), plain(other))


def require_same_schema(stored: TrajectorySchema, other: TrajectorySchema, what: str) -> None:
    """Raise SchemaMismatch, with every difference, unless two schemas fit."""
    lines = schema_difference(stored, other)
    if lines:
        raise SchemaMismatch(
            f"schema of {what} (first: the store, second: {what})",
            got="; ".join(lines),
            expected="the schema of the store",
            hint="Keep robots with other observations or actions in a store of their own",
        )


def schema_from_chunk(chunk: TrajectoryChunk) -> TrajectorySchema:
    """The schema of a store that has none yet, from its first chunk."""
    any_robot = RobotSpec("any", {"any": ArraySpec(())}, ArraySpec((1,)))
    fixed = TrajectorySchema.of(any_robot, plans=True)
    schema, optional = (
        schema_of(chunk.columns),
        fixed.columns.keys() - fixed.required.columns.keys(),
    )
    required = {
        n: s
        for n, s in fixed.required.columns.items()
        if "." not in n and "action" not in n.split("_")
    }
    given = {name: schema.columns[name] for name in required if name in schema.columns}
    require_same_schema(TrajectorySchema(required), TrajectorySchema(given), "the first chunk")
    for name in optional & schema.columns.keys():
        got, wanted = schema.columns[name], fixed.columns[name]
        if (got.shape, got.dtype) != (wanted.shape, wanted.dtype):
            raise SchemaMismatch(
                f"column {name!r} of the first chunk", got=f"{got.dtype}{list(got.shape)}",
                expected=f"{wanted.dtype}{list(wanted.shape)}, or none",
            )  # fmt: skip
    return schema


# --------------------------------------------------------------------------------------------------
# Column files
# --------------------------------------------------------------------------------------------------


RECORDS = "records"
#: Columns of at least this many bytes a row have a file of their own: one page.
LARGE_NBYTES = 4096
ROW_ALIGNMENT = 64
SEGMENT_ROW_MULTIPLE = 1024
MAX_SEGMENT_ROWS = 65536
#: Aim for the unit of checksums and of the sample cache, bytes.
BLOCK_BYTES = 4 * 2**20
MIN_BLOCK_ROWS = 64


@dataclass(frozen=True)
class ColumnFile:
    """One file of a segment.

    Attributes:
        name: ``records``, or the name of the one large column in it.
        stride: Bytes from one row to the next, a multiple of 64.
        dtype: Type of one row; ``itemsize`` equals ``stride``. Its fields are the columns.
        ending: Of the name of the file.
    """

    name: str
    stride: int
    dtype: np.dtype[Any]
    ending: str = "col"

    @property
    def filename(self) -> str:
        """Name of the file in the directory of a segment."""
        return f"{quote(self.name, safe='')}.{self.ending}"

    @property
    def packed_filename(self) -> str:
        """Name of the compressed file that takes its place (:mod:`user_learner.replay.packed`)."""
        return f"{quote(self.name, safe='')}.packed"


class RowLayout:
    """Where each column of a schema lies; equal schemas have equal layouts, everywhere."""

    def __init__(self, schema: TrajectorySchema) -> None:
        self.schema = schema
        apart = (
            schema.columns.keys() - schema.required.columns.keys()
        )  # so that others lie as without them
        large = sorted(
            n for n, spec in schema.columns.items() if spec.nbytes >= LARGE_NBYTES or n in apart
        )
        small = sorted(
            (n for n in schema.columns if n not in large),
            key=lambda n: (-np.dtype(schema.columns[n].dtype).itemsize, n),
        )
        self.files: tuple[ColumnFile, ...] = (
            column_file(RECORDS, {name: schema.columns[name] for name in small}),
            *(column_file(name, {name: schema.columns[name]}) for name in large),
        )
        self.large: tuple[str, ...] = tuple(large)
        self.small: tuple[str, ...] = tuple(small)

    @cached_property
    def row_nbytes(self) -> int:
        """Bytes that a row takes on disk, over all files."""
        return sum(file.stride for file in self.files)

    def segment_rows(self, segment_bytes: int) -> int:
        """Rows of a segment of about this size: a power of two, 1024 to 65536."""
        rows = max(1, segment_bytes // self.row_nbytes)
        return int(np.clip(2 ** int(math.log2(rows)), SEGMENT_ROW_MULTIPLE, MAX_SEGMENT_ROWS))

    def block_rows(self) -> int:
        """Rows of a block, the unit of checksums and of the sample cache."""
        rows = max(1, BLOCK_BYTES // self.row_nbytes)
        return int(np.clip(2 ** int(math.log2(rows)), MIN_BLOCK_ROWS, SEGMENT_ROW_MULTIPLE))

    def pack(self, columns: Mapping[str, Array], start: int, stop: int) -> list[Array]:
        """Rows ``start`` to ``stop`` of checked columns, as bytes (rows, stride) per file."""
        rows = stop - start
        packed = []
        for file in self.files:
            names = file.dtype.names or ()
            spec = self.schema.columns[names[0]] if file.name != RECORDS else None
            if spec is not None and spec.nbytes == file.stride:  # a large column: no copy
                part = np.ascontiguousarray(columns[names[0]][start:stop], file.dtype[0].base)
                packed.append(part.reshape(rows, -1).view(np.uint8))
                continue
            records = np.zeros(rows, file.dtype)
            for name in names:
                records[name] = columns[name][start:stop]
            packed.append(records.view(np.uint8).reshape(rows, file.stride))
        return packed

    def unpack(self, packed: list[Array]) -> dict[str, Array]:
        """The inverse of :meth:`pack`: columns in the schema's order, contiguous copies."""
        found: dict[str, Array] = {}
        for file, raw in zip(self.files, packed, strict=True):
            rows = self.view(file, raw)
            for name in file.dtype.names or ():
                found[name] = np.array(rows[name], order="C")
        return {name: found[name] for name in self.schema.columns}

    @staticmethod
    def view(file: ColumnFile, raw: Array) -> Array:
        """Bytes (..., stride) as rows (...) of the file's dtype; no copy."""
        return raw.view(file.dtype).reshape(raw.shape[:-1])


def column_file(name: str, columns: Mapping[str, ArraySpec], ending: str = "col") -> ColumnFile:
    """The file of some columns, which lie one behind the other in each row."""
    formats, offsets, end = [], [], 0
    for spec in columns.values():
        base = np.dtype(spec.dtype).newbyteorder("<")
        end += -end % base.itemsize
        formats.append(np.dtype((base, spec.shape)))
        offsets.append(end)
        end += spec.nbytes
    stride = max(ROW_ALIGNMENT, end + -end % ROW_ALIGNMENT)
    dtype = np.dtype(
        {"names": list(columns), "formats": formats, "offsets": offsets, "itemsize": stride}
    )
    return ColumnFile(name, stride, dtype, ending)


# --------------------------------------------------------------------------------------------------
# The log of a segment
# --------------------------------------------------------------------------------------------------


LOG_NAME = "chunks.log"


@dataclass(frozen=True)
class LogHeader:
    """The first line of a log: enough to understand the segment without an index."""

    format_version: int
    store: str
    segment: int
    source: int
    segment_rows: int
    block_rows: int
    schema: dict[str, Any]


@dataclass(frozen=True)
class LogEntry:
    """A piece of a chunk, as it lies in one segment.

    Attributes:
        chunk: Identity of the chunk; None for an episode that was imported from a file.
        offset: Index of the piece's first row within the chunk.
        total: Rows of the whole chunk.
        episode: Which episode.
        robot: Name of the robot.
        task: Name of the task.
        first_row: Index of the piece's first row within the episode.
        start: Row of the segment where the piece begins.
        rows: Rows of the piece; 0 for a chunk that only brings a result.
        ended: 0 open, 1 a step said terminated or truncated, 2 nothing can follow.
        checksums: Block number to the running checksums of its column files.
        result: What came of the episode, on the last piece of its last chunk.
    """

    chunk: ChunkId | None
    offset: int
    total: int
    episode: EpisodeKey
    robot: str
    task: str
    first_row: int
    start: int
    rows: int
    ended: int
    checksums: dict[int, list[int]]
    result: EpisodeResult | None = None

    @property
    def last(self) -> bool:
        """Whether this piece completes its chunk."""
        return self.offset + self.rows == self.total


def encode_header(header: LogHeader) -> bytes:
    """The line of a header."""
    return encode_line(asdict(header))


def encode_entry(entry: LogEntry) -> bytes:
    """The line of an entry."""
    key, chunk = entry.episode, entry.chunk
    return encode_line(
        {
            "chunk": [chunk.producer, chunk.incarnation, chunk.sequence] if chunk else None,
            "offset": entry.offset,
            "total": entry.total,
            "episode": [key.producer, key.incarnation, key.number],
            "robot": entry.robot,
            "task": entry.task,
            "first_row": entry.first_row,
            "start": entry.start,
            "rows": entry.rows,
            "ended": entry.ended,
            "checksums": entry.checksums,
            "result": result_to_dict(entry.result),
        }
    )


def read_log(data: bytes, where: str) -> tuple[LogHeader, Iterator[tuple[LogEntry, int]]]:
    """Parse a log: its header, and its entries each with the offset where its line ends.

    Both raise StoreCorrupt at the first line that is not whole.
    """
    lines = _lines(data, where)
    try:
        values, _ = next(lines)
        header = LogHeader(**values)
    except (StopIteration, TypeError) as error:
        raise StoreCorrupt(f"first line of {where}", got=repr(error)) from error
    return header, ((_entry(values, where), end) for values, end in lines)


def result_to_dict(result: EpisodeResult | None) -> dict[str, Any] | None:
    """Plain data for JSON."""
    return None if result is None else asdict(result)


def result_from_dict(data: dict[str, Any] | None) -> EpisodeResult | None:
    """The inverse of :func:`result_to_dict`; raises TypeError, KeyError or ValueError."""
    if data is None:
        return None
    values = dict(data)
    return EpisodeResult(
        key=EpisodeKey(**values.pop("key")),
        source=EpisodeSource(values.pop("source")),
        outcome=Outcome(values.pop("outcome")),
        **values,
    )


def _lines(data: bytes, where: str) -> Iterator[tuple[dict[str, Any], int]]:
    at = 0
    while at < len(data):
        end = data.find(b"\n", at)
        line = data[at:end] if end >= 0 else b""
        try:
            found = decode_line(line)
        except ValueError as error:
            raise StoreCorrupt(
                f"{where} at byte {at}", got=repr(data[at : at + 40]), expected="a whole line"
            ) from error
        yield found, end + 1
        at = end + 1


def _entry(values: dict[str, Any], where: str) -> LogEntry:
    try:
        chunk = values.pop("chunk")
        return LogEntry(
            chunk=None if chunk is None else ChunkId(*chunk),
            episode=EpisodeKey(*values.pop("episode")),
            checksums={int(k): v for k, v in values.pop("checksums").items()},
            result=result_from_dict(values.pop("result")),
            **values,
        )
    except (KeyError, TypeError, ValueError) as error:
        raise StoreCorrupt(f"entry of {where}", got=repr(error)) from error
