"""Segments: directories of column files with a fixed number of rows, appended to and then read.

Files have their full size from the start, with holes where no row is yet, so that a reader
maps them once. Rows are written with ``pwrite``, never through the mapping: a full disk is
then an error that can be handled, not a signal that kills.

Chunks of several producers arrive interleaved, but a next observation, an n-step return or a
window is read along one episode. So each episode is assigned an open segment of its own while
it lasts, and its rows lie next to each other; it continues in a new segment only when that
one is full. A segment holds episodes of one source. As many are open as episodes go on at
once; one whose episode is over takes the next.
"""

from __future__ import annotations

import errno
import os
import shutil
import zlib
from collections.abc import Iterable
from concurrent.futures import Executor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import numpy as np

from user_core.errors import StoreCorrupt
from user_core.runtime.files import pread_into, pwrite_all, sync_directory
from user_core.specs import Array
from user_core.types import EpisodeKey, EpisodeSource
from user_learner.replay.bucket import (
    LEAVING,
    LEAVING_SUFFIX,
    MARK,
    SEGMENTS,
    bring,
    in_bucket,
    leave,
    missing,
)
from user_learner.replay.index import FORMAT_VERSION, StoreMeta
from user_learner.replay.layout import LOG_NAME, ColumnFile, LogHeader, RowLayout, encode_header
from user_learner.replay.packed import PackedColumn, can_pack
from user_learner.replay.pending_index import PendingIndex, SegmentState


def segment_directory(store: Path, segment: int) -> Path:
    """Where a segment lies."""
    return store / SEGMENTS / f"{segment:08d}"


def disk_is_away(path: Path) -> bool:
    """Whether a segment lies on another disk that is not there now, with its log."""
    return path.is_symlink() and not path.exists()


def is_away(path: Path) -> bool:
    """Whether a segment lies on another disk that is not there now, or in a bucket and not here: nothing is wrong with
    the segment."""
    return disk_is_away(path) or bool(missing(path))


def where_away(path: Path) -> str:
    """Where a segment is that is away."""
    found = in_bucket(path)
    return str(path.readlink().parent) if found is None else found.url.rpartition("/")[0]


def remove_segment(path: Path) -> None:
    """Remove a segment, also one that lies elsewhere behind a link. What cannot be removed now is
    left for the next opening, or for when its disk is there again (:func:`remove_leaving`)."""
    if path.is_symlink():
        store = path.parent.parent
        (store / LEAVING).mkdir(exist_ok=True)
        os.replace(path, store / LEAVING / path.name)
        remove_leaving(store)
    else:
        if (path / MARK).exists():
            leave(path)
        shutil.rmtree(path, ignore_errors=True)


def remove_leaving(store: Path) -> None:
    """Remove the files of dropped segments on another disk, as far as that is there; the others wait."""
    if not (store / LEAVING).is_dir():
        return
    used = {os.readlink(path) for path in (store / SEGMENTS).iterdir() if path.is_symlink()}
    for link in (store / LEAVING).iterdir():
        # Marks, and one that a kill left half written, are for who moves segments to a bucket.
        if LEAVING_SUFFIX in link.name:
            continue
        try:
            away = link.readlink()
        except FileNotFoundError:  # another process has just done it
            continue
        if str(away) not in used:  # its number may have come there again
            shutil.rmtree(away, ignore_errors=True)
            if away.exists() or not away.parent.is_dir():
                continue
        link.unlink(missing_ok=True)


def remove_unknown(store: Path, segments: Iterable[int]) -> int:
    """Remove all directories beside those of these segments, which the index does not know; return how many."""
    known = {segment_directory(store, segment) for segment in segments}
    unknown = [path for path in (store / SEGMENTS).iterdir() if path not in known]
    for path in unknown:
        remove_segment(path)
    return len(unknown)


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
            sync_directory(directory)

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
            remove_segment(self._directory)  # left by a crash before its commit
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


def open_column(path: Path, file: ColumnFile) -> PackedColumn | BinaryIO:
    """The plain file of a column, or the compressed one that has taken its place, also if it does so just now.

    Raises:
        OSError: There is neither, for instance because retention dropped the segment.
        StoreCorrupt: The compressed one is damaged.
    """
    plain = path / file.filename
    for _ in range(2):
        try:
            return open(plain, "rb", buffering=0)
        except FileNotFoundError:
            if not can_pack(file):
                raise
        with suppress(FileNotFoundError):
            return PackedColumn(path / file.packed_filename, file)
    raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(plain))


def _brought_column(path: Path, file: ColumnFile) -> PackedColumn | BinaryIO:
    """As :func:`open_column`, also of a segment that is in a bucket: others may make room just now."""
    for _ in range(2):
        bring(path)
        with suppress(FileNotFoundError):
            return open_column(path, file)
    bring(path)
    return open_column(path, file)


def open_packed(path: Path, file: ColumnFile) -> PackedColumn | None:
    """The compressed file of a column, where there is no plain one; None where there is. Raises as
    :func:`open_column`."""
    if not can_pack(file):
        return None
    column = open_column(path, file)
    if isinstance(column, PackedColumn):
        return column
    column.close()
    return None


def read_rows(path: Path, file: ColumnFile, start: int, rows: int) -> Array:
    """Read rows of one column file as bytes, (rows, stride), from whichever file there is.

    Raises:
        OSError: There is none, or it is in a bucket that cannot be reached.
        StoreCorrupt: It is cut short, or what is compressed is damaged.
    """
    buffer = np.empty((rows, file.stride), np.uint8)
    with _brought_column(path, file) as column:
        if isinstance(column, PackedColumn):
            column.read(start, buffer)
            return buffer
        done = pread_into(column.fileno(), buffer.reshape(-1).data, start * file.stride)
    if done != buffer.nbytes:
        raise StoreCorrupt(
            f"{path / file.filename} ends early",
            got=f"{start * file.stride + done} bytes",
            expected=f"at least {(start + rows) * file.stride}",
        )
    return buffer


def rows_differ(path: Path, file: ColumnFile, start: int, rows: int, checksum: int) -> bool:
    """Whether rows are not those that this checksum was made of. Of images that were compressed with loss it
    cannot be told: those are checked as they are stored. Raises OSError."""
    try:
        if zlib.crc32(read_rows(path, file, start, rows).reshape(-1).data) == checksum:
            return False
        packed = open_packed(path, file)
    except StoreCorrupt:
        return True
    if packed is None:
        return True
    with packed:
        return packed.exact


def check_sizes(path: Path, layout: RowLayout, rows: int, log_bytes: int) -> str:
    """Why the files of a segment cannot hold its committed rows; empty when they can, and where they are in a bucket.
    Cheap."""
    needed = []
    for file in layout.files:
        try:
            packed = open_packed(path, file)
        except OSError as error:
            if isinstance(error, FileNotFoundError) and _bucket_has(
                path, file.filename, file.packed_filename
            ):
                continue
            return f"{file.filename}: {error.strerror}"
        except StoreCorrupt as error:
            return str(error)
        if packed is None:
            needed.append((file.filename, rows * file.stride))
            continue
        with packed:
            if packed.header.rows < rows:
                return f"{file.packed_filename} has {packed.header.rows} rows, {rows} are committed"
    for name, nbytes in [*needed, (LOG_NAME, log_bytes)]:
        try:
            found = (path / name).stat().st_size
        except OSError as error:
            if isinstance(error, FileNotFoundError) and _bucket_has(path, name):
                continue
            return f"{name}: {error.strerror}"
        if found < nbytes:
            return f"{name} has {found} bytes, {nbytes} are committed"
    return ""


def _bucket_has(path: Path, *names: str) -> bool:
    """Whether a file of a segment is in a bucket: others may make room for another at any moment."""
    try:
        found = in_bucket(path)
    except StoreCorrupt:
        return False
    return found is not None and not found.files.keys().isdisjoint(names)


# --------------------------------------------------------------------------------------------------
# Open segments, and which episode fills which
# --------------------------------------------------------------------------------------------------


@dataclass
class _Assignment:
    """An open segment and the episode that fills it."""

    segment: OpenSegment
    source: int
    owner: EpisodeKey | None = None
    used: int = 0


class OpenSegments:
    """The open segments of a store."""

    def __init__(
        self, store: Path, layout: RowLayout, pending: PendingIndex, max_per_source: int
    ) -> None:
        self._store, self._layout, self._pending = store, layout, pending
        self._max = max_per_source
        self._full: list[OpenSegment] = []
        self._clock = 0
        self._assigned = [
            _Assignment(OpenSegment(store, layout, state, None), state.source, owner)
            for state, owner in pending.open_segments()
        ]

    def __len__(self) -> int:
        return len(self._assigned)

    def segment_for(self, episode: EpisodeKey, source: EpisodeSource) -> OpenSegment:
        """The segment that takes the next rows of an episode; it has room for at least one.

        Raises OSError when a new segment cannot be made.
        """
        self._clock += 1
        assigned = self._segment_of(episode) or self._take(episode, source)
        assigned.used = self._clock
        if assigned.segment.state.sealed:
            fresh = self._new_segment(source)  # first, so that a full disk changes nothing
            self._full.append(assigned.segment)
            assigned.segment = fresh
        return assigned.segment

    def release(self, episode: EpisodeKey) -> None:
        """The episode is over: its segment takes another."""
        assigned = self._segment_of(episode)
        if assigned is not None:
            assigned.owner = None

    def files(self, segments: Iterable[int]) -> SegmentFiles:
        """The files behind these segments, to be made durable while appending goes on.

        Full segments are closed here: the returned handles are of their own.
        """
        wanted = set(segments)
        open_ = [*self._full, *(assigned.segment for assigned in self._assigned)]
        files = SegmentFiles()
        for segment in open_:
            if segment.state.id in wanted:
                segment.add_to(files)
        while self._full:
            self._full.pop().close()
        return files

    def close(self) -> None:
        """Close everything. Idempotent."""
        while self._full:
            self._full.pop().close()
        while self._assigned:
            self._assigned.pop().segment.close()

    def _segment_of(self, episode: EpisodeKey) -> _Assignment | None:
        return next((assigned for assigned in self._assigned if assigned.owner == episode), None)

    def _take(self, episode: EpisodeKey, source: EpisodeSource) -> _Assignment:
        mine = [assigned for assigned in self._assigned if assigned.source == source]
        for assigned in mine:  # a producer has one episode at a time: an older one is over
            if assigned.owner is not None and assigned.owner.producer == episode.producer:
                assigned.owner = None
        free = next((assigned for assigned in mine if assigned.owner is None), None)
        if free is None and len(mine) >= self._max:
            free = min(
                mine, key=lambda assigned: assigned.used
            )  # the episode that loses it takes another later
        if free is None:
            free = _Assignment(self._new_segment(source), int(source))
            self._assigned.append(free)
        free.owner = episode
        return free

    def _new_segment(self, source: EpisodeSource) -> OpenSegment:
        state = self._pending.begin_segment(source)
        header = segment_header(self._pending.meta, state.id, int(source))
        return OpenSegment(self._store, self._layout, state, header)


def segment_header(meta: StoreMeta, segment: int, source: int) -> LogHeader:
    """The first line of the log of a new segment."""
    if meta.schema is None:
        raise AssertionError("a segment needs a schema")
    return LogHeader(
        FORMAT_VERSION,
        meta.store,
        segment,
        source,
        meta.segment_rows,
        meta.block_rows,
        meta.schema.to_dict(),
    )
