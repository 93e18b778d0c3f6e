"""Segments: directories of column files with a fixed number of rows, appended to and then read.

Files have their full size from the start, with holes where no row is yet, so that a reader
maps them once. Rows are written with ``pwrite``, never through the mapping: a full disk is
then an error that can be handled, not a signal that kills.
"""

from __future__ import annotations

import os
import shutil
import zlib
from concurrent.futures import Executor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from user_core.errors import StoreCorrupt
from user_core.specs import Array
from user_learner.replay.chunklog import LOG_NAME, LogHeader, encode_header
from user_learner.replay.index import fsync_directory
from user_learner.replay.layout import ColumnFile, RowLayout

SEGMENTS = "segments"


def segment_directory(store: Path, segment: int) -> Path:
    """Where a segment lies."""
    return store / SEGMENTS / f"{segment:08d}"


@dataclass
class SegmentState:
    """What the index knows of a segment.

    Attributes:
        id: Number of the segment.
        source: Source of its episodes; a segment holds one kind only, so that retention can
            drop old online data without touching a demonstration.
        rows: Rows in it.
        log_bytes: Length of its log.
        checksums: Running checksums of the block that is being filled, per column file.
        sealed: Full, or closed for another reason: nothing is appended any more.
        created_ns: When it was made, nanoseconds since the epoch.
    """

    id: int
    source: int
    rows: int = 0
    log_bytes: int = 0
    checksums: list[int] = field(default_factory=list)
    sealed: bool = False
    created_ns: int = 0


@dataclass
class SegmentFiles:
    """Files that a commit makes durable, also while their segments are appended to or closed.

    Attributes:
        handles: Their descriptors, for nobody else.
        directories: Directories in which new ones have been made.
    """

    handles: list[int] = field(default_factory=list)
    directories: list[Path] = field(default_factory=list)

    def sync(self, pool: Executor) -> None:
        """Make them durable, side by side. Raises OSError."""
        for done in [pool.submit(os.fdatasync, handle) for handle in self.handles]:
            done.result()
        for directory in self.directories:
            fsync_directory(directory)

    def close(self) -> None:
        """Close the descriptors. Idempotent."""
        while self.handles:
            os.close(self.handles.pop())


class OpenSegment:
    """A segment that is being appended to. Nothing it writes counts before the index says so."""

    def __init__(
        self, store: Path, layout: RowLayout, state: SegmentState, header: LogHeader | None
    ) -> None:
        """Open the files; with a header, make them. Raises OSError, also for a full disk."""
        self.state = state
        self._layout = layout
        self._directory = segment_directory(store, state.id)
        self._fds: list[int] = []
        self._new = header is not None
        if header is not None:
            shutil.rmtree(self._directory, ignore_errors=True)  # left by a crash before its commit
            self._directory.mkdir(parents=True)
        flags = os.O_RDWR | (os.O_CREAT if self._new else 0)
        try:
            for file in layout.files:
                self._fds.append(os.open(self._directory / file.filename, flags, 0o644))
                if header is not None:
                    os.ftruncate(self._fds[-1], header.segment_rows * file.stride)
            self._fds.append(os.open(self._directory / LOG_NAME, flags, 0o644))
            if header is not None:
                self.write_log(encode_header(header))
            else:
                os.ftruncate(self._fds[-1], state.log_bytes)  # lines that were never committed
        except BaseException:
            self.close()
            raise

    def write(self, packed: list[Array], block_rows: int) -> dict[int, list[int]]:
        """Append rows, (rows, stride) bytes per file; return the checksums of their blocks."""
        rows, start = len(packed[0]), self.state.rows
        for fd, file, raw in zip(self._fds, self._layout.files, packed, strict=False):
            pwrite_all(fd, raw.reshape(-1).data, start * file.stride)
        checksums: dict[int, list[int]] = {}
        at = start
        while at < start + rows:
            block = at // block_rows
            stop = min(start + rows, (block + 1) * block_rows)
            running = self.state.checksums if at % block_rows else [0] * len(packed)
            self.state.checksums = checksums[block] = [
                zlib.crc32(raw[at - start : stop - start].reshape(-1).data, before)
                for raw, before in zip(packed, running, strict=True)
            ]
            at = stop
        self.state.rows += rows
        return checksums

    def write_log(self, line: bytes) -> None:
        """Append a line to the log."""
        pwrite_all(self._fds[-1], memoryview(line), self.state.log_bytes)
        self.state.log_bytes += len(line)

    def add_to(self, files: SegmentFiles) -> None:
        """Add what has to be made durable to ``files``, with handles of its own."""
        files.handles += [os.dup(fd) for fd in self._fds]
        if self._new:
            files.directories += [self._directory, self._directory.parent]
            self._new = False

    def close(self) -> None:
        """Close the files. Idempotent."""
        while self._fds:
            os.close(self._fds.pop())


def pwrite_all(fd: int, data: memoryview, offset: int) -> None:
    """Write all bytes at an offset; raises OSError."""
    view = data.cast("B") if data.nbytes else data
    written = 0
    while written < view.nbytes:
        written += os.pwrite(fd, view[written:], offset + written)


def read_rows(path: Path, file: ColumnFile, start: int, rows: int) -> Array:
    """Read rows of one column file as bytes, (rows, stride). Raises StoreCorrupt when short."""
    buffer = np.empty((rows, file.stride), np.uint8)
    with open(path / file.filename, "rb") as stream:
        stream.seek(start * file.stride)
        count = stream.readinto(buffer.reshape(-1).data) if rows else 0
    if count != buffer.nbytes:
        raise StoreCorrupt(
            f"{path / file.filename} ends early",
            got=f"{start * file.stride + count} bytes",
            expected=f"at least {(start + rows) * file.stride}",
        )
    return buffer


def check_sizes(path: Path, layout: RowLayout, rows: int, log_bytes: int) -> str:
    """Why the files of a segment cannot hold its committed rows; empty when they can. Cheap."""
    needed = [(file.filename, rows * file.stride) for file in layout.files]
    for name, nbytes in [*needed, (LOG_NAME, log_bytes)]:
        try:
            found = (path / name).stat().st_size
        except OSError as error:
            return f"{name}: {error.strerror}"
        if found < nbytes:
            return f"{name} has {found} bytes, {nbytes} are committed"
    return ""
