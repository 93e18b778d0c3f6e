"""The files of a bag: MCAP and SQLite, each with its topics, the times of their messages, and those
messages in the order of their times.

Of an MCAP file with an index only the pieces that are asked for are read. One without (a recorder
that was killed leaves it so) is walked through once, when it is opened; from then on it is read like
the others.
"""

from __future__ import annotations

import os
import sqlite3
import struct
import zlib
from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import zstandard

from user_core.errors import CodecError
from user_core.specs import Array
from user_learner.data.extras import MissingLibrary, library

MCAP_MAGIC = b"\x89MCAP0\r\n"
SQLITE_MAGIC = b"SQLite format 3\0"
#: Opcodes of records in MCAP, https://mcap.dev/spec.
_FOOTER, _SCHEMA, _CHANNEL, _MESSAGE, _CHUNK, _MESSAGE_INDEX = 2, 3, 4, 5, 6, 7
_RECORD = struct.Struct("<BQ")  # opcode, length
_MESSAGE_HEAD = struct.Struct("<HIQQ")  # channel, sequence, log time, publish time
_CHUNK_HEAD = struct.Struct("<QQQI")  # start, end, uncompressed size, CRC; then the compression
#: Messages that lie in a file outside of chunks are read in pieces of about this many bytes.
_PIECE_BYTES = 2**20
#: Pieces that stay unpacked, bytes: an episode begins with what came just before it.
_KEPT_BYTES = 2**25
#: Messages up to this many bytes are taken out of their piece as a copy.
_SMALL_BYTES = 4096
#: Pieces that are read ahead, unless they are larger than this many bytes in the file.
_AHEAD, _AHEAD_BYTES = 4, 2**23
#: Of a piece that says how large it becomes.
_LARGEST_PIECE = 2**31


class Recorded(NamedTuple):
    """A message as it was recorded.

    Attributes:
        topic: Its topic.
        time_ns: When.
        data: Serialised, CDR.
    """

    topic: str
    time_ns: int
    data: bytes | memoryview


class Part:
    """One file of a bag.

    Attributes:
        types: Types by topic.
        definitions: Texts of message definitions by type, with the format of each.
        damage: What is wrong with the file, for people; empty where it is whole.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.types: dict[str, str] = {}
        self.definitions: dict[str, tuple[str, str]] = {}
        self.damage = ""

    def span(self) -> tuple[int, int] | None:
        """Times of the earliest and of the latest message, whatever their topic, without reading messages; None
        where there are none. Raises CodecError where the file is damaged."""
        raise NotImplementedError

    def times(self, topics: Collection[str]) -> dict[str, Array]:
        """When messages came, by topic: (n,) int64, as they were written one after the other; without
        reading them where there is an index. Raises CodecError where the file is damaged."""
        raise NotImplementedError

    def messages(self, topics: Collection[str], start_ns: int, end_ns: int) -> Iterator[Recorded]:
        """Messages of some topics from ``start_ns`` to before ``end_ns``, by their times."""
        raise NotImplementedError


@dataclass
class _Piece:
    """A part of an MCAP file: a chunk, or messages that lie outside of chunks.

    Attributes:
        start: First byte in the file.
        length: In bytes; of a chunk with the head of its record.
        is_chunk: Whether it is one.
        first_ns: The earliest message.
        last_ns: The latest.
        index: Bytes of the message indices behind it; 0: there are none.
        times: Times of its messages by channel, where they are known.
    """

    start: int
    length: int
    is_chunk: bool
    first_ns: int
    last_ns: int
    index: int = 0
    times: dict[int, Array] | None = None


class UnpackedPieces:
    """Pieces of the files of a bag as they were before they were compressed; the newest few are kept, of all files
    together: a bag may have hundreds."""

    def __init__(self) -> None:
        self._contents: OrderedDict[tuple[Path, int], bytes] = OrderedDict()  # by file and start
        self.nbytes = 0

    def get(self, path: Path, start: int) -> bytes | None:
        """A piece that is still here."""
        content = self._contents.get((path, start))
        if content is not None:
            self._contents.move_to_end((path, start))
        return content

    def keep(self, path: Path, start: int, content: bytes) -> None:
        """Keep a piece that is not here, and let the oldest go."""
        self._contents[path, start] = content
        self.nbytes += len(content)
        while self.nbytes > _KEPT_BYTES and len(self._contents) > 1:
            self.nbytes -= len(self._contents.popitem(last=False)[1])


class McapPart(Part):
    """A file in MCAP, whole or as a crash left it."""

    def __init__(self, path: Path, unpacked: UnpackedPieces) -> None:
        super().__init__(path)
        self._size = path.stat().st_size
        self._topics: dict[int, str] = {}  # by channel
        self._schemas: dict[int, tuple[str, str, bytes]] = {}
        self._pieces: list[_Piece] = []
        self._unpacked = unpacked
        try:
            self._read_index()
        except MissingLibrary:
            raise  # without it every file would be walked through, for no visible reason
        except Exception as error:  # of the library, of many kinds: the file is not trusted
            broken = str(error) if type(error) is ValueError else said(error)
            self.types.clear()
            self.definitions.clear()
            self._topics.clear()
            self._schemas.clear()
            self._pieces.clear()
            self._walk(broken)
        self._pieces.sort(key=lambda piece: (piece.first_ns, piece.start))

    # --- what is in it ----------------------------------------------------------------------

    def _read_index(self) -> None:
        with open(self.path, "rb") as stream:
            stream.seek(-len(MCAP_MAGIC), 2)
            if stream.read() != MCAP_MAGIC:
                raise ValueError("no end, as of a recorder that was killed")
            stream.seek(0)
            summary = library("mcap.reader", "MCAP").SeekingReader(stream).get_summary()
        if summary is None:
            raise ValueError("no index")
        count = summary.statistics.message_count if summary.statistics else -1
        if count and not (summary.channels and summary.chunk_indexes):
            raise ValueError("no index of its chunks")
        for schema in summary.schemas.values():
            self._schemas[schema.id] = (schema.name, schema.encoding, schema.data)
        for channel in summary.channels.values():
            self._take_channel(
                channel.id, channel.schema_id, channel.topic, channel.message_encoding
            )
        self._pieces = [
            _Piece(
                one.chunk_start_offset, one.chunk_length, True,
                one.message_start_time, one.message_end_time, one.message_index_length,
            )
            for one in summary.chunk_indexes
        ]  # fmt: skip

    def _walk(self, broken: str) -> None:
        """Find the pieces of a file without an index, from its beginning to where it breaks off."""
        bad, ended = 0, False
        loose: _Piece | None = None
        with open(self.path, "rb") as stream:
            position = len(MCAP_MAGIC)
            while position + _RECORD.size <= self._size:
                stream.seek(position)
                opcode, length = _RECORD.unpack(stream.read(_RECORD.size))
                whole = _RECORD.size + length
                if position + whole > self._size:
                    break
                if opcode == _CHUNK:
                    piece = _Piece(position, whole, True, 0, 0)
                    try:
                        self._look_into(piece, self._unpack(piece, stream))
                    except (CodecError, ValueError, struct.error):
                        bad += 1  # what follows it may be whole
                    else:
                        self._add(piece)
                elif opcode == _MESSAGE:
                    if loose is None or loose.length >= _PIECE_BYTES:
                        bad += not self._end_loose(loose, stream)
                        loose = _Piece(position, 0, False, 0, 0)
                    loose.length = position + whole - loose.start
                elif opcode in (_SCHEMA, _CHANNEL):
                    with suppress(ValueError, struct.error):
                        self._take_record(opcode, stream.read(length))
                elif opcode == _FOOTER:
                    ended = True
                position += whole
                if ended:
                    break
            bad += not self._end_loose(loose, stream)
        if bad:
            self.damage = f"{bad} of its pieces cannot be read: they are left out"
        elif not ended:
            self.damage = (
                f"it breaks off after {position:,} of {self._size:,} bytes ({broken}): what came "
                "before is read"
            )

    def _end_loose(self, piece: _Piece | None, stream: Any) -> bool:
        """Whether messages outside of chunks can be read; they are taken in then."""
        if piece is None:
            return True
        stream.seek(piece.start)
        try:
            self._look_into(piece, stream.read(piece.length))
        except (ValueError, struct.error):
            return False
        self._add(piece)
        return True

    def _add(self, piece: _Piece) -> None:
        if not piece.times:
            return
        piece.first_ns = min(int(times.min()) for times in piece.times.values())
        piece.last_ns = max(int(times.max()) for times in piece.times.values())
        self._pieces.append(piece)

    def _look_into(self, piece: _Piece, content: bytes) -> None:
        """Channels and times of a piece that was unpacked."""
        times: dict[int, list[int]] = {}
        for opcode, start, end in _records_of(content):
            if opcode == _MESSAGE:
                channel, _, time_ns, _ = _MESSAGE_HEAD.unpack_from(content, start)
                if channel in self._topics:
                    times.setdefault(channel, []).append(time_ns)
            elif opcode in (_SCHEMA, _CHANNEL):
                self._take_record(opcode, content[start:end])
        piece.times = {
            channel: np.array(found, np.uint64).astype(np.int64) for channel, found in times.items()
        }

    def _take_record(self, opcode: int, content: bytes) -> None:
        number = int.from_bytes(content[:2], "little")
        if opcode == _SCHEMA:
            name, rest = _text(content, 2)
            coding, rest = _text(content, rest)
            (size,) = struct.unpack_from("<I", content, rest)
            self._schemas[number] = (name, coding, content[rest + 4 : rest + 4 + size])
        else:
            topic, rest = _text(content, 4)
            coding, _ = _text(content, rest)
            self._take_channel(number, int.from_bytes(content[2:4], "little"), topic, coding)

    def _take_channel(self, number: int, schema: int, topic: str, coding: str) -> None:
        if coding != "cdr" or schema not in self._schemas:
            return
        name, encoding, text = self._schemas[schema]
        self._topics[number] = topic
        self.types[topic] = name
        self.definitions[name] = (encoding, text.decode("utf-8", "replace"))

    # --- messages ---------------------------------------------------------------------------

    def span(self) -> tuple[int, int] | None:
        """See :class:`Part`."""
        if not self._pieces:
            return None
        return self._pieces[0].first_ns, max(piece.last_ns for piece in self._pieces)

    def times(self, topics: Collection[str]) -> dict[str, Array]:
        """See :class:`Part`."""
        wanted = {n: topic for n, topic in self._topics.items() if topic in topics}
        found: dict[str, list[Array]] = {}
        with open(self.path, "rb") as stream:
            for piece in sorted(self._pieces, key=lambda piece: piece.start):
                for channel, times in self._times_of(piece, stream).items():
                    if channel in wanted:
                        found.setdefault(wanted[channel], []).append(times)
        return {topic: np.concatenate(parts) for topic, parts in found.items()}

    def _times_of(self, piece: _Piece, stream: Any) -> dict[int, Array]:
        if piece.times is not None:
            return piece.times
        try:
            if piece.index:
                stream.seek(piece.start + piece.length)
                piece.times = _indexed(stream.read(min(piece.index, self._size)))
            else:
                self._look_into(piece, self._content(piece, stream))
        except (ValueError, struct.error) as error:
            raise self._damaged(error) from error
        return piece.times or {}

    def messages(self, topics: Collection[str], start_ns: int, end_ns: int) -> Iterator[Recorded]:
        """See :class:`Part`."""
        wanted = {n: topic for n, topic in self._topics.items() if topic in topics}
        if not wanted:
            return
        pieces = [
            piece for piece in self._pieces
            if piece.last_ns >= start_ns and piece.first_ns < end_ns
            and (piece.times is None or wanted.keys() & piece.times.keys())
        ]  # fmt: skip
        waiting: list[Recorded] = []
        for piece, content in self._contents(pieces):
            # those before this piece have nobody behind them who would come first
            count = bisect_left(waiting, piece.first_ns, key=_time)
            yield from waiting[:count]
            del waiting[:count]
            try:
                waiting += _messages_of(content, wanted, start_ns, end_ns)
            except (ValueError, struct.error) as error:
                raise self._damaged(error) from error
            waiting.sort(key=_time)
        yield from waiting

    def _contents(self, pieces: Sequence[_Piece]) -> Iterator[tuple[_Piece, bytes]]:
        """Pieces as they were before they were compressed; another thread reads and unpacks the next few meanwhile."""
        with open(self.path, "rb") as stream, ThreadPoolExecutor(1, "bag") as reading:
            ahead: dict[int, Future[bytes]] = {}
            for number, piece in enumerate(pieces):
                for later in pieces[number + 1 : number + 1 + _AHEAD]:
                    if (
                        later.start not in ahead and later.length <= _AHEAD_BYTES
                        and self._unpacked.get(self.path, later.start) is None
                    ):  # fmt: skip
                        ahead[later.start] = reading.submit(self._read, later, stream)
                if piece.start in ahead:
                    content = ahead.pop(piece.start).result()
                    self._unpacked.keep(self.path, piece.start, content)
                    yield piece, content
                else:
                    yield piece, self._content(piece, stream)

    def _content(self, piece: _Piece, stream: Any) -> bytes:
        """A piece as it was before it was compressed; the newest few are kept."""
        content = self._unpacked.get(self.path, piece.start)
        if content is not None:
            return content
        content = self._read(piece, stream)
        self._unpacked.keep(self.path, piece.start, content)
        return content

    def _read(self, piece: _Piece, stream: Any) -> bytes:
        """Read and unpack a piece; several threads may read one file. Raises CodecError where it is damaged."""
        try:
            if piece.is_chunk:
                return self._unpack(piece, stream)
            return os.pread(stream.fileno(), piece.length, piece.start)
        except (ValueError, struct.error) as error:
            raise self._damaged(error) from error

    def _unpack(self, piece: _Piece, stream: Any) -> bytes:
        """Read a chunk. Raises ValueError or struct.error where it is damaged."""
        if piece.start + piece.length > self._size:
            raise ValueError("a chunk behind the end of the file")
        record = memoryview(os.pread(stream.fileno(), piece.length, piece.start))
        if not record or record[0] != _CHUNK:
            raise ValueError("no chunk where the index says one")
        rest = _RECORD.size
        _, _, size, crc = _CHUNK_HEAD.unpack_from(record, rest)
        compression, rest = _text(record, rest + _CHUNK_HEAD.size)
        (packed,) = struct.unpack_from("<Q", record, rest)
        data = record[rest + 8 : rest + 8 + packed]
        if size > _LARGEST_PIECE or len(data) != packed:
            raise ValueError(f"a chunk of {size} bytes, {len(data)} of {packed} in the file")
        content = _decompressed(data, compression, size)
        if len(content) != size or (crc and zlib.crc32(content) != crc):
            raise ValueError("a chunk with a wrong checksum")
        return content

    def _damaged(self, error: Exception) -> CodecError:
        return CodecError(f"{self.path}", got=said(error), expected="a whole MCAP file")


def _time(message: Recorded) -> int:
    return message.time_ns


def _text(content: Any, start: int) -> tuple[str, int]:
    """A text with its length before it, and where what follows it begins."""
    (size,) = struct.unpack_from("<I", content, start)
    end = start + 4 + size
    if end > len(content):
        raise ValueError("a text that is cut off")
    return bytes(content[start + 4 : end]).decode("utf-8", "replace"), end


def _records_of(content: bytes) -> Iterator[tuple[int, int, int]]:
    """Records that lie one behind the other: opcode, where the content begins and ends."""
    position, size = 0, len(content)
    while position < size:
        opcode, length = _RECORD.unpack_from(content, position)
        start = position + _RECORD.size
        position = start + length
        if position > size:
            raise ValueError("a record that is cut off")
        yield opcode, start, position


def _messages_of(
    content: bytes, wanted: dict[int, str], start_ns: int, end_ns: int
) -> list[Recorded]:
    found: list[Recorded] = []
    view, size = memoryview(content), len(content)
    record, head, position = _RECORD.unpack_from, _MESSAGE_HEAD.unpack_from, 0
    while position < size:
        opcode, length = record(content, position)
        start = position + _RECORD.size
        position = start + length
        if position > size:
            raise ValueError("a record that is cut off")
        if opcode != _MESSAGE:
            continue
        channel, _, time_ns, _ = head(content, start)
        if channel in wanted and start_ns <= time_ns < end_ns:
            start += _MESSAGE_HEAD.size
            # what is small is read faster as bytes, what is large is not copied
            data = content[start:position] if length < _SMALL_BYTES else view[start:position]
            found.append(Recorded(wanted[channel], time_ns, data))
    return found


def _indexed(content: bytes) -> dict[int, Array]:
    """Times by channel, of message indices."""
    found = {}
    for opcode, start, end in _records_of(content):
        if opcode != _MESSAGE_INDEX:
            continue
        channel = int.from_bytes(content[start : start + 2], "little")
        entries = np.frombuffer(content[start + 6 : end], "<u8").reshape(-1, 2)
        if len(entries):
            times, places = entries[:, 0].astype(np.int64), entries[:, 1]
            if (places[1:] < places[:-1]).any():  # some writers sort them by their times
                times = times[np.argsort(places, kind="stable")]
            found[channel] = times
    return found


def _decompressed(data: memoryview, compression: str, size: int) -> bytes:
    if not compression:
        return bytes(data)
    if compression == "zstd":
        try:
            return zstandard.ZstdDecompressor().decompress(data, max_output_size=size)
        except zstandard.ZstdError as error:
            raise ValueError(str(error)) from error
    if compression == "lz4":
        lz4 = library("lz4.frame", "MCAP compressed with LZ4")
        try:
            unpacked: bytes = lz4.LZ4FrameDecompressor().decompress(data, max_length=size)
        except RuntimeError as error:
            raise ValueError(str(error)) from error
        return unpacked
    raise ValueError(f"compression {compression[:20]!r}")


class SqlitePart(Part):
    """A file in SQLite."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._ids: dict[int, str] = {}
        self._span: tuple[int, int] | None = None
        try:
            with closing(self._open()) as db:
                formats = db.execute("SELECT id, name, type, serialization_format FROM topics")
                for number, name, type_name, coding in formats.fetchall():
                    if coding == "cdr":
                        self._ids[number] = name
                        self.types[name] = type_name
                with suppress(sqlite3.Error):  # from Iron on
                    rows = db.execute(
                        "SELECT topic_type, encoding, encoded_message_definition "
                        "FROM message_definitions"
                    )
                    for type_name, encoding, text in rows.fetchall():
                        self.definitions[type_name] = (encoding, text)
        except sqlite3.Error as error:
            raise CodecError(
                f"{path}", got=str(error), expected="a bag in SQLite",
                hint="The file may have been copied in part" if "malformed" in str(error) else "",
            ) from error  # fmt: skip

    def _open(self) -> sqlite3.Connection:
        # a log that a killed recorder left beside the file is read as well
        db = sqlite3.connect(
            f"{self.path.absolute().as_uri()}?mode=ro", uri=True, check_same_thread=False
        )
        db.execute("PRAGMA trusted_schema = OFF")
        return db

    @contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        """The file, open; what fails with it, or with the values in it, raises CodecError."""
        try:
            with closing(self._open()) as db:
                yield db
        except (sqlite3.Error, TypeError, ValueError, OverflowError) as error:
            raise CodecError(f"{self.path}", got=str(error), expected="a whole bag") from error

    def span(self) -> tuple[int, int] | None:
        """See :class:`Part`."""
        if self._span is None:
            with self._reading() as db:
                # one by one, so that each is found by the index of times
                first, last = (
                    db.execute(f"SELECT {end}(timestamp) FROM messages").fetchone()[0]  # noqa: S608 - no input
                    for end in ("min", "max")
                )
            self._span = None if first is None else (first, last)
        return self._span

    def times(self, topics: Collection[str]) -> dict[str, Array]:
        """See :class:`Part`."""
        with self._reading() as db:  # what is large stands last in a row, and is not read
            rows = db.execute("SELECT topic_id, timestamp FROM messages ORDER BY id")
            table = np.fromiter(rows, [("topic", np.int64), ("time", np.int64)])
        found: dict[str, list[Array]] = {}
        for number, name in self._ids.items():
            if name in topics and (times := table["time"][table["topic"] == number]).size:
                found.setdefault(name, []).append(times)
        return {name: np.concatenate(times) for name, times in found.items()}

    def messages(self, topics: Collection[str], start_ns: int, end_ns: int) -> Iterator[Recorded]:
        """See :class:`Part`."""
        wanted = [number for number, name in self._ids.items() if name in topics]
        marks = ",".join("?" * len(wanted))
        with self._reading() as db:
            rows = db.execute(
                f"SELECT topic_id, timestamp, data FROM messages WHERE topic_id IN ({marks}) "  # noqa: S608 - marks only
                "AND timestamp >= ? AND timestamp < ? ORDER BY timestamp, id",
                (*wanted, max(start_ns, 0), min(end_ns, 2**63 - 1)),
            )
            for number, time_ns, data in rows:
                yield Recorded(self._ids[number], time_ns, bytes(data))


def part_of(file: Path, unpacked: UnpackedPieces) -> Part:
    """Open a file of a bag.

    Args:
        file: It.
        unpacked: Where all files of the bag keep what they have unpacked.

    Raises:
        CodecError: It is neither MCAP nor SQLite, or damaged from its beginning.
        MissingLibrary: ``mcap`` is not installed.
    """
    with open(file, "rb") as stream:
        magic = stream.read(16)
    if magic.startswith(MCAP_MAGIC):
        return McapPart(file, unpacked)
    if magic.startswith(SQLITE_MAGIC):
        return SqlitePart(file)
    raise CodecError(
        f"{file}", got="nothing in it" if not magic else f"a file that begins with {magic[:8]!r}",
        expected="MCAP or SQLite",
        hint="ros2 bag convert takes compressed SQLite bags apart",
    )  # fmt: skip


def said(error: BaseException) -> str:
    """An error of others, in one line."""
    return f"{type(error).__name__}: {error}"[:300]
