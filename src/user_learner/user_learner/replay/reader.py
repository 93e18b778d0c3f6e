"""The reader: the committed rows of one store, from any process, while it is being written."""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path

import numpy as np

from user_core.errors import StoreCorrupt, StoreError
from user_core.specs import Array, ArraySpec
from user_core.types import EpisodeKey, EpisodeResult, EpisodeSource, TrajectorySchema
from user_learner.replay.bucket import changed, missing
from user_learner.replay.index import (
    INDEX_NAME,
    WHOLE_SEGMENT,
    Damage,
    StoreMeta,
    connect,
    corruption_named,
    damages,
    load_meta,
    transaction,
)
from user_learner.replay.layout import LOG_NAME, LogEntry, RowLayout, read_log, result_from_dict
from user_learner.replay.segments import check_sizes, read_rows, segment_directory

#: Why rows are passed over that are in a bucket.
IN_BUCKET = "it is in a bucket, and not here"

_PIECE_ROWS = 512
EXTENT_COLUMNS = ("id", "episode", "first_row", "segment", "start", "rows", "commit_id")


@dataclass(frozen=True)
class Tables:
    """A committed state of a store; never changes.

    Attributes:
        segments: Number, source, rows; (S, 3) int64, ascending.
        extents: :data:`EXTENT_COLUMNS`, (E, 7) int64, ascending by id.
        actors: Segment, start, rows, acted_by, commit; (A, 5) int64. Empty unless asked for.
        damages: What is set aside.
        robots: Episode, number of its robot among :attr:`StoreReader.robots`, and of its task among
            :attr:`StoreReader.tasks`; (N, 3) int64, ascending. Empty
            unless asked for.
    """

    segments: Array = field(default_factory=lambda: np.empty((0, 3), np.int64))
    extents: Array = field(default_factory=lambda: np.empty((0, 7), np.int64))
    actors: Array = field(default_factory=lambda: np.empty((0, 5), np.int64))
    damages: tuple[Damage, ...] = ()
    robots: Array = field(default_factory=lambda: np.empty((0, 3), np.int64))


@dataclass(frozen=True)
class EpisodeInfo:
    """What the index says of an episode.

    Attributes:
        key: Its identity.
        source: Why it was recorded.
        robot: Name of the robot.
        task: Name of the task.
        rows: Rows that came, the final observation included.
        gaps: Rows that never came.
        result: What came of it; None while it goes on, or when that was never told.
        extents: Where its rows are: first row, segment, start, rows; fewer than came where
            retention dropped some.
    """

    key: EpisodeKey
    source: EpisodeSource
    robot: str
    task: str
    rows: int
    gaps: int
    result: EpisodeResult | None
    extents: tuple[tuple[int, int, int, int], ...]


class StoreReader:
    """Reads a store that another process may be writing. Each refresh shows a later commit.

    Args:
        path: Directory of the store.
        with_actors: Also keep who acted in which rows.
        with_robots: Also keep which robot and task each episode is of.
        with_extents: Keep where the rows of episodes lie. Without, it takes the same memory however many there are.
        only_here: Rows of segments that are in a bucket, and not here, count as set aside, as long as they are
            (:data:`IN_BUCKET`). Without, they come here when they are read.

    Attributes:
        robots: Names of the robots, or of the producers of episodes that name none, in the order in which they
            came. Empty unless asked for.

    Raises:
        StoreError: There is no store, or one of another format.
        StoreCorrupt: Its index is damaged.
    """

    def __init__(
        self,
        path: str | Path,
        with_actors: bool = False,
        with_robots: bool = False,
        with_extents: bool = True,
        only_here: bool = False,
    ) -> None:
        self.path, self._only_here = Path(path), only_here
        self._away: frozenset[int] = frozenset()
        self._bucket_changed = 0
        self.tables = Tables()
        self._with_actors, self._with_robots = with_actors, with_robots
        self._with_extents = with_extents
        self.robots: list[str] = []
        #: Names of the tasks, likewise.
        self.tasks: list[str] = []
        self._sizes_checked: set[int] = set()
        self._short: list[Damage] = []
        self._identity, self._version = 0, -1
        #: What was counted last: identity of the index, its removals, the last extent, episodes.
        self._counted = (0, -1, 0, 0)
        self._layout: RowLayout | None = None
        self._db = self._connect()
        self.meta: StoreMeta = load_meta(self._db)
        self.refresh(force=True)

    @property
    def schema(self) -> TrajectorySchema | None:
        """Schema of the rows; None until the first chunk came."""
        return self.meta.schema

    @property
    def connection(self) -> sqlite3.Connection:
        """The index, read-only, for tools that ask it other questions."""
        return self._db

    @property
    def layout(self) -> RowLayout:
        """Where the columns lie. Raises StoreError before the first chunk came."""
        if self._layout is None:
            raise StoreError(f"replay store {self.path} is empty", expected="a first chunk")
        return self._layout

    @property
    def identity(self) -> int:
        """Changes when the index is built anew: then episodes may have other numbers."""
        return self._identity

    def episode_number(self, key: EpisodeKey) -> int | None:
        """Number of an episode, as in :attr:`Tables.extents`; None where it never came."""
        row = self._db.execute(
            "SELECT id FROM episodes WHERE producer = ? AND incarnation = ? AND number = ?",
            (key.producer, key.incarnation, key.number),
        ).fetchone()
        return None if row is None else int(row[0])

    def count_episodes(self) -> int:
        """Episodes of which rows are here, as of the last commit. Another call looks only at what came since."""
        with transaction(self._db, "DEFERRED"):
            last = self._one("SELECT coalesce(max(id), 0) FROM extents")
            removals = self._one("SELECT value FROM meta WHERE key = 'removals'")
            identity, before, seen, count = self._counted
            if (identity, before) == (
                self._identity,
                removals,
            ):  # an extent that grows keeps its number
                count += self._one(
                    "SELECT count(*) FROM"
                    " (SELECT DISTINCT episode FROM extents NOT INDEXED WHERE id > ?1) AS new WHERE NOT EXISTS"
                    " (SELECT 1 FROM extents WHERE episode = new.episode AND id <= ?1)",
                    seen,
                )
            else:
                count = self._one(
                    "SELECT count(*) FROM (SELECT episode FROM extents GROUP BY episode)"
                )
        self._counted = (self._identity, removals, last, count)
        return count

    def _one(self, query: str, *values: int) -> int:
        return int(self._db.execute(query, values).fetchone()[0])

    def refresh(self, force: bool = False) -> bool:
        """Look for new commits; return whether there were any."""
        if self._index_identity() != self._identity:  # it was rebuilt
            self.close()
            self._db = self._connect()
            force = True
        with corruption_named(self.path / INDEX_NAME):
            version = self._db.execute("PRAGMA data_version").fetchone()[0]
            if version == self._version and not force:
                return self._look_for_away()
            with transaction(self._db, "DEFERRED"):
                before, meta = self.meta, load_meta(self._db)
                if force:
                    self.tables = Tables()
                    self.tables = self._load(-1)
                else:
                    self.tables = self._load(before.commit_id)
                    if meta.removals != before.removals:
                        self._let_go()
            self._version, self.meta = version, meta
        self._layout = RowLayout(meta.schema) if meta.schema is not None else None
        if not self._look_for_away(force=True):  # which checks new segments as well
            self._check_new_segments()
        return True

    def episodes(self) -> Iterator[EpisodeInfo]:
        """All episodes, in the order in which they began to arrive."""
        with transaction(self._db, "DEFERRED"):
            rows = self._db.execute(
                "SELECT id, producer, incarnation, number, source, robot, task, rows, gaps,"
                " result FROM episodes ORDER BY id"
            ).fetchall()
            where: dict[int, list[tuple[int, int, int, int]]] = {}
            for episode, *extent in self._db.execute(
                "SELECT episode, first_row, segment, start, rows FROM extents"
                " ORDER BY episode, first_row"
            ):
                where.setdefault(episode, []).append(tuple(extent))
        for row in rows:
            yield EpisodeInfo(
                EpisodeKey(*row[1:4]),
                EpisodeSource(row[4]),
                robot=row[5],
                task=row[6],
                rows=row[7],
                gaps=row[8],
                result=result_from_dict(json.loads(row[9])) if row[9] else None,
                extents=tuple(where.get(row[0], ())),
            )

    def read(self, segment: int, start: int, rows: int) -> dict[str, Array]:
        """Copy committed rows of a segment, by column. Raises StoreCorrupt when they are short."""
        path = segment_directory(self.path, segment)
        return self.layout.unpack(
            [read_rows(path, file, start, rows) for file in self.layout.files]
        )

    def read_episode(self, episode: EpisodeInfo) -> dict[str, Array]:
        """Copy all rows of an episode that are here, by column."""
        parts = [self.read(*extent[1:]) for extent in episode.extents]
        if not parts:
            return {n: np.empty((0, *c.shape), c.dtype) for n, c in self._columns().items()}
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def log(self, segment: int) -> list[LogEntry]:
        """The committed entries of the log of a segment. Raises StoreCorrupt."""
        log_bytes = self._db.execute(
            "SELECT log_bytes FROM segments WHERE id = ?", (segment,)
        ).fetchone()[0]
        path = segment_directory(self.path, segment) / LOG_NAME
        try:
            with open(path, "rb") as stream:
                data = stream.read(log_bytes)
        except OSError as error:
            raise StoreCorrupt(f"log {path}", got=error.strerror, expected="a log") from error
        if len(data) < log_bytes:
            raise StoreCorrupt(f"log {path}", got=f"{len(data)} bytes", expected=log_bytes)
        return [entry for entry, _ in read_log(data, str(path))[1]]

    def close(self) -> None:
        """Close the index. Idempotent."""
        self._db.close()

    def _columns(self) -> Mapping[str, ArraySpec]:
        return self.layout.schema.columns

    def _connect(self) -> sqlite3.Connection:
        self._identity = self._index_identity()
        return connect(self.path, writable=False)

    def _index_identity(self) -> int:
        try:
            return os.stat(self.path / INDEX_NAME).st_ino
        except NotADirectoryError as error:
            raise StoreError(
                f"no replay store in {self.path}", got="a file", expected="the folder of one"
            ) from error
        except FileNotFoundError:  # between being set aside and being rebuilt
            return self._identity

    def _load(self, since: int) -> Tables:
        old, db = self.tables, self._db
        segments = integer_table(db.execute("SELECT id, source, rows FROM segments ORDER BY id"), 3)
        extents = old.extents
        if self._with_extents:
            fresh = integer_table(
                db.execute(
                    f"SELECT {', '.join(EXTENT_COLUMNS)} FROM extents WHERE commit_id > ?"
                    " ORDER BY id",
                    (since,),
                ),
                len(EXTENT_COLUMNS),
            )
            extents = _merge_by_id(old.extents, fresh)
        actors = old.actors
        if self._with_actors:
            fresh_actors = integer_table(
                db.execute(
                    "SELECT segment, start, rows, acted_by, commit_id FROM actors"
                    " WHERE commit_id > ? ORDER BY segment, start",
                    (since,),
                ),
                5,
            )
            actors = _merge_actors(old.actors, fresh_actors)
        found = (*damages(db), *self._short)
        robots = self._load_robots(old.robots) if self._with_robots else old.robots
        return Tables(segments, extents, actors, found, robots)

    def _let_go(self) -> None:
        """Take out what lay in segments that are gone: rows are only ever taken away by whole segments. So what
        stays need not be read again, which with very many episodes takes a while."""
        tables, db = self.tables, self._db
        number = tables.segments[:, 0]
        tables = replace(
            tables,
            extents=tables.extents[_among(tables.extents[:, 3], number)],
            actors=tables.actors[_among(tables.actors[:, 0], number)],
        )
        held = [("extents", tables.extents)] if self._with_extents else []
        held += [("actors", tables.actors)] if self._with_actors else []
        for name, table in held:
            if db.execute(f"SELECT count(*) FROM {name}").fetchone()[0] != len(table):
                self.tables = Tables(robots=tables.robots)  # somebody else took rows away
                self.tables = self._load(-1)
                return
        self.tables = tables

    def _load_robots(self, old: Array) -> Array:
        """Robots of the episodes that came since, beside those that are known."""
        since = int(old[-1, 0]) if len(old) else -1
        fresh = self._db.execute(
            "SELECT id, CASE robot WHEN '' THEN producer ELSE robot END, task FROM episodes"
            " WHERE id > ? ORDER BY id",
            (since,),
        )
        robots, tasks = (
            {name: number for number, name in enumerate(known)}
            for known in (self.robots, self.tasks)
        )
        found = integer_table(
            (
                (episode, robots.setdefault(robot, len(robots)), tasks.setdefault(task, len(tasks)))
                for episode, robot, task in fresh
            ),
            3,
        )
        self.robots, self.tasks = list(robots), list(tasks)
        return np.concatenate([old, found]) if len(found) else old

    def _check_new_segments(self) -> None:
        """A segment whose files are missing or cut short is passed over: mapping it would kill."""
        if self._layout is None:
            return
        rows_of = dict(zip(*self.tables.segments[:, ::2].T.tolist(), strict=True))
        for number in sorted(rows_of.keys() - self._sizes_checked):
            path = segment_directory(self.path, number)
            if number in self._away or missing(path):  # in a bucket: looked at when it comes
                continue
            self._sizes_checked.add(number)
            reason = check_sizes(path, self._layout, rows_of[number], 0)
            if reason:
                self._short.append(Damage(number, WHOLE_SEGMENT, reason))
        known = set(self.tables.damages)
        new = tuple(damage for damage in self._short if damage not in known)
        if new:
            self.tables = replace(self.tables, damages=(*self.tables.damages, *new))

    def _look_for_away(self, force: bool = False) -> bool:
        """Pass over what is in a bucket and not here, where that is asked for; return whether it is other than
        before."""
        if not self._only_here:
            return False
        now = changed(self.path)
        if (now == self._bucket_changed and not force) or not now:
            return False
        self._bucket_changed = now
        numbers = self.tables.segments[:, 0].tolist()
        away = frozenset(n for n in numbers if missing(segment_directory(self.path, n)))
        if away == self._away and not force:
            return False
        self._away = away
        self._check_new_segments()
        others = tuple(d for d in self.tables.damages if d.reason != IN_BUCKET)
        gone = tuple(Damage(n, WHOLE_SEGMENT, IN_BUCKET) for n in sorted(away))
        self.tables = replace(self.tables, damages=(*others, *gone))
        return True


def integer_table(rows: Iterable[tuple[int, ...]], columns: int) -> Array:
    """Rows of integers as an array. They become numbers piece by piece: as objects all of them would take many times
    the memory, and turning them at once would keep every other thread waiting."""
    rows = iter(rows)
    pieces: list[Array] = [np.empty((0, columns), np.int64)]
    while piece := list(islice(rows, _PIECE_ROWS)):
        pieces.append(np.array(piece, np.int64))
    return np.concatenate(pieces)


def _among(numbers: Array, known: Array) -> Array:
    """Which of ``numbers``, (N,), are among ``known``, ascending, (K,); bool."""
    if not len(known):
        return np.zeros(len(numbers), bool)
    at = np.minimum(np.searchsorted(known, numbers), len(known) - 1)
    found: Array = known[at] == numbers
    return found


def _merge_by_id(old: Array, fresh: Array) -> Array:
    """Update and extend a table whose first column ascends."""
    if not len(fresh):
        return old
    known = fresh[:, 0] <= (old[-1, 0] if len(old) else -1)
    merged = old.copy()
    merged[np.searchsorted(old[:, 0], fresh[known, 0])] = fresh[known]
    return np.concatenate([merged, fresh[~known]])


def _merge_actors(old: Array, fresh: Array) -> Array:
    """Update and extend the table of actors, whose key is segment and start."""
    if not len(fresh):
        return old
    both = np.concatenate([fresh, old])
    _, newest = np.unique(both[:, 0] << 32 | both[:, 1], return_index=True)
    return both[newest]
