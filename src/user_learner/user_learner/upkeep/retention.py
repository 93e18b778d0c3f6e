"""Retention by rule: of old segments the episodes that count stay, in segments of their own.

A sealed segment never changes. What is kept of several is written to a new one, beside them and
without a lock; then one transaction lets the index speak of the new one, and forget the others. A
crash before leaves files that the next opening removes, a crash after it likewise.
"""

from __future__ import annotations

import hashlib
import json
import time
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from sqlite3 import Connection

import numpy as np

from user_core.errors import StoreError
from user_core.specs import Array
from user_core.types import EpisodeKey, EpisodeSource, Outcome
from user_learner.edits.log import EditLog
from user_learner.edits.state import EditState
from user_learner.replay.bucket import bring
from user_learner.replay.config import RetentionConfig
from user_learner.replay.index import StoreMeta, load_meta, set_meta, transaction
from user_learner.replay.layout import LogEntry, encode_entry
from user_learner.replay.maintenance import FORGETTABLE, Retired, forget
from user_learner.replay.pending_index import CLOSED, SegmentState
from user_learner.replay.reader import StoreReader
from user_learner.replay.recovery import require_whole
from user_learner.replay.segments import (
    OpenSegment,
    SegmentFiles,
    read_rows,
    remove_segment,
    segment_directory,
    segment_header,
)
from user_learner.replay.writer import StoreWriter
from user_learner.upkeep.apart import Apart, Stopped
from user_learner.upkeep.compression import carry_over, lossy_codings

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
        going: Numbers of the episodes that go, of these segments.
    """

    source: EpisodeSource
    segments: list[tuple[int, int]] = field(default_factory=list)
    extents: list[tuple[int, int, int, int]] = field(default_factory=list)
    dropped: int = 0
    going: set[int] = field(default_factory=set)

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
    apart: Apart | None = None,
) -> list[Retired]:
    """Drop what a policy (by default the writer's) lets go, whole segments or by rule.

    Args:
        writer: Of the store; may append meanwhile, from other threads.
        policy: What stays.
        is_over: Asked between two steps of some seconds: whether to leave the rest for later.
        apart: Writes the new segments, where given; a kill of it leaves the rest for later, too.

    Raises:
        StoreFull, StoreError: The disk is full, or fails; what was not dropped is there.
    """
    policy = policy or writer.config.retention
    if policy.keeps_all or not policy.by_rule:
        return writer.retain(policy)
    writer.commit_staged()
    gone: list[Retired] = []
    if not writer.exceeds(policy):
        return gone
    with closing(StoreReader(writer.path, with_extents=False)) as reader:
        for plan in plans(reader, policy):
            if is_over():
                break
            write = partial(rewrite, reader, plan)
            if apart is not None:
                write = partial(_rewrite_apart, apart, writer.path, plan)
            room = plan.rows * reader.layout.row_nbytes
            try:
                gone += writer.rewrite(room, write, partial(install, writer.path))
            except Stopped:
                break
        else:  # what was noted as leaving and is here stays by now: for instance, it has been tagged
            writer.note(leaving="[]")
    return gone


def plans(reader: StoreReader, policy: RetentionConfig) -> Iterator[Plan]:
    """What to rewrite, the oldest first, until the limits are met.

    No episode is cut in two: where its beginning goes, it goes. One that lies in the segments of two plans is
    in between noted in the index (:attr:`~user_learner.replay.index.StoreMeta.leaving`), so that the
    second part goes the next time if this ends before.

    Args:
        reader: Of the store.
        policy: Its limits, and what stays.
    """
    if reader.schema is None or policy.keeps_all:
        return
    db, most = reader.connection, policy.most_rows(reader.layout.row_nbytes)
    total = int(db.execute("SELECT coalesce(sum(rows), 0) FROM segments").fetchone()[0])
    leaving = reader.meta.leaving
    if total <= most and not leaving:
        return
    stays = _stays(reader, policy)
    going = np.zeros(len(stays), bool)
    going[[number for number in leaving if number < len(stays)]] = True
    going &= ~stays
    # What was coded with loss and what was not do not come together: there is one coding in a file.
    open_ones: dict[tuple[int, tuple[str, ...]], Plan] = {}
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
        if total > most:
            going[[row[4] for row in extents if not stays[row[4]]]] = True
        kept = [tuple(row[:4]) for row in extents if not going[row[4]]]
        here = sum(row[3] for row in kept)
        if rows and here == rows:
            continue
        if here:
            path = segment_directory(reader.path, segment)
            bring(path)  # it is read now
            kind = source, lossy_codings(path, reader.layout)
        else:  # it has but log entries, which can join others
            joins = next((one for one in open_ones if one[0] == source), None)
            if joins is None and not rows:
                continue
            kind = joins or (source, ())
        plan = open_ones.get(kind)
        if plan is not None and plan.rows + here > reader.meta.segment_rows:
            yield open_ones.pop(kind)
            plan = None
        plan = open_ones.setdefault(kind, plan or Plan(EpisodeSource(source)))
        plan.segments.append((segment, rows))
        plan.extents += kept
        plan.dropped += rows - here
        plan.going |= {row[4] for row in extents if going[row[4]]}
        total -= rows - here
    yield from open_ones.values()


def _stays(reader: StoreReader, policy: RetentionConfig) -> Array:
    """Which episodes stay, by number; bool. The index is asked, and nothing is held of each episode but this."""
    db = reader.connection
    size = 1 + int(db.execute("SELECT coalesce(max(id), 0) FROM episodes").fetchone()[0])

    def those(query: str, *values: object) -> Array:
        found = np.zeros(size, bool)
        for (number,) in db.execute(query, values):
            found[number] = True
        return found

    edited = [
        (number, edits)
        for key, edits in EditState.of(EditLog(reader.path).edits).episodes.items()
        if (number := reader.episode_number(key)) is not None and number < size
    ]
    result = "SELECT id FROM episodes WHERE json_extract(nullif(result, ''), ?)"
    stays = those("SELECT id FROM episodes WHERE ended < ?", CLOSED)
    if "successes" in policy.keep:
        solved = those(result + " = ?", "$.outcome", int(Outcome.SUCCESS))
        for number, edits in edited:
            if edits.outcome is not None:
                solved[number] = edits.outcome is Outcome.SUCCESS
        stays |= solved
    if "interventions" in policy.keep:
        stays |= those(result + " > 0", "$.interventions")
    if "tagged" in policy.keep:
        stays[[number for number, edits in edited if KEEP_TAG in edits.tags]] = True
    if policy.thin:
        for number, *key in db.execute("SELECT id, producer, incarnation, number FROM episodes"):
            stays[number] |= survives_thinning(EpisodeKey(*key), policy.thin)
    # What is in segments that are being filled cannot go as a whole.
    return stays | those(
        "SELECT DISTINCT x.episode FROM extents x JOIN segments s ON s.id = x.segment"
        " WHERE NOT s.sealed"
    )


def survives_thinning(key: EpisodeKey, thin: int) -> bool:
    """Whether an episode is among one in so many that stay. That depends on nothing but its key: what an earlier run
    has kept stays in each later one, and also where more are thinned out by a multiple."""
    name = f"{key.producer}/{key.incarnation}/{key.number}".encode()
    return int.from_bytes(hashlib.blake2b(name, digest_size=8).digest(), "big") % thin == 0


def rewrite(reader: StoreReader, plan: Plan, meta: StoreMeta, number: int) -> Rewritten:
    """Write what stays to a segment of this number, durably; needs no lock.

    Raises:
        OSError: The disk is full; nothing has changed.
        StoreCorrupt: An old segment is damaged; nothing has changed.
    """
    store, layout = reader.path, reader.layout
    staying = list(_staying(reader, plan))
    if not staying:
        return Rewritten(plan, None, {})
    state = SegmentState(number, int(plan.source), created_ns=time.time_ns())
    fresh = OpenSegment(store, layout, state, segment_header(meta, number, int(plan.source)))
    try:
        moved: dict[int, int] = {}
        for segment, entry, extent in staying:
            path = segment_directory(store, segment)
            at, checksums = state.rows, {}
            if entry.rows:
                moved.setdefault(extent, at)
                require_whole(path, layout, meta.block_rows, entry)
                packed = [read_rows(path, f, entry.start, entry.rows) for f in layout.files]
                checksums = fresh.write(packed, meta.block_rows)
            fresh.write_log(encode_entry(replace(entry, start=at, checksums=checksums)))
        state.sealed = True
        files = SegmentFiles()
        try:
            fresh.add_to(files)
            with ThreadPoolExecutor(4) as pool:
                files.sync(pool)
        finally:
            files.close()
        old = [(segment_directory(store, s), e.start, e.rows) for s, e, _ in staying if e.rows]
        carry_over(segment_directory(store, number), layout, old)
    except BaseException:
        fresh.close()
        remove_segment(segment_directory(store, number))
        raise
    fresh.close()
    return Rewritten(plan, state, moved)


def _rewrite_apart(apart: Apart, store: Path, plan: Plan, _: StoreMeta, number: int) -> Rewritten:
    try:
        return apart.call(rewrite_in, store, plan, number)
    except (Stopped, StoreError):  # it may have been killed
        remove_segment(segment_directory(store, number))
        raise


def rewrite_in(store: Path, plan: Plan, number: int) -> Rewritten:
    """:func:`rewrite`, of any process."""
    with closing(StoreReader(store, with_extents=False)) as reader:
        return rewrite(reader, plan, reader.meta, number)


def _staying(reader: StoreReader, plan: Plan) -> Iterator[tuple[int, LogEntry, int]]:
    """What stays of the logs of old segments, in their order: segment, entry, and the extent that it is of.

    An entry without rows, which brings a result or stands for a chunk that was refused, is of no extent (-1). It
    stays as long as its episode, wherever that has its rows: the log is what a lost index is written again from.
    """
    extents: dict[int, list[tuple[int, int, int]]] = defaultdict(list)
    for extent, segment, start, rows in plan.extents:
        extents[segment].append((start, start + rows, extent))
    for segment, _ in plan.segments:
        kept = extents[segment]
        starts = [start for start, *_ in kept]
        for entry in reader.log(segment):
            if not entry.rows:
                if _lives(reader, plan, entry.episode):
                    yield segment, entry, -1
                continue
            at = bisect_right(starts, entry.start) - 1
            if at >= 0 and entry.start < kept[at][1]:
                yield segment, entry, kept[at][2]


def _lives(reader: StoreReader, plan: Plan, key: EpisodeKey) -> bool:
    """Whether an episode is still there when a plan is done: it has rows, or never had any."""
    number = reader.episode_number(key)
    if number is None or number in plan.going:
        return False
    found = reader.connection.execute(
        "SELECT ended < ? OR rows = gaps OR EXISTS (SELECT 1 FROM extents WHERE episode = e.id)"
        " FROM episodes e WHERE id = ?",
        (CLOSED, number),
    ).fetchone()
    return bool(found[0])


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
        leaving = [n for n in sorted({*meta.leaving, *plan.going}) if _can_go(connection, n)]
        set_meta(
            connection, commit_id=commit, removals=meta.removals + 1, leaving=json.dumps(leaving)
        )
    for segment, _ in plan.segments:
        remove_segment(segment_directory(store, segment))
    return retired


def _can_go(connection: Connection, episode: int) -> bool:
    """Whether an episode has rows in segments that can be rewritten."""
    found = connection.execute(
        "SELECT 1 FROM extents x JOIN segments s ON s.id = x.segment WHERE x.episode = ? AND s.sealed"
        " AND s.id NOT IN (SELECT segment FROM quarantine) LIMIT 1",
        (episode,),
    )
    return found.fetchone() is not None
