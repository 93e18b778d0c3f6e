"""Rebuilding the index from the logs of the segments, after it was lost.

Nothing that was acknowledged is lost: the logs became durable before the acknowledgement.
Chunks that were durable but not yet committed come back as well; their producers learn from
the next acknowledgement that they are here. Where rows do not match their checksums, those
at the end of a segment were being written when the machine stopped and are cut off; others
are quarantined.
"""

from __future__ import annotations

import json
import re
import time
import zlib
from collections import defaultdict
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path

from user_core.errors import SpecError, StoreCorrupt
from user_core.types import ChunkId, EpisodeKey, EpisodeSource, TrajectorySchema
from user_learner.replay.chunklog import LOG_NAME, LogEntry, LogHeader, read_log
from user_learner.replay.index import connect, create_index, set_meta, transaction
from user_learner.replay.layout import RECORDS, RowLayout
from user_learner.replay.ledger import Ledger
from user_learner.replay.quarantine import WHOLE_SEGMENT, Damage, set_aside
from user_learner.replay.segment import (
    SEGMENTS,
    SegmentState,
    check_sizes,
    read_rows,
    segment_directory,
)


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

    Raises StoreCorrupt when not one segment can be understood.
    """
    warnings: list[str] = []
    found: list[_Found] = []
    for path in sorted((store / SEGMENTS).iterdir()):
        if re.fullmatch(r"\d{8}", path.name):
            try:
                found.append(_read(path))
            except (StoreCorrupt, OSError, SpecError) as error:
                warnings.append(f"segment {path.name} cannot be understood: {error}")
    if not found:
        raise StoreCorrupt(
            f"replay store {store} has neither an index nor a segment that can be read",
            cure="Start a new store; what is left of this one is kept as it is",
        )
    layout = RowLayout(TrajectorySchema.from_dict(found[0].header.schema))
    for segment in found:
        _validate(store, layout, segment)
    if not warnings:  # all logs are there: what is incomplete was never committed
        _cut_incomplete_chunks(found)
    _write_index(store, layout, found, warnings)
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


def _validate(store: Path, layout: RowLayout, found: _Found) -> None:
    """Compare rows with the checksums of their log; cut off the end, set aside the middle."""
    segment, path = found.header.segment, segment_directory(store, found.header.segment)
    reason = check_sizes(path, layout, found.rows, 0)
    if reason:
        found.damages.append(Damage(segment, WHOLE_SEGMENT, reason))
        return
    bad = [_bad_block(path, layout, found.header.block_rows, entry) for entry, _ in found.entries]
    while bad and bad[-1] is not None:
        bad.pop()
        found.entries.pop()
    found.damages += [
        Damage(segment, block, f"checksum of block {block}")
        for block in sorted({block for block in bad if block is not None})
    ]


def _bad_block(path: Path, layout: RowLayout, block_rows: int, entry: LogEntry) -> int | None:
    """The first block that disagrees with an entry's checksums, if one does."""
    end = entry.start + entry.rows
    for block, expected in entry.checksums.items():
        start, stop = block * block_rows, min(end, (block + 1) * block_rows)
        for file, checksum in zip(layout.files, expected, strict=True):
            if zlib.crc32(read_rows(path, file, start, stop - start).reshape(-1).data) != checksum:
                return block
    return None


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
                removals=time.time_ns(),  # readers of the lost index begin afresh
            )
        ledger = Ledger(connection)
        _enter(store, layout, ledger, found)
        warnings += _enter_sequences(ledger, found)
        ledger.flush(ledger.detach())
        damages = [damage for segment in found for damage in segment.damages]
        if damages:
            set_aside(connection, damages)


def _enter(store: Path, layout: RowLayout, ledger: Ledger, found: list[_Found]) -> None:
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
        ledger.changed_segment(state)
    records = next(file for file in layout.files if file.name == RECORDS)
    for key, entries in episodes.items():
        first, state = entries[0]
        episode = ledger.begin_episode(key, EpisodeSource(state.source), first.robot, first.task)
        for entry, state in sorted(entries, key=lambda e: (e[0].first_row, e[0].rows)):
            if entry.rows:
                path = segment_directory(store, state.id)
                try:
                    raw = read_rows(path, records, entry.start, entry.rows)
                    rows = layout.view(records, raw)
                except (StoreCorrupt, OSError):
                    continue  # its segment is set aside
                steps = entry.rows - int(rows["final"].sum())
                ledger.place(episode, entry.first_row, state, entry.start, rows["acted_by"], steps)
            episode.ended = max(episode.ended, entry.ended)
            episode.result = entry.result or episode.result


def _enter_sequences(ledger: Ledger, found: list[_Found]) -> list[str]:
    """The highest number of each producer: all before it were durable when it was written."""
    numbers: dict[tuple[str, int], set[int]] = defaultdict(set)
    for segment in found:
        for entry, _ in segment.entries:
            if entry.chunk is not None:
                numbers[entry.chunk.producer, entry.chunk.incarnation].add(entry.chunk.sequence)
    warnings = []
    for (producer, incarnation), found_numbers in numbers.items():
        highest = max(found_numbers)
        ledger.advance(producer, incarnation, highest)
        missing = highest - len(found_numbers)
        if missing:
            warnings.append(
                f"{missing} of {highest} chunks of {producer}/{incarnation} are in no log that "
                "could be read: retired, or lost with their segment"
            )
    return warnings
