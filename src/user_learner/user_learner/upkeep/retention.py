"""Retention by rule: of old segments the episodes that count stay, in segments of their own.

A sealed segment never changes. What is kept of several is written to a new one, beside them and
without a lock; then one transaction lets the index speak of the new one, and forget the others. A
crash before leaves files that the next opening removes, a crash after it likewise.
"""

from __future__ import annotations

import json
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from sqlite3 import Connection

from user_core.errors import StoreCorrupt
from user_core.types import EpisodeKey, EpisodeSource, Outcome
from user_learner.edits.log import EditLog
from user_learner.edits.state import EditState
from user_learner.replay.config import RetentionConfig
from user_learner.replay.index import StoreMeta, load_meta, set_meta, transaction
from user_learner.replay.layout import LogEntry, encode_entry
from user_learner.replay.maintenance import FORGETTABLE, Retired, forget
from user_learner.replay.pending_index import CLOSED, SegmentState
from user_learner.replay.reader import EpisodeInfo, StoreReader
from user_learner.replay.recovery import bad_block
from user_learner.replay.segments import (
    OpenSegment,
    SegmentFiles,
    read_rows,
    remove_segment,
    segment_directory,
    segment_header,
)
from user_learner.replay.writer import StoreWriter

#: Tag of `user episodes tag` with which an episode stays.
KEEP_TAG = "keep"


@dataclass
class Plan:
    """What is to be rewritten.

    Attributes:
        source: Of the episodes.
        segments: Numbers of the old segments, with their rows.
        extents: Id, segment, start, rows of what stays, in the order of the new rows.
        dropped: Rows that go.
    """

    source: EpisodeSource
    segments: list[tuple[int, int]] = field(default_factory=list)
    extents: list[tuple[int, int, int, int]] = field(default_factory=list)
    dropped: int = 0

    @property
    def rows(self) -> int:
        """Rows that stay."""
        return sum(rows for *_, rows in self.extents)


@dataclass
class Rewritten:
    """A new segment that the index does not know yet.

    Attributes:
        plan: Of which.
        state: What the index is to say of it; None where nothing stays.
        moved: Id of an extent to its new start.
    """

    plan: Plan
    state: SegmentState | None
    moved: dict[int, int]


def retain(
    writer: StoreWriter,
    policy: RetentionConfig | None = None,
    is_over: Callable[[], bool] = lambda: False,
) -> list[Retired]:
    """Drop what a policy (by default the writer's) lets go, whole segments or by rule.

    Args:
        writer: Of the store; may append meanwhile, from other threads.
        policy: What stays.
        is_over: Asked between two steps of some seconds: whether to leave the rest for later.

    Raises:
        StoreFull, StoreError: The disk is full, or fails; what was not dropped is there.
    """
    policy = policy or writer.config.retention
    if policy.keeps_all or not policy.by_rule:
        return writer.retain(policy)
    writer.commit_staged()
    gone: list[Retired] = []
    with closing(StoreReader(writer.path)) as reader:
        for plan in plans(reader, policy):
            if is_over():
                break
            gone += writer.rewrite(
                plan.rows * reader.layout.row_nbytes,
                partial(rewrite, reader, plan),
                partial(install, writer.path),
            )
    return gone


def plans(reader: StoreReader, policy: RetentionConfig) -> Iterator[Plan]:
    """What to rewrite, the oldest first, until the limits are met.

    Args:
        reader: Of the store.
        policy: Its limits, and what stays.
    """
    if reader.schema is None:
        return
    db, row_nbytes = reader.connection, reader.layout.row_nbytes
    limits = [n for n in (policy.max_rows, policy.max_bytes // row_nbytes) if n]
    total = int(db.execute("SELECT coalesce(sum(rows), 0) FROM segments").fetchone()[0])
    if not limits or total <= min(limits):
        return
    stays = _stays(reader, policy)
    open_ones: dict[EpisodeSource, Plan] = {}
    going: set[int] = set()  # no episode is cut in two: where its beginning goes, it goes
    for segment, source, rows in db.execute(
        "SELECT id, source, rows FROM segments WHERE sealed AND source IN (?, ?) AND id NOT IN"
        " (SELECT segment FROM quarantine) ORDER BY id",
        FORGETTABLE,
    ).fetchall():
        extents = db.execute(
            "SELECT id, segment, start, rows, episode FROM extents WHERE segment = ?"
            " ORDER BY start",
            (segment,),
        ).fetchall()
        if total > min(limits):
            going |= {row[4] for row in extents} - stays
        kept = [tuple(row[:4]) for row in extents if row[4] not in going]
        here = sum(row[3] for row in kept)
        if here == rows:
            continue
        kind = EpisodeSource(source)
        plan = open_ones.get(kind)
        if plan is not None and plan.rows + here > reader.meta.segment_rows:
            yield open_ones.pop(kind)
            plan = None
        plan = open_ones.setdefault(kind, plan or Plan(kind))
        plan.segments.append((segment, rows))
        plan.extents += kept
        plan.dropped += rows - here
        total -= rows - here
    yield from open_ones.values()


def _stays(reader: StoreReader, policy: RetentionConfig) -> set[int]:
    """Numbers of the episodes that stay."""
    edits = EditState.of(EditLog(reader.path).edits)
    tests: dict[str, Callable[[EpisodeInfo], bool]] = {
        "successes": lambda one: (
            edits.of_episode(one.key).outcome or (one.result and one.result.outcome)
        ) is Outcome.SUCCESS,
        "interventions": lambda one: bool(one.result and one.result.interventions),
        "tagged": lambda one: KEEP_TAG in edits.of_episode(one.key).tags,
    }  # fmt: skip
    chosen = [tests[name] for name in policy.keep]
    ended = dict(reader.connection.execute("SELECT id, ended FROM episodes"))
    numbers = reader.episode_numbers()
    stays = {  # what is in segments that are being filled cannot go as a whole
        row[0]
        for row in reader.connection.execute(
            "SELECT DISTINCT x.episode FROM extents x JOIN segments s ON s.id = x.segment"
            " WHERE NOT s.sealed"
        )
    }
    rest = 0
    for one in reader.episodes():
        number = numbers[one.key]
        if ended.get(number, 0) < CLOSED or any(test(one) for test in chosen):
            stays.add(number)
        elif policy.thin:
            if rest % policy.thin == 0:
                stays.add(number)
            rest += 1
    return stays


def rewrite(reader: StoreReader, plan: Plan, meta: StoreMeta, number: int) -> Rewritten:
    """Write what stays to a segment of this number, durably; needs no lock.

    Raises:
        OSError: The disk is full; nothing has changed.
        StoreCorrupt: An old segment is damaged; nothing has changed.
    """
    if not plan.extents:
        return Rewritten(plan, None, {})
    store, layout = reader.path, reader.layout
    state = SegmentState(number, int(plan.source), created_ns=time.time_ns())
    fresh = OpenSegment(store, layout, state, segment_header(meta, number, int(plan.source)))
    try:
        pieces = {segment: _pieces(reader, segment) for segment, _ in plan.segments}
        keys = _keys(reader, plan)
        moved: dict[int, int] = {}
        told: set[tuple[int, EpisodeKey]] = set()
        for extent, segment, start, rows in plan.extents:
            moved[extent], key = state.rows, keys[extent]
            path = segment_directory(store, segment)
            for entry in pieces[segment][key]:
                is_new = (segment, key) not in told
                if not (start <= entry.start < start + rows if entry.rows else is_new):
                    continue
                at, checksums = state.rows, {}
                if entry.rows:
                    _require_whole(reader, meta, segment, entry)
                    packed = [read_rows(path, f, entry.start, entry.rows) for f in layout.files]
                    checksums = fresh.write(packed, meta.block_rows)
                fresh.write_log(encode_entry(replace(entry, start=at, checksums=checksums)))
            told.add((segment, key))
        state.sealed = True
        files = SegmentFiles()
        try:
            fresh.add_to(files)
            with ThreadPoolExecutor(4) as pool:
                files.sync(pool)
        finally:
            files.close()
    except BaseException:
        fresh.close()
        remove_segment(segment_directory(store, number))
        raise
    fresh.close()
    return Rewritten(plan, state, moved)


def _require_whole(reader: StoreReader, meta: StoreMeta, segment: int, entry: LogEntry) -> None:
    """Damaged rows must not get checksums that are right for them."""
    path = segment_directory(reader.path, segment)
    block = bad_block(path, reader.layout, meta.block_rows, entry)
    if block is not None:
        raise StoreCorrupt(
            f"segment {segment} of {reader.path}", got=f"another checksum of block {block}",
            expected="rows as they were written, to keep some of them",
            hint="user replay verify STORE --repair sets damaged rows aside",
        )  # fmt: skip


def _pieces(reader: StoreReader, segment: int) -> dict[EpisodeKey, list[LogEntry]]:
    """What the log of a segment says of each episode."""
    found: dict[EpisodeKey, list[LogEntry]] = defaultdict(list)
    for entry in reader.log(segment):
        found[entry.episode].append(entry)
    return found


def _keys(reader: StoreReader, plan: Plan) -> dict[int, EpisodeKey]:
    """Of which episode each extent is."""
    found: dict[int, EpisodeKey] = {}
    for segment, _ in plan.segments:
        for extent, *key in reader.connection.execute(
            "SELECT x.id, e.producer, e.incarnation, e.number FROM extents x"
            " JOIN episodes e ON e.id = x.episode WHERE x.segment = ?", (segment,),
        ):  # fmt: skip
            found[extent] = EpisodeKey(*key)
    return found


def install(store: Path, connection: Connection, done: Rewritten) -> list[Retired]:
    """Let the index speak of the new segment, and forget the old ones; then remove their files."""
    plan, state = done.plan, done.state
    with transaction(connection):
        meta = load_meta(connection)
        commit = meta.commit_id + 1
        if state is not None:
            connection.execute(
                "INSERT INTO segments VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                (state.id, state.source, state.rows, state.log_bytes, json.dumps(state.checksums),
                 1, state.created_ns, commit),
            )  # fmt: skip
            for extent, segment, start, rows in plan.extents:
                to = done.moved[extent]
                connection.execute(
                    "UPDATE extents SET segment = ?, start = ?, commit_id = ? WHERE id = ?",
                    (state.id, to, commit, extent),
                )
                for begin, count, who in connection.execute(
                    "SELECT start, rows, acted_by FROM actors WHERE segment = ? AND start >= ?"
                    " AND start < ?", (segment, start, start + rows),
                ).fetchall():  # fmt: skip
                    connection.execute(
                        "INSERT OR REPLACE INTO actors VALUES (?, ?, ?, ?, ?)",
                        (state.id, begin - start + to, count, who, commit),
                    )
        gone = sum(rows for _, rows in plan.segments)
        retired = [
            Retired(
                segment, plan.source, round(plan.dropped * rows / gone) if gone else 0, "by rule"
            )
            for segment, rows in plan.segments
        ]
        forget(connection, retired)
        set_meta(connection, commit_id=commit, removals=meta.removals + 1)
    for segment, _ in plan.segments:
        remove_segment(segment_directory(store, segment))
    return retired
