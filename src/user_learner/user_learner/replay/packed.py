"""Compressed column files: what cameras saw, at rest.

Rows of a sealed segment never change, so that a file of a large column can be written anew, smaller, and take the
place of the plain one. Rows are coded in groups of a few: any row is read by decoding a part of one group, and a
group that is damaged costs no other. ::

    0    8    b"USERPACK"
    8    4    u32, bytes of the JSON, which blanks fill up
    12   ..   JSON: version, coding, rows, group_rows, shape, dtype, nbytes of this file, psnr_db of a lossy coding
    ..   ..   for each group: its offset u64, bytes u32, CRC-32 of them u32
    ..   ..   the groups

A group of the coding ``zstd`` is one byte that says how it was predicted, then a zstd frame of what prediction leaves
(modulo 2 to the bits of an element): :class:`Prediction`, plus 8 where green was subtracted from red and blue before.
Prediction is from what lies above or before, not from the left: to undo that is one addition of long vectors after
another, which runs at the speed of memory and without the interpreter's lock.

A group of ``jpegQ`` or ``webpQ`` is, for each row, its bytes u32 and the image, as
:mod:`user_core.codecs.images` writes it.
"""

from __future__ import annotations

import json
import os
import struct
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from enum import IntEnum
from io import RawIOBase
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import zstandard

from user_core.codecs.images import (
    LOSSLESS,
    decode_images,
    encode_images,
    is_image_column,
    is_lossy,
    psnr_db,
)
from user_core.errors import CodecError, ConfigError, StoreCorrupt
from user_core.runtime.closing import Closing
from user_core.runtime.files import pread_into, pwrite_all, sync_directory
from user_core.specs import Array
from user_learner.replay.layout import LARGE_NBYTES, RECORDS, ColumnFile

MAGIC = b"USERPACK"
VERSION = 1
GROUP_ROWS = 16
#: Of the name of a file that is being written.
NEW_SUFFIX = ".new"
_HEADER_BYTES = 512
_FIXED = struct.Struct("<8sI")
_GROUP = np.dtype([("offset", "<u8"), ("nbytes", "<u4"), ("crc", "<u4")])
_LENGTH = struct.Struct("<I")
_GREEN = 8
#: Rows of a group that predictions are tried on.
_TRIED_ROWS = 4
_WORKERS = min(4, os.cpu_count() or 1)


class Prediction(IntEnum):
    """What is subtracted from an element before it is compressed. Never renumber."""

    NOTHING = 0
    #: The element above.
    UP = 1
    #: The element of the row before, in the first row of a group the one above.
    BEFORE = 2


@dataclass(frozen=True)
class Header:
    """What a file says of itself.

    Attributes:
        coding: ``zstd``, ``jpegQ`` or ``webpQ``.
        rows: How many it has.
        group_rows: Rows of a group; the last may have fewer.
        shape: Of a row.
        dtype: Of its elements.
        nbytes: Of the file.
        psnr_db: Of a lossy coding: peak signal-to-noise ratio of the worst image, and of all together.
        version: Of this format.
    """

    coding: str
    rows: int
    group_rows: int
    shape: tuple[int, ...]
    dtype: str
    nbytes: int
    psnr_db: tuple[float, float] | None = None
    version: int = VERSION


def can_pack(file: ColumnFile) -> bool:
    """Whether a column file is of the kind that is compressed: one large column."""
    return file.name != RECORDS and file.ending == "col" and file.dtype[0].itemsize >= LARGE_NBYTES


def can_code(file: ColumnFile, coding: str) -> bool:
    """Whether a column can be coded so: with loss only images of bytes can be, of one or three channels."""
    if not is_lossy(coding):
        return True
    column = file.dtype[0]
    shape = column.shape
    is_image = is_image_column(np.empty((1, *shape), column.base))
    return is_image and (len(shape) == 2 or shape[2] in (1, 3))


def require_coding(file: ColumnFile, coding: str) -> None:
    """Raise ConfigError unless a column can be coded so."""
    if not can_code(file, coding):
        column = file.dtype[0]
        raise ConfigError(
            f"compression of {file.name}", got=f"{coding} for {column.base.name}{list(column.shape)}",
            expected=f"{LOSSLESS}: only images of bytes with one or three channels are coded with loss",
        )  # fmt: skip


# --------------------------------------------------------------------------------------------------
# Reading
# --------------------------------------------------------------------------------------------------


class PackedColumn(Closing):
    """A compressed column file, open for reading by one thread.

    Args:
        path: The file.
        file: Which column.

    Raises:
        OSError: It is not there.
        StoreCorrupt: It is none, is cut short, or is of another column.
    """

    def __init__(self, path: Path, file: ColumnFile) -> None:
        self._path = path
        self._column = file.dtype[0]
        self._handle = os.open(self._path, os.O_RDONLY)
        self._inflate = zstandard.ZstdDecompressor()
        self._groups: Array = np.empty(0, _GROUP)
        try:
            self.header = self._read_header()
        except BaseException:
            self.close()
            raise

    @property
    def exact(self) -> bool:
        """Whether rows are as they were written."""
        return self.header.coding == LOSSLESS

    def read(self, start: int, out: Array) -> int:
        """Decode rows from ``start`` on into ``out`` (rows, stride); return the bytes read from the file.

        Raises:
            StoreCorrupt: There are fewer, or a group of theirs is damaged.
        """
        stop, at, nbytes = start + len(out), start, 0
        self._require(stop)
        while at < stop:
            group, first = divmod(at, self.header.group_rows)
            end = min(stop, at - first + self.header.group_rows)
            payload = self._payload(group)
            nbytes += len(payload)
            try:
                self._decode(payload, first, out[at - start : end - start], group)
            except (CodecError, zstandard.ZstdError, struct.error) as error:
                raise self._corrupt(f"group {group}: {error}") from error
            at = end
        return nbytes

    def images(self, start: int, rows: int) -> list[bytes]:
        """The images of a lossy coding as they are stored. Raises StoreCorrupt."""
        found: list[bytes] = []
        self._require(start + rows)
        for row in range(start, start + rows):
            group, at = divmod(row, self.header.group_rows)
            if not found or at == 0:
                pieces = _split(self._payload(group))
            found.append(pieces[at])
        return found

    def forget(self) -> None:
        """Tell the page cache to forget the file: what was decoded is elsewhere."""
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(self._handle, 0, 0, os.POSIX_FADV_DONTNEED)

    def close(self) -> None:
        """Close the file. Idempotent."""
        if self._handle >= 0:
            os.close(self._handle)
            self._handle = -1

    def _read_header(self) -> Header:
        data = os.pread(self._handle, _HEADER_BYTES, 0)
        try:
            magic, length = _FIXED.unpack_from(data)
            values = json.loads(data[_FIXED.size : _FIXED.size + length])
            if magic != MAGIC or values["version"] != VERSION:
                raise ValueError(f"{magic!r}, version {values.get('version')}")
            values["shape"] = tuple(values["shape"])
            header = Header(**values)
            if header.rows < 0 or header.group_rows < 1:
                raise ValueError(f"{header.rows} rows in groups of {header.group_rows}")
        except (struct.error, ValueError, KeyError, TypeError) as error:
            raise self._corrupt(f"header: {error}") from error
        if (header.shape, header.dtype) != (self._column.shape, self._column.base.name):
            raise self._corrupt(f"rows of {header.dtype}{list(header.shape)}")
        size = os.fstat(self._handle).st_size
        if size != header.nbytes:
            raise self._corrupt(f"{size} bytes instead of {header.nbytes}")
        return header

    def _require(self, rows: int) -> None:
        if rows > self.header.rows:
            raise self._corrupt(f"{self.header.rows} rows, {rows} are committed")

    def _payload(self, group: int) -> bytes:
        if not len(self._groups):
            count = -(-self.header.rows // self.header.group_rows)
            data = os.pread(self._handle, count * _GROUP.itemsize, _HEADER_BYTES)
            if len(data) != count * _GROUP.itemsize:
                raise self._corrupt(f"no room for {count} groups")
            self._groups = np.frombuffer(data, _GROUP)
        offset, nbytes, crc = self._groups[group].tolist()
        if offset + nbytes > self.header.nbytes:
            raise self._corrupt(f"group {group} behind the end")
        payload = os.pread(self._handle, nbytes, offset)
        if len(payload) != nbytes or zlib.crc32(payload) != crc:
            raise self._corrupt(f"checksum of group {group}")
        return payload

    def _decode(self, payload: bytes, first: int, out: Array, group: int) -> None:
        """Rows of a group from ``first`` on."""
        stop, nbytes = first + len(out), self._column.itemsize
        straight = first == 0 and out.strides == (nbytes, 1)
        rows = out if straight else np.empty((stop, nbytes), np.uint8)
        if self.exact:
            _inflate(self._inflate, payload, rows)
            _add_back(_elements(rows, self._column), payload[0])
        else:
            count = min(self.header.group_rows, self.header.rows - group * self.header.group_rows)
            pieces = _split(payload)
            if len(pieces) != count:
                raise CodecError("images of a group", got=len(pieces), expected=count)
            rows[first:] = _decode_lossy(pieces[first:stop], self._column, self.header.coding)
        if not straight:
            out[:, :nbytes] = rows[first:]
            out[:, nbytes:] = 0

    def _corrupt(self, what: str) -> StoreCorrupt:
        return StoreCorrupt(
            f"compressed column {self._path}", got=what, expected="a whole file",
            hint="user replay verify STORE --repair sets damaged rows aside",
        )  # fmt: skip


def unpack_into(
    path: Path, file: ColumnFile, out: Array, aside: Sequence[tuple[int, int]] = ()
) -> None:
    """Decode the first rows of a compressed file into ``out`` (rows, stride), by several threads.

    Args:
        path: The file.
        file: Which column.
        out: Where rows go.
        aside: Rows that are set aside, each from and up to; they may be damaged and are left as they are.

    Raises:
        OSError, StoreCorrupt: As :class:`PackedColumn`.
    """
    pieces = max(1, min(_WORKERS, len(out) // (4 * GROUP_ROWS)))
    step = max(1, -(-len(out) // pieces))
    step += -step % GROUP_ROWS
    work, at = list[tuple[int, int]](), 0
    for low, high in [*sorted(aside), (len(out), len(out))]:
        end = min(low, len(out))
        work += [(start, min(start + step, end)) for start in range(at, end, step)]
        at = max(at, high)

    def piece(rows: tuple[int, int]) -> None:
        with PackedColumn(path, file) as column:
            column.read(rows[0], out[slice(*rows)])

    with ThreadPoolExecutor(pieces, thread_name_prefix="replay-unpack") as pool:
        list(pool.map(piece, work))


def _inflate(inflate: zstandard.ZstdDecompressor, payload: bytes, rows: Array) -> None:
    """The beginning of a group, as far as it is wanted."""
    flat = rows.reshape(-1).data
    done = 0
    with inflate.stream_reader(memoryview(payload)[1:]) as stream:
        while done < len(flat):
            count = stream.readinto(flat[done:])
            if not count:
                raise CodecError("rows of a group", got=f"{done} bytes", expected=len(flat))
            done += count


def _decode_lossy(images: Sequence[bytes], column: np.dtype[Any], coding: str) -> Array:
    """Bytes (rows, nbytes) of images that are coded with loss. Raises CodecError."""
    shape = (len(images), *column.shape)
    head = struct.pack(f"<B{len(shape)}I", len(shape), *shape)
    coded = np.frombuffer(head + _joined(images), np.uint8)
    return decode_images(coded, coding, len(images) * column.itemsize).reshape(len(images), -1)


def _joined(images: Sequence[bytes]) -> bytes:
    return b"".join(_LENGTH.pack(len(image)) + image for image in images)


def _split(payload: bytes) -> list[bytes]:
    found, at = [], 0
    while at < len(payload):
        end = at + _LENGTH.size + _LENGTH.unpack_from(payload, at)[0]
        found.append(payload[at + _LENGTH.size : end])
        at = end
    return found


# --------------------------------------------------------------------------------------------------
# Writing
# --------------------------------------------------------------------------------------------------


class PackedWriter(Closing):
    """Writes a compressed column file, row after row; nothing reads it before :meth:`finish`.

    Args:
        path: The file.
        file: Which column.
        rows: How many rows it will have.
        coding: ``zstd``, ``jpegQ`` or ``webpQ``.

    Raises:
        OSError: It cannot be written.
    """

    def __init__(self, path: Path, file: ColumnFile, rows: int, coding: str) -> None:
        require_coding(file, coding)
        self._column, self._coding, self._rows = file.dtype[0], coding, rows
        self._index: list[tuple[int, int, int]] = []
        self._at = _HEADER_BYTES + -(-rows // GROUP_ROWS) * _GROUP.itemsize
        self._compressor = zstandard.ZstdCompressor(level=1)
        self._errors: list[float] = []
        self._handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o644)

    def add(self, raw: Array) -> None:
        """Add the rows of the next group as they are, (rows, stride)."""
        rows = np.ascontiguousarray(raw[:, : self._column.itemsize])
        if self._coding == LOSSLESS:
            self._write(_encode(_elements(rows, self._column), self._compressor))
        else:
            shape = (len(rows), *self._column.shape)
            self.add_images(lossy_images(rows.reshape(shape), self._coding), rows)

    def add_images(self, images: list[bytes], rows: Array | None = None) -> None:
        """Add the next group as images that are coded already; from ``rows`` comes what was lost by it."""
        self._write(_joined(images))
        if rows is not None:
            found = _decode_lossy(images, self._column, self._coding)
            error = found.astype(np.int32) - rows
            self._errors += np.mean(error**2, axis=1).tolist()

    def finish(self) -> Header:
        """Write what the file says of itself, and make it durable; the name is the caller's. Raises OSError."""
        psnr = None
        if self._errors:  # JSON has no infinity: 99 stands for no loss
            worst_db, mean_db = psnr_db(max(self._errors)), psnr_db(float(np.mean(self._errors)))
            psnr = (min(round(worst_db, 2), 99.0), min(round(mean_db, 2), 99.0))
        header = Header(
            self._coding, self._rows, GROUP_ROWS, self._column.shape, self._column.base.name, self._at, psnr
        )  # fmt: skip
        text = json.dumps(asdict(header)).encode()
        text = text.ljust(_HEADER_BYTES - _FIXED.size)
        pwrite_all(self._handle, memoryview(_FIXED.pack(MAGIC, len(text)) + text), 0)
        pwrite_all(self._handle, memoryview(np.array(self._index, _GROUP).tobytes()), _HEADER_BYTES)
        os.fsync(self._handle)
        return header

    def close(self) -> None:
        """Close the file. Idempotent."""
        if self._handle >= 0:
            os.close(self._handle)
            self._handle = -1

    def _write(self, payload: bytes) -> None:
        pwrite_all(self._handle, memoryview(payload), self._at)
        self._index.append((self._at, len(payload), zlib.crc32(payload)))
        self._at += len(payload)


def lossy_images(images: Array, coding: str) -> list[bytes]:
    """Images (rows, H, W) or (rows, H, W, C), each as the bytes of its file."""
    coded = encode_images(images, coding).tobytes()
    return _split(coded[1 + 4 * images.ndim :])


def pack_file(
    path: Path,
    file: ColumnFile,
    rows: int,
    coding: str,
    before_group: Callable[[], None] = lambda: None,
) -> Header:
    """Write the compressed file of a column beside the plain one, read it back and compare, and let it take the
    place of it. A kill at any moment leaves one of them whole, or both.

    Args:
        path: Directory of a sealed segment, which nobody moves meanwhile.
        file: Which column.
        rows: Rows of the segment.
        coding: ``zstd``, ``jpegQ`` or ``webpQ``.
        before_group: Called again and again; what it raises ends the work, and the plain file stays.

    Raises:
        OSError: The disk is full, or fails; the plain file stays.
        StoreCorrupt: What was read back is something else; the plain file stays.
        ConfigError: Such a column cannot be coded so.
    """
    plain, packed = path / file.filename, path / file.packed_filename
    beside = packed.with_name(packed.name + NEW_SUFFIX)
    try:
        with open(plain, "rb", buffering=0) as stream:
            header = _write_beside(beside, file, rows, coding, stream, before_group)
            _compare(beside, file, rows, stream, before_group)
        os.replace(beside, packed)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise
    sync_directory(path)  # the new name is there for good before the old one goes
    plain.unlink()
    sync_directory(path)
    return header


def unpack_file(path: Path, file: ColumnFile, capacity: int) -> None:
    """The way back: a plain file of room for ``capacity`` rows in the place of the compressed one.

    Raises:
        OSError: The disk is full, or fails; the compressed file stays.
        StoreCorrupt: It is damaged, and stays.
    """
    plain, packed = path / file.filename, path / file.packed_filename
    beside = plain.with_name(plain.name + NEW_SUFFIX)
    try:
        with PackedColumn(packed, file) as column, open(beside, "wb") as stream:
            for start in range(0, column.header.rows, GROUP_ROWS):
                rows = min(GROUP_ROWS, column.header.rows - start)
                raw = np.empty((rows, file.stride), np.uint8)
                column.read(start, raw)
                stream.write(raw.data)
            stream.flush()
            stream.truncate(capacity * file.stride)
            os.fsync(stream.fileno())
        os.replace(beside, plain)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise
    sync_directory(path)
    packed.unlink()
    sync_directory(path)


def _write_beside(
    beside: Path,
    file: ColumnFile,
    rows: int,
    coding: str,
    plain: RawIOBase,
    before_group: Callable[[], None],
) -> Header:
    with PackedWriter(beside, file, rows, coding) as writer:
        for raw in _groups_of(file, rows, plain):
            before_group()
            writer.add(raw)
        return writer.finish()


def _compare(
    beside: Path, file: ColumnFile, rows: int, plain: RawIOBase, before_group: Callable[[], None]
) -> None:
    """Read a compressed file back; without loss it has to give the same bytes."""
    with PackedColumn(beside, file) as column:
        for number, raw in enumerate(_groups_of(file, rows, plain)):
            before_group()
            found = np.empty_like(raw)
            column.read(number * GROUP_ROWS, found)
            if column.exact and not np.array_equal(raw, found):
                raise StoreCorrupt(
                    f"compressed column {beside}", got=f"other bytes in group {number}",
                    expected="those of the plain file, which stays",
                )  # fmt: skip


def _groups_of(file: ColumnFile, rows: int, plain: RawIOBase) -> Iterator[Array]:
    for start in range(0, rows, GROUP_ROWS):
        raw = np.empty((min(GROUP_ROWS, rows - start), file.stride), np.uint8)
        done = pread_into(plain.fileno(), raw.reshape(-1).data, start * file.stride)
        if done < raw.nbytes:
            raise StoreCorrupt(f"{file.filename} ends early", got=f"row {start}", expected=rows)
        yield raw


# --------------------------------------------------------------------------------------------------
# Prediction
# --------------------------------------------------------------------------------------------------


def _elements(rows: Array, column: np.dtype[Any]) -> Array:
    """Bytes (rows, nbytes) as unsigned integers (rows, ...) in the shape of the column; no copy."""
    unsigned = np.dtype(f"<u{column.base.itemsize}")
    return rows.view(unsigned).reshape(len(rows), *column.shape)


def _encode(rows: Array, compressor: zstandard.ZstdCompressor) -> bytes:
    """A group of elements, in whichever way makes the first of them smallest."""
    tried = rows[:_TRIED_ROWS]
    colour = rows.dtype.itemsize == 1 and rows.ndim == 4 and rows.shape[3] == 3
    deep = rows.ndim > 2
    codes = [
        prediction + green
        for prediction, green in product(Prediction, (0, _GREEN) if colour else (0,))
        if (deep or prediction is not Prediction.UP)
        and (len(rows) > 1 or prediction is not Prediction.BEFORE)
    ]

    def cost(code: int) -> int:
        left_over = _left_over(tried, code)
        return len(compressor.compress(left_over[1 if len(tried) > 1 else 0 :].data))

    best = min(codes, key=cost)
    return bytes([best]) + compressor.compress(_left_over(rows, best).data)


def _left_over(rows: Array, code: int) -> Array:
    """What prediction leaves of a group."""
    seen = rows
    if code & _GREEN:
        seen = rows.copy()
        seen[..., 0] -= rows[..., 1]
        seen[..., 2] -= rows[..., 1]
    left_over = seen.copy()
    prediction = code % _GREEN
    if prediction == Prediction.UP:
        left_over[:, 1:] -= seen[:, :-1]
    elif prediction == Prediction.BEFORE:
        left_over[1:] -= seen[:-1]
        if rows.ndim > 2:
            left_over[0, 1:] -= seen[0, :-1]
    return left_over


def _add_back(rows: Array, code: int) -> None:
    """The inverse of :func:`_left_over`, in place, for the first rows of a group."""
    prediction = code % _GREEN
    if prediction == Prediction.UP:
        for line in range(1, rows.shape[1]):
            rows[:, line] += rows[:, line - 1]
    elif prediction == Prediction.BEFORE:
        if rows.ndim > 2:
            for line in range(1, rows.shape[1]):
                rows[0, line] += rows[0, line - 1]
        for number in range(1, len(rows)):
            rows[number] += rows[number - 1]
    elif prediction != Prediction.NOTHING:
        raise CodecError("prediction of a group", got=code, expected="one that is known")
    if code & _GREEN:
        rows[..., 0] += rows[..., 1]
        rows[..., 2] += rows[..., 1]
