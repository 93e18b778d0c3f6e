"""Opening a store for writing: make it, or find and repair what a crash or a bad disk did.

A lost index is written again from the logs of the segments.
"""

from __future__ import annotations

import json
import os
import re
import sqlite3
import time
import zlib
from collections import defaultdict
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from user_core.errors import SpecError, StoreCorrupt, StoreError
from user_core.specs import Array
from user_core.types import ChunkId, EpisodeKey, EpisodeSource, TrajectorySchema
from user_learner.replay.index import (
    FORMAT_VERSION,
    INDEX_NAME,
    PACKED_VERSION,
    WHOLE_SEGMENT,
    Damage,
    connect,
    create_index,
    damages,
    load_meta,
    seal,
    set_aside,
    set_meta,
    transaction,
)
from user_learner.replay.layout import LOG_NAME, RECORDS, LogEntry, LogHeader, RowLayout, read_log
from user_learner.replay.pending_index import CLOSED, PendingIndex, SegmentState
from user_learner.replay.segments import (
    SEGMENTS,
    check_sizes,
    disk_is_away,
    is_away,
    read_rows,
    remove_leaving,
    remove_unknown,
    rows_differ,
    segment_directory,
    where_away,
)


def open_or_repair(store: Path) -> list[str]:
    """Make the store ready to be written; return what was found wrong and repaired.

    A damaged index is set aside, with its name telling so, and rebuilt from the logs of the
    segments. Missing, truncated or torn segments are quarantined, but not those on a disk that is
    away. What a crash left between two steps of a commit is removed.

    Raises:
        StoreError: The index has to be rebuilt, and segments are away.
    """
    (store / SEGMENTS).mkdir(exist_ok=True)
    warnings = _ensure_index(store)
    with closing(connect(store, writable=True)) as connection:
        meta = load_meta(connection)
        found = [] if meta.schema is None else _examine(store, connection, RowLayout(meta.schema))
        if found:
            set_aside(connection, found)
            warnings += [f"segment {d.segment} set aside: {d.reason}" for d in found]
        warnings += _seal_without_log(store, connection)
        # never committed, or retired
        remove_unknown(store, (row[0] for row in connection.execute("SELECT id FROM segments")))
        remove_leaving(store)
        warnings += _away(store, connection)
    return warnings


def _ensure_index(store: Path) -> list[str]:
    path = store / INDEX_NAME
    reason = "it was missing"
    if path.exists():
        try:
            with closing(connect(store, writable=True)) as connection:
                load_meta(connection)
            return []
        except StoreCorrupt as error:
            reason = str(error)
    elif not any((store / SEGMENTS).iterdir()):
        create_index(store)
        return []
    kept = set_index_aside(store)
    warnings = rebuild_index(store)
    return [
        f"index rebuilt from the logs of the segments, because {reason}"
        + (f"; the damaged one is kept as {kept}" if kept else ""),
        *warnings,
    ]


def set_index_aside(store: Path) -> str:
    """Rename the index and what SQLite keeps beside it; return the new name, or nothing."""
    kept = f"{INDEX_NAME}.damaged-{time.time_ns()}"
    for suffix in ("-shm", "-wal", ""):
        path = store / (INDEX_NAME + suffix)
        if path.exists():
            os.replace(path, store / (kept + suffix))
    return kept if (store / kept).exists() else ""


def _examine(store: Path, connection: sqlite3.Connection, layout: RowLayout) -> list[Damage]:
    """Sizes of all files, and checksums of the blocks that were being filled."""
    known = {(d.segment, d.block) for d in damages(connection)}
    found = []
    for segment, rows in connection.execute("SELECT id, rows FROM segments").fetchall():
        path = segment_directory(store, segment)
        if is_away(path):  # it comes back as it was; rows that are set aside would not
            continue
        reason = check_sizes(path, layout, rows, 0)
        if reason and (segment, WHOLE_SEGMENT) not in known:
            found.append(Damage(segment, WHOLE_SEGMENT, reason))
    block_rows = load_meta(connection).block_rows
    for state, _ in PendingIndex(connection).open_segments():
        path = segment_directory(store, state.id)
        if any(damage.segment == state.id for damage in found) or not state.rows or is_away(path):
            continue
        block = (state.rows - 1) // block_rows
        start = block * block_rows
        for file, expected in zip(layout.files, state.checksums, strict=True):
            raw = read_rows(path, file, start, state.rows - start)
            if zlib.crc32(raw.reshape(-1).data) != expected:
                reason = f"checksum of {file.filename}, rows {start} to {state.rows - 1}"
                found.append(Damage(state.id, block, reason))
                break
    return found


def _seal_without_log(store: Path, connection: sqlite3.Connection) -> list[str]:
    """A segment whose log is cut short is still read, but nothing is appended to it."""
    warnings = []
    for state, _ in PendingIndex(connection).open_segments():
        log = segment_directory(store, state.id) / LOG_NAME
        if not log.exists() or log.stat().st_size < state.log_bytes:
            with transaction(connection):
                seal(connection, state.id, load_meta(connection).commit_id)
            warnings.append(f"segment {state.id} closed: its log is missing or cut short")
    return warnings


def _away(store: Path, connection: sqlite3.Connection) -> list[str]:
    """What to say of segments on a disk that is not there. Of those in a bucket there is nothing to say: they come."""
    numbers = [row[0] for row in connection.execute("SELECT id FROM segments ORDER BY id")]
    away = [path for n in numbers if disk_is_away(path := segment_directory(store, n))]
    if not away:
        return []
    return [f"{len(away)} segments are passed over while {where_away(away[0])} is away"]


# --------------------------------------------------------------------------------------------------
# Rebuilding a lost index from the logs of the segments
# --------------------------------------------------------------------------------------------------


@dataclass
class _Found:
    """A segment as its own files describe it; ``entries`` with the end of each line."""

    header: LogHeader
    log_start: int
    entries: list[tuple[LogEntry, int]] = field(default_factory=list)
    damages: list[Damage] = field(default_factory=list)

    @property
    def rows(self) -> int:
        return max((entry.start + entry.rows for entry, _ in self.entries), default=0)


def rebuild_index(store: Path) -> list[str]:
    """Write a new index for the segments of a store; return what could not be taken over.

    Raises:
        StoreCorrupt: Not one segment can be understood.
        StoreError: Segments are on a disk that is away: the new index would know nothing of them.
    """
    for path in sorted((store / SEGMENTS).iterdir()):
        if is_away(path) and re.fullmatch(r"\d{8}", path.name):
            raise StoreError(
                f"index of replay store {store} is to be rebuilt",
                got=f"segment {path.name} on {where_away(path)}, and not here",
                expected="all segments",
                hint="Mount that disk, or user data tier STORE --back brings them from a bucket; then open the "
                "store again",
            )  # fmt: skip
    warnings: list[str] = []
    found: list[_Found] = []
    unread: list[Path] = []
    for path in sorted((store / SEGMENTS).iterdir()):
        if re.fullmatch(r"\d{8}", path.name):
            try:
                found.append(_read(path))
            except (StoreCorrupt, OSError, SpecError) as error:
                unread.append(path)
                warnings.append(f"segment {path.name} cannot be understood: {error}")
    if not found:
        raise StoreCorrupt(
            f"replay store {store} has neither an index nor a segment that can be read",
            hint="Start a new store; what is left of this one is kept as it is",
        )
    layout = RowLayout(TrajectorySchema.from_dict(found[0].header.schema))
    all_readable = not warnings
    warnings += _validate(store, layout, found)
    if all_readable:  # then what is incomplete was never committed
        _cut_incomplete_chunks(found)
    _write_index(store, layout, found, warnings)
    for path in unread:  # what the index does not know would be removed
        kept = store / f"{path.name}.damaged-{time.time_ns()}"
        os.replace(path, kept)
        warnings.append(f"segment {path.name} is kept as {kept.name}")
    warnings += [f"segment {d.segment} set aside: {d.reason}" for f in found for d in f.damages]
    return warnings


def _read(path: Path) -> _Found:
    data = (path / LOG_NAME).read_bytes()
    header, entries = read_log(data, str(path / LOG_NAME))
    found = _Found(header, data.index(b"\n") + 1)
    # the line that was being written when the machine stopped, and what follows it, is left out
    with suppress(StoreCorrupt):
        found.entries.extend(entries)
    return found


def _validate(store: Path, layout: RowLayout, found: list[_Found]) -> list[str]:
    """Compare rows with the checksums of their logs; return what was cut off, for people.

    Rows that disagree were being written when the machine stopped, and are cut off, where
    they end their segment and no later chunk of their producer is whole. Others are damaged.
    """
    bad: list[list[int | None]] = []
    newest: dict[tuple[str, int], int] = defaultdict(int)
    for segment in found:
        bad.append(_bad_blocks(store, layout, segment))
        for (entry, _), block in zip(segment.entries, bad[-1], strict=True):
            if block is None and entry.chunk is not None:
                producer = entry.chunk.producer, entry.chunk.incarnation
                newest[producer] = max(newest[producer], entry.chunk.sequence)
    warnings = []
    for segment, blocks in zip(found, bad, strict=True):
        cut = 0
        while blocks and blocks[-1] is not None and not segment.damages:
            chunk = segment.entries[-1][0].chunk
            if chunk and chunk.sequence <= newest[chunk.producer, chunk.incarnation]:
                break
            blocks.pop()
            segment.entries.pop()
            cut += 1
        number = segment.header.segment
        segment.damages += [
            Damage(number, block, f"checksum of block {block}")
            for block in sorted({block for block in blocks if block is not None})
            if not segment.damages
        ]
        if cut:
            warnings.append(f"segment {number}: {cut} unfinished pieces cut off its end")
    return warnings


def _bad_blocks(store: Path, layout: RowLayout, found: _Found) -> list[int | None]:
    """For each entry the first block that disagrees with its checksums."""
    segment, path = found.header.segment, segment_directory(store, found.header.segment)
    reason = check_sizes(path, layout, found.rows, 0)
    if reason:
        found.damages.append(Damage(segment, WHOLE_SEGMENT, reason))
        return [0] * len(found.entries)
    return [bad_block(path, layout, found.header.block_rows, entry) for entry, _ in found.entries]


def bad_block(path: Path, layout: RowLayout, block_rows: int, entry: LogEntry) -> int | None:
    """The first block that disagrees with an entry's checksums, if one does."""
    end = entry.start + entry.rows
    for block, expected in entry.checksums.items():
        start, stop = block * block_rows, min(end, (block + 1) * block_rows)
        for file, checksum in zip(layout.files, expected, strict=True):
            if rows_differ(path, file, start, stop - start, checksum):
                return block
    return None


def require_whole(path: Path, layout: RowLayout, block_rows: int, entry: LogEntry) -> None:
    """Refuse rows that are damaged: written anew they would get checksums that are right for them.

    Raises:
        StoreCorrupt: A block of a segment's directory disagrees with an entry's checksums.
    """
    block = bad_block(path, layout, block_rows, entry)
    if block is not None:
        raise StoreCorrupt(
            f"segment {path}", got=f"another checksum of block {block}",
            expected="rows as they were written",
            hint="user replay verify STORE --repair sets damaged rows aside",
        )  # fmt: skip


def _cut_incomplete_chunks(found: list[_Found]) -> None:
    """Cut off the beginnings of chunks whose other piece, in another segment, never came."""
    pieces: dict[ChunkId | EpisodeKey, int] = defaultdict(int)
    for segment in found:
        for entry, _ in segment.entries:
            pieces[entry.chunk or entry.episode] += entry.rows
    for segment in found:
        while segment.entries:
            entry, _ = segment.entries[-1]
            if pieces[entry.chunk or entry.episode] == entry.total:
                break
            segment.entries.pop()


def _write_index(store: Path, layout: RowLayout, found: list[_Found], warnings: list[str]) -> None:
    create_index(store)
    header = found[0].header
    with closing(connect(store, writable=True)) as connection:
        with transaction(connection):
            set_meta(
                connection,
                store=header.store,
                schema=json.dumps(header.schema),
                segment_rows=header.segment_rows,
                block_rows=header.block_rows,
                format_version=_version(store, layout, found),
                removals=time.time_ns(),  # readers of the lost index begin afresh
            )
        pending = PendingIndex(connection)
        _enter(store, layout, pending, found)
        warnings += _enter_sequences(pending, found)
        pending.flush(pending.detach())
        damages = [damage for segment in found for damage in segment.damages]
        if damages:
            set_aside(connection, damages)


def _version(store: Path, layout: RowLayout, found: list[_Found]) -> int:
    files = [file.packed_filename for file in layout.files]
    paths = [segment_directory(store, one.header.segment) for one in found]
    packed = any((path / name).exists() for path in paths for name in files)
    return PACKED_VERSION if packed else FORMAT_VERSION


def _enter(store: Path, layout: RowLayout, pending: PendingIndex, found: list[_Found]) -> None:
    """Enter segments, episodes and extents."""
    episodes: dict[EpisodeKey, list[tuple[LogEntry, SegmentState]]] = defaultdict(list)
    for segment in found:
        header, last = segment.header, segment.entries[-1:]
        log_bytes = last[0][1] if last else segment.log_start
        state = SegmentState(header.segment, header.source, segment.rows, log_bytes)
        state.sealed = state.rows == header.segment_rows
        block = (state.rows - 1) // header.block_rows
        for entry, _ in segment.entries:
            state.checksums = entry.checksums.get(block, state.checksums)
            episodes[entry.episode].append((entry, state))
        pending.changed_segment(state)
    for key, entries in episodes.items():
        first, state = entries[0]
        episode = pending.begin_episode(key, EpisodeSource(state.source), first.robot, first.task)
        for entry, state in sorted(entries, key=lambda e: (e[0].first_row, e[0].rows)):
            if entry.rows:
                acted_by, steps = _acted_by(store, layout, state, entry)
                pending.place(episode, entry.first_row, state, entry.start, acted_by, steps)
            episode.ended = max(episode.ended, entry.ended)
            episode.result = entry.result or episode.result


def _acted_by(
    store: Path, layout: RowLayout, state: SegmentState, entry: LogEntry
) -> tuple[Array, int]:
    """Who acted in the rows of an entry, and how many of them are steps."""
    records = next(file for file in layout.files if file.name == RECORDS)
    path = segment_directory(store, state.id)
    try:
        raw = read_rows(path, records, entry.start, entry.rows)
    except (StoreCorrupt, OSError):  # its segment is set aside
        return np.zeros(entry.rows, np.uint8), entry.rows - (entry.ended == CLOSED)
    rows = layout.view(records, raw)
    return rows["acted_by"], entry.rows - int(rows["final"].sum())


def _enter_sequences(pending: PendingIndex, found: list[_Found]) -> list[str]:
    """The highest number of each producer: all before it were durable when it was written."""
    numbers: dict[tuple[str, int], set[int]] = defaultdict(set)
    for segment in found:
        for entry, _ in segment.entries:
            if entry.chunk is not None:
                numbers[entry.chunk.producer, entry.chunk.incarnation].add(entry.chunk.sequence)
    warnings = []
    for (producer, incarnation), found_numbers in numbers.items():
        highest = max(found_numbers)
        missing = highest - len(found_numbers)
        pending.advance(producer, incarnation, highest, missing)
        if missing:
            warnings.append(
                f"{missing} of {highest} chunks of {producer}/{incarnation} are in no log that "
                "could be read: retired, or lost with their segment"
            )
    return warnings
