"""The catalog: all attached stores as one space of row addresses, and which rows follow which.

Every segment gets a range of addresses of its own, so a row is one integer, whatever store
it lies in. A *run* is a range of addresses with consecutive rows of one episode; where an
episode goes on in another segment, its run names the next.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import compress
from pathlib import Path

import numpy as np

from user_core.errors import StoreError
from user_core.reasons import EDITS_UNREADABLE, Reason
from user_core.specs import Array
from user_core.types import EpisodeSource, TrajectorySchema
from user_learner.edits.applied import Labels, StoreEdits
from user_learner.replay.index import WHOLE_SEGMENT
from user_learner.replay.layout import RowLayout, require_same_schema
from user_learner.replay.reader import StoreReader, Tables
from user_learner.replay.segments import segment_directory
from user_learner.sampling.config import History


def _ints() -> Array:
    return np.empty(0, np.int64)


@dataclass(frozen=True)
class SegmentTable:
    """The segments of all stores, ascending by ``base``.

    Attributes:
        base: Address of the first row, (S,) int64.
        capacity: Rows it can have, (S,).
        store: Which store, (S,).
        number: Its number in that store, (S,).
        paths: Where its files are.
        aside: Rows that are set aside as damaged, each from and up to, by path.
    """

    base: Array = field(default_factory=_ints)
    capacity: Array = field(default_factory=_ints)
    store: Array = field(default_factory=_ints)
    number: Array = field(default_factory=_ints)
    paths: tuple[Path, ...] = ()
    aside: Mapping[Path, Sequence[tuple[int, int]]] = field(default_factory=dict)

    def locate(self, address: Array) -> tuple[Array, Array]:
        """Index of the segment and row in it, of each address."""
        index = np.searchsorted(self.base, address, side="right") - 1
        return index, address - self.base[index]


@dataclass(frozen=True)
class RunTable:
    """Committed rows, by run; arrays (R,), of integers no wider than needed: a store may have millions of runs. The
    runs of an episode lie one behind the other.

    Attributes:
        address: Address of the first row.
        rows: Rows of the run.
        after: Rows of the same episode that follow the run's last row.
        next: The run that they begin with, -1 without one.
        source: Source of the episode.
        order: Arrival: rows of a run with a higher number came later.
        robot: Number of the robot among those of the snapshot; -1 where nobody asked for robots.
        task: Number of the task, likewise.
    """

    address: Array = field(default_factory=_ints)
    rows: Array = field(default_factory=_ints)
    after: Array = field(default_factory=_ints)
    next: Array = field(default_factory=_ints)
    source: Array = field(default_factory=_ints)
    order: Array = field(default_factory=_ints)
    robot: Array = field(default_factory=_ints)
    task: Array = field(default_factory=_ints)

    @cached_property
    def by_address(self) -> tuple[Array, Array]:
        """Numbers of the runs in the order of their addresses, and these addresses, each (R,)."""
        order = np.argsort(self.address)
        return order, self.address[order]

    def prepare(self) -> None:
        """Make now what else the first draw that looks up addresses would wait for."""
        self.locate(np.zeros(1, np.int64))
        len(self.begins)

    @cached_property
    def ends(self) -> Array:
        """The number behind that of the last row of each run, counted over all runs, (R,)."""
        return np.cumsum(self.rows)

    def locate(self, address: Array) -> tuple[Array, Array]:
        """Run and row within it of each address, (B,); run -1 where there is none."""
        order, starts = self.by_address
        if not len(order):
            return np.full(len(address), -1), np.zeros(len(address), np.int64)
        at = np.searchsorted(starts, address, side="right") - 1
        run = order[at]
        offset = address - self.address[run]
        return np.where((at >= 0) & (offset < self.rows[run]), run, -1), offset

    def ahead(self, run: Array, offset: Array) -> Array:
        """Addresses of rows that lie ``offset`` behind the first row of runs, (B,), in the same
        episode, however many runs further on."""
        row = self.ends[run] - self.rows[run] + offset
        current = np.searchsorted(self.ends, row, side="right")
        address: Array = self.address[current] + row - (self.ends[current] - self.rows[current])
        return address

    @cached_property
    def begins(self) -> Array:
        """Number of the first row of the episode that each run is of, counted over all runs, (R,)."""
        runs = np.arange(len(self.rows))
        goes_on = np.zeros(len(runs), bool)
        goes_on[1:] = self.next[:-1] == runs[1:]
        first = np.maximum.accumulate(np.where(goes_on, 0, runs)) if len(runs) else runs
        begins: Array = (self.ends - self.rows)[first]
        return begins

    def before(self, run: Array, offset: Array) -> Array:
        """How many rows of their episodes lie before rows, (B,)."""
        there: Array = self.ends[run] - self.rows[run] + offset - self.begins[run]
        return there

    def precede(self, run: Array, offset: Array, count: int) -> Array:
        """Addresses of the ``count`` rows before rows of runs, (B, count), oldest first. Where an episode begins later
        its first row is repeated."""
        if not count:
            return np.empty((len(run), 0), np.int64)
        back = np.minimum(np.arange(count, 0, -1), self.before(run, offset)[:, None])
        row = (self.ends[run] - self.rows[run] + offset)[:, None] - back
        current = np.searchsorted(self.ends, row, side="right")
        first = self.ends[current] - self.rows[current]
        addresses: Array = self.address[current] + row - first
        return addresses

    def follow(self, run: Array, offset: Array, horizon: int) -> tuple[Array, Array]:
        """Addresses of rows and of those that follow them in their episodes.

        Args:
            run: Runs, (B,).
            offset: Rows within the runs, (B,).
            horizon: H, how many following rows are wanted.

        Returns:
            Addresses (B, H + 1), and how many following rows there are, (B,), at most H. Past
            the last there is, the address of the last is repeated.
        """
        room = self.rows[run] - offset - 1
        after = np.minimum(room + self.after[run], horizon)
        steps = np.minimum(np.arange(horizon + 1), after[:, None])
        addresses = (self.address[run] + offset)[:, None] + steps
        row, step = np.nonzero(steps > room[:, None])
        if len(row):
            current = self.next[run[row]]
            beyond = steps[row, step] - room[row] - 1
            while (over := beyond >= self.rows[current]).any():
                beyond[over] -= self.rows[current[over]]
                current[over] = self.next[current[over]]
            addresses[row, step] = self.address[current] + beyond
        return addresses, after


#: By column of :class:`RunTable`.
_RUN_TYPES = {
    "address": np.int64, "rows": np.int32, "after": np.int32, "next": np.int32, "source": np.int8,
    "order": np.int64, "robot": np.int32, "task": np.int32,
}  # fmt: skip


@dataclass(frozen=True)
class Snapshot:
    """A committed state of all attached stores; never changes.

    Attributes:
        segments: Where rows lie.
        runs: Which rows there are, and which follow which.
        actors: Address, rows and acted_by of ranges, ascending, (A, 3) int64.
        nbytes: Bytes of all rows.
        robots: Names of the robots that they are from, where that was asked for.
        tasks: Names of their tasks, likewise.
        labels: Rewards that are not the recorded ones.
        before_takeovers: Steps that led to a takeover, where that was asked for: first address, and the one
            behind the last, of ranges, ascending, (N, 2).
    """

    segments: SegmentTable = field(default_factory=SegmentTable)
    runs: RunTable = field(default_factory=RunTable)
    actors: Array = field(default_factory=lambda: np.empty((0, 3), np.int64))
    nbytes: int = 0
    robots: tuple[str, ...] = ()
    labels: Labels = field(default_factory=Labels)
    before_takeovers: Array = field(default_factory=lambda: np.empty((0, 2), np.int64))
    tasks: tuple[str, ...] = ()


@dataclass(frozen=True)
class Attached:
    """A store, the source that its episodes count as (None keeps their own), and its edits."""

    reader: StoreReader
    source: EpisodeSource | None = None
    edits: StoreEdits | None = None


class Catalog:
    """The live store and any number of older ones, kept up to date."""

    def __init__(self, stores: list[Attached]) -> None:
        """Raises SchemaMismatch when the stores have not all the same schema."""
        self.stores = stores
        self.snapshot = Snapshot()
        self._layout: RowLayout | None = None
        self._placed = SegmentTable()
        #: When each store was made, which lies where another one lay if that is later.
        self._created: list[int] = []
        self._free: dict[int, list[int]] = {}
        self._leaving: list[tuple[int, int]] = []
        self._robots: dict[str, int] = {}
        self._tasks: dict[str, int] = {}
        self._end = 0
        self._rebuild()

    @property
    def schema(self) -> TrajectorySchema | None:
        """The schema of all of them; None while no chunk has come to any."""
        return next((s.reader.schema for s in self.stores if s.reader.schema), None)

    @property
    def layout(self) -> RowLayout:
        """Where columns lie. Raises StoreError before the first chunk came."""
        if self._layout is None:
            raise StoreError("replay store is empty", expected="a first chunk")
        return self._layout

    def refresh(self) -> bool:
        """Look for new commits and edits; return whether there is a new :attr:`snapshot`."""
        changed = [store.reader.refresh() for store in self.stores]
        changed += [store.edits.refresh() for store in self.stores if store.edits is not None]
        if any(changed):
            self._rebuild()
        return any(changed)

    def edits_warnings(self) -> list[Reason]:
        """What is wrong with the edits of the stores, for people."""
        edits = [store.edits for store in self.stores if store.edits is not None]
        texts = [text for e in edits for text in (*e.log.warnings, e.trouble) if text]
        return [Reason(EDITS_UNREADABLE, text) for text in texts]

    def close(self) -> None:
        """Close the stores. Idempotent."""
        for store in self.stores:
            store.reader.close()

    def _rebuild(self) -> None:
        schema = self.schema
        if schema is None:
            return
        for store in self.stores:
            if store.reader.schema is not None:
                require_same_schema(schema, store.reader.schema, str(store.reader.path))
        segments = self._place_segments()
        parts, labels, offset = [], [], 0
        for index, store in enumerate(self.stores):
            highest = int(store.reader.tables.segments[:, 0].max(initial=0))
            bases = _bases_of(segments, index, highest)
            extents = _without_damages(store.reader.tables, store.reader.meta.block_rows)
            if store.edits is not None:
                extents = store.edits.apply(extents)
                labels.append(store.edits.labels(extents, bases))
            part = _runs(store.reader.tables, extents, bases, store.source)
            parts.append((part, _actors(store.reader.tables, bases)))
            part["next"][part["next"] >= 0] += offset
            part["order"] -= index * 2**40  # history came before what is live
            part["robot"] = _numbered(part["robot"], store.reader.robots, self._robots)
            part["task"] = _numbered(part["task"], store.reader.tasks, self._tasks)
            offset += len(part["rows"])
        runs = RunTable(
            **{
                name: np.concatenate(
                    [p.pop(name) for p, _ in parts], dtype=dtype, casting="same_kind"
                )
                for name, dtype in _RUN_TYPES.items()
            }
        )
        actors = np.concatenate([a for _, a in parts])
        actors = actors[np.argsort(actors[:, 0])]
        self._layout = self._layout or RowLayout(schema.required)
        nbytes = int(runs.rows.sum()) * self._layout.row_nbytes
        self.snapshot = Snapshot(
            segments, runs, actors, nbytes, tuple(self._robots), Labels.join(labels),
            tasks=tuple(self._tasks),
        )  # fmt: skip

    def _place_segments(self) -> SegmentTable:
        """Addresses of all segments; those of segments that are gone are used again.

        Only what came or went is looked at one by one: for as long as a thread goes through hundreds of segments in
        Python no other has the interpreter, and a draw may wait for several such threads."""
        before = self._placed
        stays = np.zeros(len(before.base), bool)
        created, fresh = [], list[tuple[int, int]]()
        for index, store in enumerate(self.stores):
            wanted, meta = _whole(store.reader.tables), store.reader.meta
            mine = np.flatnonzero(before.store == index)
            if index < len(self._created) and self._created[index] != meta.created_ns:
                mine = mine[:0]  # another store lies there now
            stays[mine] = np.isin(before.number[mine], wanted)
            new = np.setdiff1d(wanted, before.number[mine], assume_unique=True)
            fresh += [(index, number) for number in new.tolist()]
            created.append(meta.created_ns)
        self._created = created
        for base, capacity in self._leaving:  # not at once: the pool first lets go of them
            self._free.setdefault(capacity, []).append(base)
        went = before.base[~stays].tolist(), before.capacity[~stays].tolist()
        self._leaving = list(zip(*went, strict=True))
        rows, paths = [], [*compress(before.paths, stays.tolist())]
        for index, number in fresh:
            reader = self.stores[index].reader
            capacity = reader.meta.segment_rows
            free = self._free.get(capacity)
            base = free.pop() if free else self._end
            self._end = max(self._end, base + capacity)
            rows.append((base, capacity, index, number))
            paths.append(segment_directory(reader.path, number))
        known = np.stack([before.base, before.capacity, before.store, before.number])
        of = np.concatenate([known[:, stays], np.array(rows, np.int64).reshape(-1, 4).T], axis=1)
        order = np.argsort(of[0])
        of, placed = of[:, order], tuple(map(paths.__getitem__, order.tolist()))
        self._placed = SegmentTable(of[0], of[1], of[2], of[3], placed, self._set_aside())
        return self._placed

    def _set_aside(self) -> dict[Path, list[tuple[int, int]]]:
        """Damaged rows of segments of which others can be read."""
        found: dict[Path, list[tuple[int, int]]] = {}
        for store in self.stores:
            size = store.reader.meta.block_rows
            for damage in store.reader.tables.damages:
                if damage.block != WHOLE_SEGMENT:
                    path = segment_directory(store.reader.path, damage.segment)
                    rows = damage.block * size, (damage.block + 1) * size
                    found.setdefault(path, []).append(rows)
        return found


def _numbered(mine: Array, names: Sequence[str], known: dict[str, int]) -> Array:
    """Numbers of a store's robots or tasks among those of all stores, by name."""
    numbers = [known.setdefault(name, len(known)) for name in names]
    return np.append(np.array(numbers, np.int64), -1)[mine]  # -1 stays -1


def _whole(tables: Tables) -> Array:
    """Segments of which at least a part can be read, ascending."""
    lost = {damage.segment for damage in tables.damages if damage.block == WHOLE_SEGMENT}
    numbers: Array = tables.segments[:, 0]
    return numbers[~np.isin(numbers, list(lost))] if lost else numbers


def _bases_of(segments: SegmentTable, store: int, numbers: int) -> Array:
    """Base address by segment number; -1 where there is none."""
    mine = segments.store == store
    bases = np.full(numbers + 1, -1, np.int64)
    bases[segments.number[mine]] = segments.base[mine]
    return bases


def _runs(
    tables: Tables, extents: Array, bases: Array, source: EpisodeSource | None
) -> dict[str, Array]:
    """Runs of the rows that damages and edits left."""
    extents = extents[np.lexsort((extents[:, 2], extents[:, 1]))]
    identity, episode, first_row, segment, start, rows, commit = extents.T
    joined = (episode[1:] == episode[:-1]) & (first_row[1:] == first_row[:-1] + rows[:-1])
    end = np.cumsum(rows)
    last = np.append(np.flatnonzero(~joined), len(rows) - 1)[: len(rows)]
    group_end = end[last[np.searchsorted(last, np.arange(len(rows)))]] if len(rows) else end
    following = np.where(np.append(joined, False), np.arange(1, len(rows) + 1), -1)
    sources = np.zeros(len(bases), np.int64)
    sources[tables.segments[:, 0]] = tables.segments[:, 1] if source is None else int(source)
    order = np.empty(len(rows), np.int64)
    order[np.lexsort((identity, commit))] = np.arange(len(rows))
    return {
        "address": bases[segment] + start,
        "rows": rows.copy(),
        "after": group_end - end,
        "next": following[: len(rows)],
        "source": sources[segment],
        "order": order,
        **dict(zip(("robot", "task"), _robots(tables, episode), strict=True)),
    }


def _robots(tables: Tables, episode: Array) -> tuple[Array, Array]:
    """Numbers of robot and task of each extent, -1 where they are not known."""
    if not len(tables.robots):
        unknown = np.full(len(episode), -1, np.int64)
        return unknown, unknown
    known, robot, task = tables.robots.T
    at = np.minimum(np.searchsorted(known, episode), len(known) - 1)
    there = known[at] == episode
    return np.where(there, robot[at], -1), np.where(there, task[at], -1)


def _without_damages(tables: Tables, block_rows: int) -> Array:
    """The extents, cut where rows are set aside."""
    extents = tables.extents
    for damage in tables.damages:
        low, high = damage.block * block_rows, (damage.block + 1) * block_rows
        if damage.block == WHOLE_SEGMENT:
            low, high = 0, np.iinfo(np.int64).max
        start, end = extents[:, 4], extents[:, 4] + extents[:, 5]
        hit = (extents[:, 3] == damage.segment) & (start < high) & (end > low)
        before, after = extents[hit].copy(), extents[hit].copy()
        before[:, 5] = np.maximum(0, low - before[:, 4])
        skipped = np.minimum(high - after[:, 4], after[:, 5])
        after[:, 2] += skipped
        after[:, 4] += skipped
        after[:, 5] -= skipped
        pieces = np.concatenate([extents[~hit], before, after])
        extents = pieces[pieces[:, 5] > 0]
    return extents


def _actors(tables: Tables, bases: Array) -> Array:
    segment, start, rows, acted_by, _ = tables.actors[bases[tables.actors[:, 0]] >= 0].T
    return np.stack([bases[segment] + start, rows, acted_by], axis=1)


def open_catalog(
    live: str | Path,
    history: Sequence[History] = (),
    with_actors: bool = False,
    with_robots: bool = False,
) -> Catalog:
    """Open a live store and its history.

    Args:
        live: Directory of the store that may grow.
        history: Older stores.
        with_actors: Also keep who acted in which rows.
        with_robots: Also keep which robot they are from.

    Raises:
        StoreError: One of them is not there.
        SchemaMismatch: They have not all the same schema; spells out the difference.
    """
    opened: list[Attached] = []
    try:
        opened.append(_attached(StoreReader(live, with_actors, with_robots, only_here=True)))
        for older in history:
            reader = StoreReader(older.path, with_actors, with_robots, only_here=True)
            opened.append(_attached(reader, older.source, older.edits))
        return Catalog(opened)
    except BaseException:
        for store in opened:
            store.reader.close()
        raise


def _attached(
    reader: StoreReader, source: EpisodeSource | None = None, edits: str = ""
) -> Attached:
    try:
        return Attached(reader, source, StoreEdits(reader, edits))
    except BaseException:
        reader.close()
        raise
