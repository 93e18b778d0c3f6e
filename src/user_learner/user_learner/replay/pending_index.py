"""What the index says, and what the next commit will make it say.

The writer stages a chunk by moving the states in here forward. :meth:`PendingIndex.detach`
takes what changed as a :class:`CommitGroup`; what is staged afterwards belongs to the next
group, so that chunks can be staged while the files of this one are being made durable.
:meth:`PendingIndex.flush` writes a group in one transaction. :meth:`PendingIndex.reset`
forgets what was staged, which is how every failure is handled: memory is then again what the
index says.
"""

from __future__ import annotations

import json
import sqlite3
import time
from collections import Counter
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np

from user_core.specs import Array
from user_core.types import EpisodeKey, EpisodeResult, EpisodeSource
from user_learner.replay.index import load_meta, set_meta, transaction
from user_learner.replay.layout import result_from_dict, result_to_dict

#: How far an episode has come: rows may follow; only the final observation may; nothing may.
OPEN, OVER, CLOSED = 0, 1, 2


@dataclass
class Extent:
    """Rows of one episode that lie next to each other in one segment."""

    id: int
    episode: int
    first_row: int
    segment: int
    start: int
    rows: int


@dataclass
class EpisodeState:
    """An episode as far as it has come.

    Attributes:
        id: Its number in this store.
        key: Its identity everywhere.
        source: Why it was recorded.
        robot: Name of the robot.
        task: Name of the task.
        rows: Index of the row that is expected next.
        gaps: Rows that never came.
        ended: OPEN; OVER, when only the final observation can follow; or CLOSED.
        result: What came of it.
        extent: Where its last rows lie.
    """

    id: int
    key: EpisodeKey
    source: EpisodeSource
    robot: str = ""
    task: str = ""
    rows: int = 0
    gaps: int = 0
    ended: int = OPEN
    result: EpisodeResult | None = None
    extent: Extent | None = None


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


TableRows = list[tuple[Any, ...]]


@dataclass(frozen=True)
class CommitGroup:
    """What one commit writes.

    Attributes:
        generation: Which life of the pending index it is from; one that started over is no more.
        producers: Producer, incarnation, sequence, how many numbers were left out.
        segments: TableRows of the table ``segments``, without the commit.
        episodes: Likewise.
        extents: Likewise.
        actors: Likewise.
        steps: New steps by source.
    """

    generation: int
    producers: TableRows
    segments: TableRows
    episodes: TableRows
    extents: TableRows
    actors: TableRows
    steps: Counter[int]

    def write(self, connection: sqlite3.Connection) -> None:
        """Commit it; raises sqlite3.Error, and has then committed nothing."""
        now = time.time_ns()
        with transaction(connection):
            meta = load_meta(connection)
            commit_id = meta.commit_id + 1
            connection.executemany(
                "INSERT INTO producers VALUES (?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET"
                " sequence = excluded.sequence, skipped = skipped + excluded.skipped,"
                " updated_ns = excluded.updated_ns",
                [(*row, now) for row in self.producers],
            )
            for table, rows in (
                ("segments", self.segments),
                ("episodes", self.episodes),
                ("extents", self.extents),
                ("actors", self.actors),
            ):
                if not rows:  # a chunk without rows, for instance, ends an episode and no more
                    continue
                marks = ", ".join("?" * (len(rows[0]) + 1))
                connection.executemany(
                    f"INSERT OR REPLACE INTO {table} VALUES ({marks})",
                    [(*row, commit_id) for row in rows],
                )
            steps = {str(k): v for k, v in (Counter(meta.steps) + self.steps).items()}
            set_meta(connection, commit_id=commit_id, steps=json.dumps(steps))


_CACHED_EPISODES = 1024


@dataclass
class _ActorRun:
    extent: int
    start: int
    rows: int
    acted_by: int


@dataclass
class _Staged:
    producers: dict[tuple[str, int], int] = field(default_factory=dict)
    episodes: dict[int, EpisodeState] = field(default_factory=dict)
    extents: dict[int, Extent] = field(default_factory=dict)
    actors: dict[tuple[int, int], _ActorRun] = field(default_factory=dict)
    segments: dict[int, SegmentState] = field(default_factory=dict)
    steps: Counter[int] = field(default_factory=Counter)
    skipped: Counter[tuple[str, int]] = field(default_factory=Counter)


class PendingIndex:
    """States of producers, episodes and segments over an index that this process writes."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._db = connection
        self.generation = 0
        self._next_segment = 1
        self.reset()

    def reset(self) -> None:
        """Forget what was staged and begin again from the index."""
        self.generation += 1
        self.meta = load_meta(self._db)
        self._staged = _Staged()
        self._episodes: dict[EpisodeKey, EpisodeState] = {}
        self._last_actor: dict[int, _ActorRun] = {}
        self._committed: dict[tuple[str, int], int] = {
            (producer, incarnation): sequence
            for producer, incarnation, sequence in self._db.execute(
                "SELECT producer, incarnation, sequence FROM producers"
            )
        }
        self._sequences = dict(self._committed)
        self._next_segment = max(  # never back: a reserved one may just be written
            self._next_segment,
            1 + self._one("SELECT coalesce(max(id), 0) FROM segments"),
            1 + self._one("SELECT coalesce(max(segment), 0) FROM retired"),
        )
        self._next_episode = 1 + self._one("SELECT coalesce(max(id), 0) FROM episodes")
        self._next_extent = 1 + self._one("SELECT coalesce(max(id), 0) FROM extents")

    @property
    def dirty(self) -> bool:
        """Whether anything is staged."""
        staged = self._staged
        return bool(staged.producers or staged.episodes or staged.segments)

    def changed_segments(self) -> list[int]:
        """Segments that the next commit touches."""
        return list(self._staged.segments)

    def refresh_meta(self) -> None:
        """Read the meta table again, after somebody else of this process wrote it."""
        self.meta = load_meta(self._db)

    def sequence(self, producer: str, incarnation: int) -> int:
        """Sequence number of the last chunk that is stored or staged; 0 before the first."""
        return self._sequences.get((producer, incarnation), 0)

    def committed(self, producer: str, incarnation: int) -> int:
        """Sequence number of the last chunk that is committed; 0 before the first."""
        return self._committed.get((producer, incarnation), 0)

    def producers(self) -> dict[tuple[str, int], int]:
        """Committed sequence number of every (producer, incarnation)."""
        return dict(self._committed)

    def advance(self, producer: str, incarnation: int, sequence: int, left_out: int) -> None:
        """Stage: all chunks up to this one are here, except for ``left_out`` new ones that never
        come, because the store they would come from has forgotten them."""
        self._sequences[producer, incarnation] = sequence
        self._staged.producers[producer, incarnation] = sequence
        self._staged.skipped[producer, incarnation] += left_out

    def episode(self, key: EpisodeKey) -> EpisodeState | None:
        """The state of an episode, None when it never came."""
        if key not in self._episodes:
            state = self._load_episode(key)
            if state is None:
                return None
            self._remember(state)
        return self._episodes[key]

    def begin_episode(
        self, key: EpisodeKey, source: EpisodeSource, robot: str, task: str
    ) -> EpisodeState:
        """Stage a new episode."""
        state = EpisodeState(self._next_episode, key, source, robot, task)
        self._next_episode += 1
        self._remember(state)
        self._staged.episodes[state.id] = state
        return state

    def begin_segment(self, source: EpisodeSource) -> SegmentState:
        """Stage a new segment."""
        state = SegmentState(self._next_segment, int(source), created_ns=time.time_ns())
        self._next_segment += 1
        self._staged.segments[state.id] = state
        return state

    def reserve_segment(self) -> int:
        """A number that no other segment gets."""
        number, self._next_segment = self._next_segment, self._next_segment + 1
        return number

    def changed_segment(self, state: SegmentState) -> None:
        """Stage the state of a segment."""
        self._staged.segments[state.id] = state

    def open_segments(self) -> list[tuple[SegmentState, EpisodeKey | None]]:
        """Segments that are not sealed, each with the episode at its end if that goes on."""
        found: list[tuple[SegmentState, EpisodeKey | None]] = []
        for row in self._db.execute(
            "SELECT id, source, rows, log_bytes, checksums, created_ns FROM segments"
            " WHERE NOT sealed ORDER BY id"
        ).fetchall():
            last = self._db.execute(
                "SELECT e.producer, e.incarnation, e.number, e.ended FROM extents x"
                " JOIN episodes e ON e.id = x.episode WHERE x.segment = ?"
                " ORDER BY x.start DESC LIMIT 1",
                row[:1],
            ).fetchone()
            owner = EpisodeKey(*last[:3]) if last and last[3] < CLOSED else None
            number, source, rows, log_bytes, checksums, created_ns = row
            state = SegmentState(
                number, source, rows, log_bytes, json.loads(checksums), created_ns=created_ns
            )
            found.append((state, owner))
        return found

    def place(
        self, episode: EpisodeState, first_row: int, segment: SegmentState, start: int,
        acted_by: Array, steps: int,
    ) -> None:  # fmt: skip
        """Stage rows of an episode that were written to a segment from ``start`` on; so many
        of them are steps."""
        rows, extent = len(acted_by), episode.extent
        self._staged.steps[int(episode.source)] += steps
        self._staged.segments[segment.id] = segment
        self._staged.episodes[episode.id] = episode
        if (
            extent is None
            or extent.segment != segment.id
            or extent.start + extent.rows != start
            or extent.first_row + extent.rows != first_row
        ):
            extent = Extent(self._next_extent, episode.id, first_row, segment.id, start, 0)
            self._next_extent += 1
            episode.extent = extent
        extent.rows += rows
        episode.gaps += first_row - episode.rows
        episode.rows = first_row + rows
        self._staged.extents[extent.id] = extent
        self._place_actors(extent.id, segment.id, start, acted_by)

    def changed_episode(self, episode: EpisodeState) -> None:
        """Stage the state of an episode."""
        self._staged.episodes[episode.id] = episode

    def detach(self) -> CommitGroup:
        """Take what is staged as one group; what comes now belongs to the next."""
        staged, self._staged = self._staged, _Staged()
        return CommitGroup(
            self.generation,
            [(p, i, s, staged.skipped[p, i]) for (p, i), s in staged.producers.items()],
            [
                (s.id, s.source, s.rows, s.log_bytes, json.dumps(s.checksums), int(s.sealed),
                 s.created_ns)
                for s in staged.segments.values()
            ],
            [
                (e.id, e.key.producer, e.key.incarnation, e.key.number, int(e.source), e.robot,
                 e.task, e.rows, e.gaps, e.ended, _result_text(e.result))
                for e in staged.episodes.values()
            ],
            [
                (x.id, x.episode, x.first_row, x.segment, x.start, x.rows)
                for x in staged.extents.values()
            ],
            [
                (segment, start, run.rows, run.acted_by)
                for (segment, start), run in staged.actors.items()
            ],
            staged.steps,
        )  # fmt: skip

    def flush(self, group: CommitGroup) -> list[tuple[str, int]]:
        """Commit a group; return the (producer, incarnation) that moved on: none, and nothing
        is written, when the pending index has started over since.

        Raises sqlite3.Error, and has then committed nothing.
        """
        if group.generation != self.generation:
            return []
        group.write(self._db)
        self.meta = load_meta(self._db)
        self._committed.update({(p, i): s for p, i, s, _ in group.producers})
        if len(self._episodes) > _CACHED_EPISODES:
            self._episodes = {
                key: episode
                for key, episode in self._episodes.items()
                if episode.ended < CLOSED or episode.id in self._staged.episodes
            }
        return [(p, i) for p, i, _, _ in group.producers]

    def _place_actors(self, extent: int, segment: int, start: int, acted_by: Array) -> None:
        edges = np.flatnonzero(np.diff(acted_by)) + 1
        bounds = [0, *edges.tolist(), len(acted_by)]
        for begin, end in pairwise(bounds):
            who, last = int(acted_by[begin]), self._last_actor.get(segment)
            if (
                last is None
                or (last.extent, last.acted_by) != (extent, who)
                or last.start + last.rows != start + begin
            ):
                last = self._last_actor[segment] = _ActorRun(extent, start + begin, 0, who)
            last.rows += end - begin
            self._staged.actors[segment, last.start] = last

    def _load_episode(self, key: EpisodeKey) -> EpisodeState | None:
        row = self._db.execute(
            "SELECT id, source, robot, task, rows, gaps, ended, result FROM episodes"
            " WHERE producer = ? AND incarnation = ? AND number = ?",
            (key.producer, key.incarnation, key.number),
        ).fetchone()
        if row is None:
            return None
        last = self._db.execute(
            "SELECT id, episode, first_row, segment, start, rows FROM extents"
            " WHERE episode = ? ORDER BY first_row DESC LIMIT 1",
            row[:1],
        ).fetchone()
        result = result_from_dict(json.loads(row[7])) if row[7] else None
        number, source, robot, task, rows, gaps, ended, _ = row
        return EpisodeState(
            number, key, EpisodeSource(source), robot, task, rows, gaps, ended, result,
            Extent(*last) if last else None,
        )  # fmt: skip

    def _remember(self, state: EpisodeState) -> None:
        self._episodes[state.key] = state

    def _one(self, query: str) -> int:
        return int(self._db.execute(query).fetchone()[0])


def _result_text(result: EpisodeResult | None) -> str:
    return "" if result is None else json.dumps(result_to_dict(result), allow_nan=False)
