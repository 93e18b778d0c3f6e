"""The log of a segment: one line per piece of a chunk that lies in it.

The index can be lost with its disk page, and a cumulative sequence number cannot be proved
from itself. So each segment says beside its rows which chunks they are: the log is made
durable together with the rows, before the index. From the logs alone the index is rebuilt
(:mod:`~user_learner.replay.rebuild`), sequence numbers are verified, and stores are merged
chunk by chunk.

A line is the CRC-32 of its JSON in hexadecimal, a space, the JSON. The first line describes
the segment. Checksums of rows are CRC-32, per block and column file, running: the one in a
line covers its block from the block's first row to the last row of this piece.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from user_core.errors import StoreCorrupt
from user_core.types import ChunkId, EpisodeKey, EpisodeResult, EpisodeSource, Outcome

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
    return _line(asdict(header))


def encode_entry(entry: LogEntry) -> bytes:
    """The line of an entry."""
    key, chunk = entry.episode, entry.chunk
    return _line(
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


def _line(data: dict[str, Any]) -> bytes:
    text = json.dumps(data, separators=(",", ":"), allow_nan=False).encode()
    return b"%08x %s\n" % (zlib.crc32(text), text)


def _lines(data: bytes, where: str) -> Iterator[tuple[dict[str, Any], int]]:
    at = 0
    while at < len(data):
        end = data.find(b"\n", at)
        line = data[at:end] if end >= 0 else b""
        if line[8:9] != b" " or line[:8] != b"%08x" % zlib.crc32(line[9:]):
            raise StoreCorrupt(
                f"{where} at byte {at}", got=repr(data[at : at + 40]), expected="a whole line"
            )
        yield json.loads(line[9:]), end + 1
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
