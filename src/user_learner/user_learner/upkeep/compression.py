"""Compression of full segments: what cameras saw takes a fraction of the room, and is read as before.

A column of a sealed segment is written anew, compressed, beside the plain file, made durable, read back and
compared, and then takes its place (:mod:`user_learner.replay.packed`). Nothing is locked meanwhile: whoever has the
plain file open reads on in it. A kill leaves the plain file, or both; the next call ends what was begun.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from user_core.codecs.images import LOSSLESS
from user_core.errors import ConfigError, StoreCorrupt
from user_core.runtime.files import sync_directory
from user_core.runtime.locks import FileLock
from user_core.types import OBSERVATION
from user_learner.replay.bucket import in_bucket
from user_learner.replay.config import RAW, CompressionConfig
from user_learner.replay.index import (
    FORMAT_VERSION,
    INDEX_NAME,
    PACKED_VERSION,
    connect,
    corruption_named,
    disk_error,
    require_space,
    write_meta,
)
from user_learner.replay.layout import ColumnFile, RowLayout
from user_learner.replay.packed import (
    GROUP_ROWS,
    NEW_SUFFIX,
    PackedColumn,
    PackedWriter,
    can_code,
    can_pack,
    lossy_images,
    pack_file,
    require_coding,
    unpack_file,
)
from user_learner.replay.reader import StoreReader
from user_learner.replay.recovery import require_whole
from user_learner.replay.segments import (
    SEGMENTS,
    is_away,
    open_packed,
    read_rows,
    segment_directory,
)

Progress = Callable[[int, int], None]
#: Held by who writes files of segments anew, or moves them: one process at a time.
UPKEEP_LOCK = "upkeep.lock"


@dataclass
class CompressionReport:
    """What a call did.

    Attributes:
        segments: In which something was compressed (or made plain again).
        raw_nbytes: Bytes of those columns as they came.
        nbytes: Bytes of them compressed.
        psnr_db: Of columns with loss, by name: that of the worst image.
        notes: Segments that were left as they are, and why.
    """

    segments: int = 0
    raw_nbytes: int = 0
    nbytes: int = 0
    psnr_db: dict[str, float] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


class _Over(Exception):
    """The rest is for later."""


@dataclass(frozen=True)
class _Segment:
    number: int
    rows: int
    path: Path


def compress(
    store: str | Path,
    config: CompressionConfig | None = None,
    min_free_bytes: int = 0,
    is_over: Callable[[], bool] = lambda: False,
    progress: Progress | None = None,
) -> CompressionReport:
    """Compress the columns of full segments that are not yet, the oldest first. Others may read and write the store.

    Args:
        store: The store.
        config: Which columns, and how.
        min_free_bytes: Room to leave on the disk.
        is_over: Asked many times a second: whether to leave the rest for later.
        progress: Called with bytes of plain columns done, and in all.

    Raises:
        StoreError: There is no store, or another process looks after it.
        StoreFull: There is no room for the compressed file beside the plain one; that stays.
        ConfigError: There is no such column, or it cannot be coded so.
    """
    config, store = config or CompressionConfig(), Path(store)
    report = CompressionReport()
    if config.is_off:
        return report
    with closing(StoreReader(store)) as reader:
        if reader.schema is None:
            return report
        codings = _codings(reader.layout, config)
        with upkeep_lock(store):
            work = _Work(reader, codings, config.raw_bytes, min_free_bytes, is_over, report)
            try:
                work.run(progress or (lambda done, total: None))
            except _Over:
                pass
            except OSError as error:
                raise disk_error(store, error) from error
    return report


def waits(store: str | Path, config: CompressionConfig) -> bool:
    """Whether :func:`compress` would find something to do: a look that costs next to nothing.

    Raises:
        StoreError: There is no store.
        ConfigError: There is no such column, or it cannot be coded so.
    """
    if config.is_off:
        return False
    with closing(StoreReader(store, with_extents=False)) as reader:
        if reader.schema is None:
            return False
        codings = _codings(reader.layout, config)
        return any(
            (segment.path / file.filename).exists()
            for segment in _full_segments(reader, config.raw_bytes)
            for file in codings
        )


def decompress(store: str | Path, progress: Progress | None = None) -> CompressionReport:
    """Make all compressed columns plain again; what was lost by a lossy coding stays so. Then releases that do not
    know compressed columns take the store again, unless segments were passed over: damaged ones, and those on a disk
    that is away.

    Raises:
        StoreError: There is no store, or another process looks after it.
        StoreFull: There is no room for a plain file beside the compressed one; that stays.
        StoreCorrupt: A compressed file is damaged, and stays.
    """
    store, report = Path(store), CompressionReport()
    with closing(StoreReader(store)) as reader, upkeep_lock(store):
        if reader.schema is None:
            return report
        capacity = reader.meta.segment_rows
        work = [
            (segment, file)
            for segment in _full_segments(reader, 0)
            for file in reader.layout.files
            if can_pack(file) and (segment.path / file.packed_filename).exists()
        ]
        for number, (segment, file) in enumerate(work):
            packed = segment.path / file.packed_filename
            nbytes = packed.stat().st_size
            if (segment.path / file.filename).exists():  # the last call was killed
                packed.unlink()
            else:
                require_space(store, capacity * file.stride)
                try:
                    unpack_file(segment.path, file, capacity)
                except OSError as error:
                    raise disk_error(store, error) from error
            report.nbytes += nbytes
            report.raw_nbytes += segment.rows * file.stride
            if progress is not None:
                progress(number + 1, len(work))
        report.segments = len({segment.number for segment, _ in work})
        _unmark(store)
    return report


def saved_bytes(
    reader: StoreReader, known: dict[str, tuple[tuple[int, int], int]] | None = None
) -> int:
    """How many bytes less a store takes than its rows as they came.

    Args:
        reader: Of the store.
        known: Size and time of last change of each compressed file, and what it saves, as the call before left
            them: only files that have changed since are opened. It is brought up to date.
    """
    if reader.schema is None:
        return 0
    before, now = dict(known or {}), dict[str, tuple[tuple[int, int], int]]()
    files = [file for file in reader.layout.files if can_pack(file)]
    for segment in _entries(reader.path / SEGMENTS):
        there = {entry.name: entry for entry in _entries(segment)}
        for file in files:
            entry = there.get(file.packed_filename)
            if entry is None or file.filename in there:
                continue
            with suppress(OSError, StoreCorrupt):
                found = entry.stat()
                state = found.st_size, found.st_mtime_ns
                if (same := before.get(entry.path)) is not None and same[0] == state:
                    now[entry.path] = same
                    continue
                with PackedColumn(Path(entry.path), file) as column:
                    saved = column.header.rows * file.stride - column.header.nbytes
                now[entry.path] = state, saved
    if known is not None:
        known.clear()
        known.update(now)
    return sum(saved for _, saved in now.values())


def _entries(directory: str | os.PathLike[str]) -> list[os.DirEntry[str]]:
    """What lies in a directory; nothing where it is none, or has gone."""
    with suppress(OSError), os.scandir(directory) as entries:
        return list(entries)
    return []


def lossy_codings(path: Path, layout: RowLayout) -> tuple[str, ...]:
    """With which loss each large column of a segment is coded; empty for one that has none, or cannot be read now."""
    found = []
    for file in filter(can_pack, layout.files):
        coding = ""
        with suppress(OSError, StoreCorrupt):
            if (column := open_packed(path, file)) is not None:
                with column:
                    coding = "" if column.exact else column.header.coding
        found.append(coding)
    return tuple(found)


def carry_over(target: Path, layout: RowLayout, pieces: Sequence[tuple[Path, int, int]]) -> None:
    """Keep images that were compressed with loss as they are stored, where their rows were written to a new segment:
    coded again they would lose again.

    Args:
        target: Directory of the new segment, which nobody reads yet; its plain files are complete.
        layout: Of the store.
        pieces: Directory of the old segment, first row and rows of each piece, in the order of the new rows.

    Raises:
        OSError: The disk is full.
        StoreCorrupt: An old file is damaged.
    """
    for file in filter(can_pack, layout.files):
        lossy = {
            path: column
            for path in dict.fromkeys(path for path, *_ in pieces)
            if (column := open_packed(path, file)) is not None
        }
        try:
            coding = next((c.header.coding for c in lossy.values() if not c.exact), "")
            if coding:
                _join(target, file, coding, lossy, pieces)
        finally:
            for column in lossy.values():
                column.close()


def _join(
    target: Path,
    file: ColumnFile,
    coding: str,
    columns: dict[Path, PackedColumn],
    pieces: Sequence[tuple[Path, int, int]],
) -> None:
    rows = sum(count for *_, count in pieces)
    shape = file.dtype[0].shape
    packed = target / file.packed_filename
    with PackedWriter(packed, file, rows, coding) as writer:
        waiting: list[bytes] = []
        for path, start, count in pieces:
            column = columns.get(path)
            if column is not None and not column.exact:
                waiting += column.images(start, count)
            else:
                images = RowLayout.view(file, read_rows(path, file, start, count))[file.name]
                waiting += lossy_images(images.reshape(count, *shape), coding)
            while len(waiting) >= GROUP_ROWS:
                writer.add_images(waiting[:GROUP_ROWS])
                del waiting[:GROUP_ROWS]
        if waiting:
            writer.add_images(waiting)
        writer.finish()
    sync_directory(target)
    (target / file.filename).unlink()


@contextmanager
def upkeep_lock(store: Path) -> Iterator[None]:
    """Held while segments of a store are compressed or moved. Raises StoreError where another process does so."""
    lock = FileLock(
        store / UPKEEP_LOCK, f"upkeep of replay store {store}",
        "The node of a store compresses and moves its segments by itself: wait until it is done",
    )  # fmt: skip
    try:
        yield
    finally:
        lock.release()


class _Work:
    """One pass over a store."""

    def __init__(
        self,
        reader: StoreReader,
        codings: dict[ColumnFile, str],
        raw_bytes: int,
        min_free_bytes: int,
        is_over: Callable[[], bool],
        report: CompressionReport,
    ) -> None:
        self._reader, self._codings, self._report = reader, codings, report
        self._min_free_bytes, self._is_over = min_free_bytes, is_over
        self._segments = list(_full_segments(reader, raw_bytes))

    def run(self, progress: Progress) -> None:
        """Compress; raises _Over, StoreFull, OSError."""
        for segment in self._segments:
            for left in segment.path.glob(f"*{NEW_SUFFIX}"):  # of a call that was killed
                left.unlink(missing_ok=True)
        work = [
            (segment, files)
            for segment in self._segments
            if (files := [f for f in self._codings if (segment.path / f.filename).exists()])
        ]
        total = sum(segment.rows * f.stride for segment, files in work for f in files)
        done = 0
        for segment, files in work:
            self._before_group()
            try:
                self._segment(segment, files)
            except FileNotFoundError as error:  # retention took it meanwhile
                if self._is_known(segment):
                    raise
                self._note(segment, f"{error.filename} went")
            except StoreCorrupt as error:
                self._note(segment, str(error))
            done += sum(segment.rows * file.stride for file in files)
            progress(done, total)

    def _segment(self, segment: _Segment, files: list[ColumnFile]) -> None:
        todo = []
        for file in files:
            if (segment.path / file.packed_filename).exists():  # killed before the plain one went
                (segment.path / file.filename).unlink()
            else:
                todo.append(file)
        if not todo:
            return
        self._require_whole(segment)
        _mark(self._reader.path)
        for file in todo:
            header = pack_file(
                segment.path, file, segment.rows, self._codings[file], self._before_group
            )
            report = self._report
            report.raw_nbytes += segment.rows * file.stride
            report.nbytes += header.nbytes
            if header.psnr_db is not None:
                before = report.psnr_db.get(file.name, header.psnr_db[0])
                report.psnr_db[file.name] = min(before, header.psnr_db[0])
        self._report.segments += 1

    def _is_known(self, segment: _Segment) -> bool:
        """Whether the index has a segment; the files of one that it has not may be on their way out."""
        found = self._reader.connection.execute(
            "SELECT 1 FROM segments WHERE id = ?", (segment.number,)
        )
        return found.fetchone() is not None

    def _before_group(self) -> None:
        if self._is_over():
            raise _Over
        require_space(self._reader.path, self._min_free_bytes)

    def _require_whole(self, segment: _Segment) -> None:
        """Damaged rows must stay as they are: what a lossy coding made of them would look right."""
        layout, block_rows = self._reader.layout, self._reader.meta.block_rows
        for entry in self._reader.log(segment.number):
            self._before_group()
            require_whole(segment.path, layout, block_rows, entry)

    def _note(self, segment: _Segment, reason: str) -> None:
        self._report.notes.append(f"segment {segment.number} stays as it is: {reason}")


def _codings(layout: RowLayout, config: CompressionConfig) -> dict[ColumnFile, str]:
    """Coding of each column file that is to be compressed."""
    files = [file for file in layout.files if can_pack(file)]
    names = [file.name.removeprefix(OBSERVATION) for file in files]
    unknown = sorted(config.cameras.keys() - {*names, *(file.name for file in files)})
    if unknown:
        raise ConfigError(
            "compression.cameras", got=", ".join(unknown),
            expected=f"columns with a file of their own: {', '.join(names) or 'there are none'}",
        )  # fmt: skip
    found: dict[ColumnFile, str] = {}
    for file in files:
        coding = config.coding(file.name)
        if coding == RAW:
            continue
        if coding == config.images and not can_code(file, coding):
            coding = LOSSLESS
        require_coding(file, coding)
        found[file] = coding
    return found


def _full_segments(reader: StoreReader, raw_bytes: int) -> Iterator[_Segment]:
    """Sealed segments, the oldest first, without the newest of this many bytes, damaged ones, those on a disk that is
    away, and those that are in a bucket."""
    stay, newer = raw_bytes // reader.layout.row_nbytes, 0
    rows = reader.connection.execute(
        "SELECT id, rows, sealed FROM segments ORDER BY id DESC"
    ).fetchall()
    damaged = {damage.segment for damage in reader.tables.damages}
    found = []
    for number, count, sealed in rows:
        path = segment_directory(reader.path, number)
        old, newer = newer >= stay, newer + count
        moved = is_away(path) or in_bucket(path) is not None  # its digests are those of these files
        if old and sealed and count and number not in damaged and not moved:
            found.append(_Segment(number, count, path))
    yield from reversed(found)


def _mark(store: Path) -> None:
    """Let releases that do not know compressed columns refuse the store."""
    _set_version(store, PACKED_VERSION)


def _unmark(store: Path) -> None:
    """Let them take it again, where nothing is compressed any more."""
    segments = list((store / SEGMENTS).iterdir())
    if not any(is_away(path) or any(path.glob("*.packed")) for path in segments):
        _set_version(store, FORMAT_VERSION)


def _set_version(store: Path, wanted: int) -> None:
    with corruption_named(store / INDEX_NAME), closing(connect(store, writable=True)) as index:
        write_meta(index, format_version=wanted)
