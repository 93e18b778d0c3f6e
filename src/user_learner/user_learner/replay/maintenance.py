"""Verification of a store against its bytes, and retention of its newest rows."""

from __future__ import annotations

import sqlite3
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from user_core.errors import StoreCorrupt, SuiteError
from user_core.types import ChunkId, EpisodeSource
from user_learner.replay.bucket import fetch, missing
from user_learner.replay.config import RetentionConfig
from user_learner.replay.index import (
    INDEX_NAME,
    WHOLE_SEGMENT,
    Damage,
    corruption_named,
    damages,
    load_meta,
    set_meta,
    transaction,
)
from user_learner.replay.layout import RECORDS, LogEntry
from user_learner.replay.pending_index import CLOSED
from user_learner.replay.reader import StoreReader
from user_learner.replay.segments import (
    check_sizes,
    disk_is_away,
    read_rows,
    remove_segment,
    rows_differ,
    segment_directory,
    where_away,
)

Progress = Callable[[int, int], None]


@dataclass
class Report:
    """What a verification found.

    Attributes:
        errors: Promises that are broken.
        warnings: What a person should know: rows set aside, chunks that retention dropped.
        damages: Rows whose bytes are wrong and that are not set aside yet.
        unread: Why segments could not be read whose disk or bucket is away: nothing says that they are damaged.
        segments: Segments that were read.
        rows: Rows that were read.
        chunks: Chunks that were found in the logs.
        episodes: Episodes in the index.
    """

    errors: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    damages: list[Damage] = field(default_factory=list)
    unread: list[str] = field(default_factory=list)
    segments: int = 0
    rows: int = 0
    chunks: int = 0
    episodes: int = 0

    @property
    def ok(self) -> bool:
        """Whether everything was read, and every promise holds."""
        return not self.errors and not self.unread


@dataclass(frozen=True)
class _Segment:
    id: int
    rows: int


def verify(store: str | Path, progress: Progress | None = None) -> Report:
    """Check a store while it may be written: one committed state of it.

    Checks the index's own structure; sizes of all files; the checksum of every block; that
    the chunks in the logs cover every row once; that no chunk is there twice or in part, and
    none is missing up to each producer's acknowledged number; that episodes and extents agree
    with the rows and their flags.

    Args:
        store: Directory of the store.
        progress: Called with rows done and rows in all.

    Raises:
        StoreError: There is no store.
        StoreCorrupt: Its index cannot be used at all; opening the store for writing rebuilds it.
    """
    reader = StoreReader(store)
    try:
        return _Verification(reader, progress or (lambda done, total: None)).run()
    finally:
        reader.close()


class _Verification:
    def __init__(self, reader: StoreReader, progress: Progress) -> None:
        self._reader, self._db, self._progress = reader, reader.connection, progress
        self._report = Report()
        self._pieces: dict[ChunkId, list[LogEntry]] = defaultdict(list)
        self._unreadable = False
        self._unread: set[int] = set()  # segments
        self._bucket_trouble = ""

    def run(self) -> Report:
        # one transaction: the committed state of its beginning, whatever is written meanwhile
        path = self._reader.path / INDEX_NAME
        with corruption_named(path), transaction(self._db, "DEFERRED"):
            self._check_index()
            known = {(d.segment, d.block): d for d in damages(self._db)}
            for damage in known.values():
                self._warn(f"segment {damage.segment} has rows that are set aside: {damage.reason}")
            rows = self._db.execute("SELECT id, rows FROM segments ORDER BY id")
            segments = [_Segment(*row) for row in rows.fetchall()]
            total = sum(segment.rows for segment in segments)
            for segment in segments:
                try:
                    self._check_segment(segment, known)
                except (
                    OSError,
                    StoreCorrupt,
                ) as error:  # for instance dropped by retention just now
                    self._unreadable = True
                    self._error(f"segment {segment.id} cannot be read: {error}")
                self._report.segments += 1
                self._report.rows += segment.rows
                self._progress(self._report.rows, total)
            self._check_sequences()
            self._check_episodes()
        return self._report

    def _check_index(self) -> None:
        for (text,) in self._db.execute("PRAGMA integrity_check(20)"):
            if text != "ok":
                self._error(f"index: {text}")

    def _check_segment(self, segment: _Segment, known: dict[tuple[int, int], Damage]) -> None:
        path = segment_directory(self._reader.path, segment.id)
        if disk_is_away(path):
            self._unreadable = True
            self._pass_over(segment, f"{where_away(path)} is away")
            return
        try:
            entries = self._reader.log(segment.id)
        except StoreCorrupt as error:
            self._unreadable = True
            self._error(str(error))
            entries = []
        checksums: dict[int, list[int]] = {}
        end = 0
        for entry in entries:
            if entry.start != end:
                self._error(f"segment {segment.id}: row {end} is in no chunk, or in two")
            end = entry.start + entry.rows
            checksums.update(entry.checksums)
            if entry.chunk is not None:
                self._pieces[entry.chunk].append(entry)
        if entries and end != segment.rows:
            self._error(f"segment {segment.id}: {segment.rows} rows, but chunks for {end}")
        if not self._bring(segment, path):
            return
        reason = check_sizes(path, self._reader.layout, segment.rows, 0)
        if reason:
            self._damage(Damage(segment.id, WHOLE_SEGMENT, reason), known)
            return
        try:
            for block, expected in checksums.items():
                self._check_block(segment, block, expected, known)
        except OSError:  # others may make room for another at any moment, and it does not come back
            if self._bring(segment, path):
                raise

    def _bring(self, segment: _Segment, path: Path) -> bool:
        """Whether a segment is here, or has come from its bucket. What is away is asked once: it may take long."""
        if not missing(path):
            return True
        if not self._bucket_trouble:
            try:
                fetch(path)
                return True
            except (StoreCorrupt, FileNotFoundError):  # lost there, or dropped by retention
                raise
            except (SuiteError, OSError) as error:  # out of reach, or the disk here is full
                self._bucket_trouble = str(error)
        self._pass_over(segment, self._bucket_trouble)
        return False

    def _pass_over(self, segment: _Segment, why: str) -> None:
        self._unread.add(segment.id)
        self._report.unread.append(f"segment {segment.id}: {why}")

    def _check_block(
        self,
        segment: _Segment,
        block: int,
        expected: list[int],
        known: dict[tuple[int, int], Damage],
    ) -> None:
        block_rows = self._reader.meta.block_rows
        start = block * block_rows
        count = min(segment.rows, start + block_rows) - start
        path = segment_directory(self._reader.path, segment.id)
        for file, checksum in zip(self._reader.layout.files, expected, strict=True):
            if rows_differ(path, file, start, count, checksum):
                reason = f"checksum of {file.filename}, rows {start} to {start + count - 1}"
                self._damage(Damage(segment.id, block, reason), known)

    def _check_sequences(self) -> None:
        found: dict[tuple[str, int], set[int]] = defaultdict(set)
        for chunk, pieces in self._pieces.items():
            found[chunk.producer, chunk.incarnation].add(chunk.sequence)
            end = 0
            for piece in sorted(pieces, key=lambda p: p.offset):
                if piece.offset < end or (pieces[0].total == 0 and len(pieces) > 1):
                    self._error(f"{chunk} is stored twice")
                end += piece.rows
            if end < pieces[0].total and not self._excused:
                self._error(f"{chunk}: {end} of {pieces[0].total} rows")
        self._report.chunks = len(self._pieces)
        for producer, incarnation, sequence, skipped in self._db.execute(
            "SELECT producer, incarnation, sequence, skipped FROM producers"
        ):
            numbers = found[producer, incarnation]
            if numbers and max(numbers) > sequence:
                self._error(
                    f"{producer}/{incarnation}: chunk {max(numbers)} is stored, and {sequence} "
                    "the last that is acknowledged"
                )
            missing = sequence - skipped - len(numbers)
            if missing and self._excused:
                self._warn(f"{producer}/{incarnation}: {missing} chunks were retired or lost")
            elif missing:
                self._error(f"{producer}/{incarnation}: {missing} acknowledged chunks are missing")

    @property
    def _excused(self) -> bool:
        """Whether chunks may be missing because whole segments are."""
        retired = self._db.execute("SELECT count(*) FROM retired").fetchone()[0]
        return bool(retired) or self._unreadable

    def _check_episodes(self) -> None:
        held = self._check_extents()
        for number, rows, gaps, ended, length in self._db.execute(
            "SELECT id, rows, gaps, ended, json_extract(nullif(result, ''), '$.length')"
            " FROM episodes"
        ):
            self._report.episodes += 1
            name = f"episode {number}"
            extents = held.get(number, [])
            here = sum(count for *_, count in extents)
            if here > rows - gaps or (here < rows - gaps and not self._excused):
                self._error(f"{name}: {rows - gaps} rows came, {here} are here")
            if gaps:
                self._warn(f"{name}: {gaps} rows never came")
            final = self._check_flags(name, extents)
            if final and ended != CLOSED:
                self._error(f"{name} has its final observation and is not closed")
            if length is not None and final and length != rows - 1 and not gaps:
                self._warn(f"{name}: its result tells of {length} steps, {rows - 1} are stored")

    def _check_extents(self) -> dict[int, list[tuple[int, int, int, int]]]:
        """First row, segment, start and rows by episode; no two may share a row."""
        held: dict[int, list[tuple[int, int, int, int]]] = defaultdict(list)
        ends: dict[int, int] = defaultdict(int)
        sizes = dict(self._db.execute("SELECT id, rows FROM segments"))
        for episode, first_row, segment, start, rows in self._db.execute(
            "SELECT episode, first_row, segment, start, rows FROM extents ORDER BY segment, start"
        ):
            if start != ends[segment]:
                self._error(f"segment {segment}: row {ends[segment]} is in no episode, or in two")
            ends[segment] = start + rows
            held[episode].append((first_row, segment, start, rows))
        for segment, rows in sizes.items():
            if ends[segment] != rows:
                self._error(f"segment {segment}: {rows} rows, but episodes for {ends[segment]}")
        return held

    def _check_flags(self, name: str, extents: list[tuple[int, int, int, int]]) -> bool:
        """Whether the episode ends with its final observation; no flag may be before the end."""
        records = next(file for file in self._reader.layout.files if file.name == RECORDS)
        flags, expected = [], None
        damaged = {d.segment for d in (*self._reader.tables.damages, *self._report.damages)}
        if (damaged | self._unread) & {segment for _, segment, _, _ in extents}:
            return False  # flags among damaged bytes say nothing
        for first_row, segment, start, rows in sorted(extents):
            if expected is not None and first_row < expected:
                self._error(f"{name}: row {first_row} is stored twice")
            expected = first_row + rows
            path = segment_directory(self._reader.path, segment)
            try:
                raw = read_rows(path, records, start, rows)
            except (OSError, StoreCorrupt):
                return False  # reported with its segment
            view = self._reader.layout.view(records, raw)
            flags.append(np.stack([view["final"], view["terminated"] | view["truncated"]]))
        if not flags:
            return False
        final, over = np.concatenate(flags, axis=1)
        if final[:-1].any() or over[:-2].any() or (over[-2:-1] & ~final[-1:]).any():
            self._error(f"{name}: rows after its end")
        return bool(final[-1])

    def _damage(self, damage: Damage, known: dict[tuple[int, int], Damage]) -> None:
        self._unreadable |= damage.block == WHOLE_SEGMENT
        if {(damage.segment, damage.block), (damage.segment, WHOLE_SEGMENT)} & known.keys():
            return
        self._report.damages.append(damage)
        self._error(f"segment {damage.segment}: {damage.reason}")

    def _error(self, text: str) -> None:
        self._report.errors.append(text)

    def _warn(self, text: str) -> None:
        self._report.warnings.append(text)


# --------------------------------------------------------------------------------------------------
# Retention: forgetting old rows by an explicit policy, whole segments at a time
# --------------------------------------------------------------------------------------------------


FORGETTABLE = (int(EpisodeSource.ONLINE), int(EpisodeSource.EVALUATION))


@dataclass(frozen=True)
class Retired:
    """A segment that was dropped.

    Attributes:
        segment: Its number.
        source: Source of its episodes.
        rows: Rows that went with it.
        reason: The limit that was exceeded.
    """

    segment: int
    source: EpisodeSource
    rows: int
    reason: str


def retire(
    store: Path, connection: sqlite3.Connection, row_nbytes: int, policy: RetentionConfig
) -> list[Retired]:
    """Drop the oldest online and evaluation segments until the policy's limits are met.

    Demonstrations and segments that are being filled always stay, also where the limits
    cannot be met then. First the index forgets, then the files go: a crash in between leaves
    files that the next opening removes. An episode whose first rows went keeps the others.
    """
    limits = [
        (policy.max_rows, f"more than {policy.max_rows} rows"),
        (policy.max_bytes // row_nbytes if policy.max_bytes else 0,
         f"more than {policy.max_bytes} bytes"),
    ]  # fmt: skip
    total = int(connection.execute("SELECT coalesce(sum(rows), 0) FROM segments").fetchone()[0])
    retired: list[Retired] = []
    candidates = connection.execute(
        "SELECT id, source, rows FROM segments WHERE sealed AND source IN (?, ?) ORDER BY id",
        FORGETTABLE,
    ).fetchall()
    for segment, source, rows in candidates:
        exceeded = [reason for limit, reason in limits if limit and total > limit]
        if not exceeded:
            break
        retired.append(Retired(segment, EpisodeSource(source), rows, exceeded[0]))
        total -= rows
    if retired:
        with transaction(connection):
            meta = load_meta(connection)
            forget(connection, retired)
            set_meta(connection, commit_id=meta.commit_id + 1, removals=meta.removals + 1)
        for gone in retired:
            remove_segment(segment_directory(store, gone.segment))
    return retired


def forget(connection: sqlite3.Connection, retired: list[Retired]) -> None:
    """Take segments out of the index, which remembers that they were there; within a transaction."""
    now = time.time_ns()
    for gone in retired:
        for table in ("extents", "actors", "quarantine"):
            connection.execute(f"DELETE FROM {table} WHERE segment = ?", (gone.segment,))
        connection.execute("DELETE FROM segments WHERE id = ?", (gone.segment,))
        connection.execute(
            "INSERT INTO retired VALUES (?, ?, ?, ?, ?)",
            (gone.segment, int(gone.source), gone.rows, gone.reason, now),
        )
