"""The units of the sample cache, and which of them come and go.

A unit is the steps of one block of one segment, which are loaded and dropped together.

How often a step is drawn is controlled per unit. Its *deficit* is the number of draws per step
that uniform sampling from the whole store would have made so far, minus those that were
made. Steps that are in memory are drawn equally often, which lowers their deficit, and those on
disk gain it; loading units with a chance in proportion to their deficit, and dropping those
whose deficit is lowest, keeps every deficit within about one stay in memory. So the draws of each step,
over their expected number, go to one, whatever the sizes of the units, however the store
grows, and however long the disk takes.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from user_core.specs import Array
from user_learner.sampling.catalog import RunTable
from user_learner.sampling.draws import Population
from user_learner.sampling.pool import Drawn, aligned_bytes, take_pages

#: Odd numbers of 62 bits, which spread what is multiplied by them; products wrap around.
_PRIMES = (0x1E3779B97F4A7C15, 0x3F58476D1CE4E5B9, 0x14D049BB133111EB, 0x2545F4914F6CDD1D)


def _ints() -> Array:
    return np.empty(0, np.int64)


@dataclass(frozen=True)
class UnitTable:
    """The units of a population, ascending by key.

    Attributes:
        key: Address of the block divided by its rows, (U,) int64.
        steps: Steps that can be drawn, (U,).
        first: Index of the unit's first piece, (U + 1,).
        run: Run of each piece, (P,) int32.
        offset: First row of the piece within its run, (P,) int32.
        count: Steps of the piece, (P,) int32.
        mark: A hash that differs where a unit has other steps or other rows around them, (U,).
    """

    key: Array = field(default_factory=_ints)
    steps: Array = field(default_factory=_ints)
    first: Array = field(default_factory=lambda: np.zeros(1, np.int64))
    run: Array = field(default_factory=_ints)
    offset: Array = field(default_factory=_ints)
    count: Array = field(default_factory=_ints)
    mark: Array = field(default_factory=_ints)

    @classmethod
    def of(
        cls,
        population: Population,
        runs: RunTable,
        block_rows: int,
        horizon: int = 1,
        past: int = 0,
    ) -> UnitTable:
        """Cut a population at the boundaries of blocks. ``horizon``: rows wanted after a step; ``past``: before."""
        start = runs.address[population.run] + population.offset
        low = start // block_rows
        parts = (start + population.count - 1) // block_rows - low + 1
        # With millions of episodes this is much memory for a moment: what is not needed any more is let go of.
        piece = np.repeat(np.arange(len(start)), parts)
        key = np.repeat(low - (np.cumsum(parts) - parts), parts)
        key += np.arange(len(piece))
        begin = np.maximum(start[piece], key * block_rows)
        count = np.minimum((start + population.count)[piece], (key + 1) * block_rows)
        count -= begin
        run = population.run[piece]
        del start, low, parts, piece
        order = np.lexsort((begin, key))
        run, begin, count = run[order], begin[order], count[order]
        keys, first = np.unique(key[order], return_index=True)
        del key, order
        steps = np.add.reduceat(count, first) if len(first) else count
        offset = begin - runs.address[run]
        following = np.minimum(runs.rows[run] - offset - count + runs.after[run], horizon)
        marks = begin
        marks *= _PRIMES[0]
        marks ^= count * _PRIMES[1]
        marks ^= following * _PRIMES[2]
        del following
        if past:
            marks ^= np.minimum(runs.before(run, offset), past) * _PRIMES[3]
        mark = np.add.reduceat(marks, first) if len(first) else marks
        run, offset, count = (a.astype(np.int32) for a in (run, offset, count))
        return cls(keys, steps, np.append(first, len(count)), run, offset, count, mark)

    def __len__(self) -> int:
        return len(self.key)

    def index(self, key: Array) -> Array:
        """Index of the units with these keys, -1 where there is none."""
        if not len(self.key):
            return np.full(len(key), -1)
        at = np.minimum(np.searchsorted(self.key, key), len(self.key) - 1)
        return np.where(self.key[at] == key, at, -1)


@dataclass(frozen=True)
class UnitRows:
    """The rows of a unit, laid out to be loaded.

    Attributes:
        addresses: Rows to load, each piece between what its first and its last step need, (M,).
        position: Where each step is among them, (N,) int32; what follows it, follows there.
        after: How many rows follow it there, at most the horizon, (N,) int32.
        before: How many rows lie before it there, at most as many as are wanted, (N,) int32.
        mark: Of the unit, see :class:`UnitTable`.
    """

    addresses: Array
    position: Array
    after: Array
    before: Array
    mark: int = 0

    @classmethod
    def of(
        cls, table: UnitTable, unit: int, runs: RunTable, horizon: int, past: int = 0
    ) -> UnitRows:
        """Lay out a unit for steps that need up to ``horizon`` following rows, and ``past`` before."""
        pieces = slice(table.first[unit], table.first[unit + 1])
        run, offset, count = table.run[pieces], table.offset[pieces], table.count[pieces]
        addresses, available = runs.follow(run, offset, int(count.max()) + horizon - 1)
        rows = np.minimum(count + horizon, available + 1)
        lead = np.minimum(runs.before(run, offset), past) if past else np.zeros_like(count)
        addresses = np.concatenate([runs.precede(run, offset, past), addresses], axis=1)
        place = np.arange(addresses.shape[1])
        wanted = (place >= past - lead[:, None]) & (place < past + rows[:, None])
        starts = np.cumsum(lead + rows) - rows
        within = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count)
        after = np.minimum(np.repeat(rows, count) - within - 1, horizon)
        before = np.minimum(np.repeat(lead, count) + within, past)
        position = np.repeat(starts, count) + within
        mark = int(table.mark[unit])
        position, after, before = (a.astype(np.int32) for a in (position, after, before))
        return cls(addresses[wanted], position, after, before, mark)


@dataclass(frozen=True)
class Successor:
    """A later population, ready to be taken over.

    Attributes:
        table: Its units.
        old: Number that each had in the table before, 0 where it is new, (U,).
        share: Of the deficit that it had, what is still due to it; 0 where it is new, (U,).
        given: Memory for what each was given, written to, (U,).
    """

    table: UnitTable
    old: Array
    share: Array
    given: Array


class DrawDeficits:
    """What each unit of a table is due, in draws per step: as much to each, ``due``, less what it was ``given``,
    (U,)."""

    def __init__(self) -> None:
        self.table = UnitTable()
        self.due = 0.0
        self.given: Array = np.empty(0)

    @property
    def deficit(self) -> Array:
        """Draws per step that each unit is due, (U,); negative where it had more."""
        return self.due - self.given

    def drawn(self, units: Array, cached: Array, draws: int) -> None:
        """This many draws were made, spread evenly over the ``cached`` steps of these units."""
        self.due += draws / self.table.steps.sum()
        each = draws / cached.sum()
        self.given[units] += each * cached / self.table.steps[units]

    def ready(self, table: UnitTable) -> Successor:
        """What going over to a later population takes, made beside draws."""
        old = self.table.index(table.key)
        known = old >= 0
        share = np.zeros(len(table))
        share[known] = np.minimum(1.0, self.table.steps[old[known]] / table.steps[known])
        given = np.full(len(table), 0.0)  # not np.zeros, whose pages would be got where draws wait
        return Successor(table, np.maximum(old, 0), share, given)

    def renew(self, successor: Successor) -> None:
        """Go over to a later population. Nothing is due to new steps; to a unit that grew the same number of draws to
        more steps. Draws wait meanwhile: nothing is allocated here."""
        given = successor.given
        if len(self.given):
            np.take(self.given, successor.old, out=given, mode="clip")
            np.subtract(self.due, given, out=given)
            given *= successor.share
        np.subtract(self.due, given, out=given)
        self.table, self.given = successor.table, given

    def load(self, deficit: Array) -> None:
        """Take over deficits of all units, (U,)."""
        self.given = self.due - deficit


@dataclass(frozen=True)
class Needs:
    """What is due to the units of a table, so that one can be picked without the pool's lock. Draws meanwhile change
    ``given``, which shifts the chances by next to nothing.

    Attributes:
        table: The units.
        due: Draws per step that were due to each.
        given: What each got of them, (U,).
        cached: Numbers of those in memory.
    """

    table: UnitTable
    due: float
    given: Array
    cached: Array

    def pick(self, rng: np.random.Generator, without: set[int]) -> int | None:
        """A unit that is not in memory, picked with a chance in proportion to its deficit."""
        chance = self.due - self.given
        np.maximum(chance, 0.0, out=chance)
        chance += 1e-9
        chance[self.cached] = 0.0
        if without:
            chance[np.isin(self.table.key, list(without))] = 0.0
        ends = np.cumsum(
            chance, out=chance
        )  # which, unlike a choice by numpy, lets other threads go on
        if not len(ends) or ends[-1] == 0.0:
            return None
        at = int(np.searchsorted(ends, rng.random() * ends[-1], side="right"))
        return int(self.table.key[min(at, len(ends) - 1)])


#: What is known of a unit in memory: its key, its number in the table, its steps that can be drawn, the draws per step
#: of the whole set when it was loaded, its mark (see :class:`UnitTable`), the rows that it takes and the last of them.
_UNIT = np.dtype(
    [("there", "?"), ("key", "i8"), ("index", "i8"), ("steps", "i8"), ("loaded_at", "f8"), ("mark", "i8"),
     ("size", "i8"), ("top", "i8")]
)  # fmt: skip


#: Tables of several columns have a multiple of this many: what comes to each unit later, for instance an episode more
#: in its block, finds room.
_SPARE_WIDTH = 64


class _GrowingTable:
    """A table (lines, width) that grows in both directions."""

    def __init__(self, dtype: type[np.generic] | np.dtype[Any]) -> None:
        self.array: Array = np.zeros((0, 0), dtype)

    def write(self, line: int, values: Array) -> None:
        """Write the first values of a line."""
        if (grown := self.grown(line, len(values), len(self.array))) is not None:
            self.array = grown
        self.array[line, : len(values)] = values

    def grown(self, line: int, count: int, used: int, wanted: int = 0) -> Array | None:
        """A copy in which there is room for this many values in a line; None where there is.

        Args:
            line: Which is to be written.
            count: Values in it.
            used: This many lines are copied.
            wanted: Lines to have at least. Memory is taken only as they are written.
        """
        lines, width = self.array.shape
        if line < lines and count <= width:
            return None
        # wider lines are fewer: whoever had room for many small units must not ask for as many large ones
        more = max(16, line + 1, 2 * used if line >= lines else used, wanted)
        shape, dtype = (more, max(width, _wide(count))), self.array.dtype
        grown = aligned_bytes(shape[0] * shape[1] * dtype.itemsize).view(dtype).reshape(shape)
        grown[:used, : self.array.shape[1]] = self.array[:used]
        return grown


def _wide(count: int) -> int:
    """Width of a table with room for this many values in a line."""
    return count if count <= 1 else count + -count % _SPARE_WIDTH


@dataclass(frozen=True)
class Room:
    """A larger table. ``written``: how often it had been written to when it was copied."""

    table: _GrowingTable
    array: Array
    written: int


class CachedUnits:
    """What is in memory of one stratum. Not thread-safe: the pool's lock guards it.

    Attributes:
        quota: Rows of the cache that it may take.
        used: Rows of the cache that it takes.
        deficits: What is due to its units.
        picked: Unit that is to be loaded next, and rows that it takes; None where it has not been picked yet.
    """

    def __init__(self, horizon: int, past: int = 0) -> None:
        self.quota = 0
        self.used = 0
        self.deficits = DrawDeficits()
        self.picked: tuple[int, int] | None = None
        self._ahead, self._back = np.arange(horizon + 1), np.arange(past, 0, -1)
        self._line_of: dict[int, int] = {}  # of the tables, by key
        self._known = _GrowingTable(_UNIT)
        self._spare: list[int] = []
        self._turn = 0.0
        self._rows, self._address = _GrowingTable(np.int32), _GrowingTable(np.int64)
        self._position, self._after = _GrowingTable(np.int32), _GrowingTable(np.int32)
        self._before = _GrowingTable(np.int32)
        self._demonstration = _GrowingTable(np.bool_)
        self._lines = 0  # of the tables that were ever written to
        self._written = 0
        self._index_units()

    def __len__(self) -> int:
        return len(self._line_of)

    def __contains__(self, key: int) -> bool:
        return key in self._line_of

    @property
    def _units(self) -> Array:
        """What is known of each unit, by line."""
        return self._known.array.reshape(-1)

    @property
    def complete(self) -> bool:
        """Whether every step of the stratum is in memory."""
        return len(self) == len(self.deficits.table)

    def draw(self, count: int, rng: np.random.Generator) -> Drawn:
        """Draw uniformly, with replacement, from the steps in memory."""
        total = int(self._ends[-1])
        pick = rng.integers(0, total, count)
        unit = np.searchsorted(self._ends, pick, side="right")
        line, step = self._line[unit], pick - (self._ends[unit] - self._steps[unit])
        after = self._after.array[line, step].astype(np.int64)
        first = self._position.array[line, step]
        position = first[:, None] + np.minimum(self._ahead, after[:, None])
        before = self._before.array[line, step].astype(np.int64)
        back = first[:, None] - np.minimum(self._back, before[:, None])
        self._turn += count / total
        self.deficits.drawn(self._index, self._steps, count)
        return Drawn(
            self._rows.array[line[:, None], position].astype(np.int64),
            after,
            self._address.array[line, first],
            self._demonstration.array[line, 0],
            self._rows.array[line[:, None], back].astype(np.int64),
        )

    def worn(self, draws: float) -> bool:
        """Whether what is in memory was drawn so often, on average, and others wait for a place."""
        if self.complete or not len(self._loaded_at):
            return False
        return bool(np.mean(self._turn - self._loaded_at) >= draws)

    def spent(self, draws: float) -> bool:
        """Whether a unit in memory was drawn so often, per step, and others wait for a place."""
        return self._turn - self._first_loaded >= draws and not self.complete

    def renew(self, successor: Successor) -> list[Array]:
        """Go over to a later population, see :meth:`DrawDeficits.renew`; return rows of units that are no longer in
        it."""
        self.picked, table = None, successor.table
        index = table.index(self._units["key"])
        gone = self._units["key"][(index < 0) & self._units["there"]]
        rows = [self._take_out(key) for key in gone.tolist()]
        self._units["index"] = index
        self.deficits.renew(successor)
        self._index_units()
        return rows

    def room(self, unit: UnitRows) -> Room | None:
        """A larger table, where one has no room for one more unit; None where all have, and their pages are taken.
        Copying one takes milliseconds: it needs no lock, draws may go on meanwhile. One after the other, so that there
        are not two of each for a moment."""
        # Units may leave meanwhile: not from what is in memory, only from this it is known how many lines there are.
        written, used = self._written, self._lines
        line = self._spare[-1] if self._spare else used
        rows, steps = len(unit.addresses), len(unit.position)
        wanted = 1 + self.quota // max(_wide(rows), self._address.array.shape[1])
        sizes = [(self._rows, rows), (self._address, rows), (self._position, steps), (self._after, steps),
                 (self._before, steps), (self._demonstration, 1)]  # fmt: skip
        for table, count in sizes:
            array = table.grown(line, count, used, wanted)
            if array is not None:
                return Room(table, array, written)
        for table, _ in sizes:
            take_pages(table.array[line : line + 1])
        return None

    def take_room(self, room: Room) -> bool:
        """Use what :meth:`room` made; False where something was written since: :meth:`publish` makes room by itself."""
        if room.written != self._written:
            return False
        room.table.array = room.array
        return True

    def publish(
        self, key: int, unit: UnitRows, rows: Array, demonstration: bool, drawn: float = 0.0
    ) -> Array | None:
        """Begin to draw from a unit that was loaded; return the rows of an older copy of it. ``drawn``: it is to leave
        as if it had been drawn so often, per step."""
        old = self._take_out(key) if key in self else None
        line = self._spare.pop() if self._spare else self._lines
        self._lines = max(self._lines, line + 1)
        self._rows.write(line, rows)
        self._address.write(line, unit.addresses)
        self._position.write(line, unit.position)
        self._after.write(line, unit.after)
        self._before.write(line, unit.before)
        self._demonstration.write(line, np.array([demonstration]))
        index = int(self.deficits.table.index(np.array([key]))[0])
        steps, top = len(unit.position), int(rows.max())
        known = True, key, index, steps, self._turn - drawn, unit.mark, len(rows), top
        self._known.write(line, np.array([known], _UNIT))
        self._line_of[key] = line
        self.used += len(rows)
        self._written += 1  # last: what another thread copied before may lack some of it
        self._index_units()
        return old

    def narrow(self, key: int, unit: UnitRows) -> Array | None:
        """Draw from a unit in memory as ``unit`` says, without reading it again, where all rows that
        this needs are there: edits only take steps away. Return the rows that are not needed any
        more; None where some are missing, and nothing was changed."""
        line = self._line_of[key]
        rows, demonstration = self._rows_of(line), self._demonstration.array[line, 0]
        there = self._address.array[line, : len(rows)]
        order = np.argsort(there, kind="stable")
        at = np.minimum(np.searchsorted(there[order], unit.addresses), len(there) - 1)
        which = order[at]
        fits = np.array_equal(there[which], unit.addresses)
        if not fits or len(np.unique(which)) < len(which):  # a row in two places has one owner
            return None
        drawn = self._turn - float(self._units["loaded_at"][line])
        self.publish(key, unit, rows[which], bool(demonstration), drawn)
        return np.delete(rows, which)

    def drop(self, keys: Iterable[int]) -> list[Array]:
        """Draw no more from these units; return the rows that each took."""
        rows = [self._take_out(key) for key in keys]
        if rows:
            self._index_units()
        return rows

    def _take_out(self, key: int) -> Array:
        line = self._line_of.pop(key)
        rows = self._rows_of(line)
        self._units["there"][line] = False
        self._spare.append(line)
        self.used -= len(rows)
        return rows

    def _rows_of(self, line: int) -> Array:
        rows: Array = self._rows.array[line, : self._units["size"][line]].copy()
        return rows

    def changed(self) -> int | None:
        """A unit in memory that has other steps in the stores by now, if there is one."""
        stale = np.flatnonzero(self._marks != self.deficits.table.mark[self._index])
        return int(self.deficits.table.key[self._index[stale[0]]]) if len(stale) else None

    def beyond(self, row: int) -> int | None:
        """A unit in memory that has rows from this one on, if there is one."""
        over = np.flatnonzero((self._units["top"] >= row) & self._units["there"])
        return int(self._units["key"][over[0]]) if len(over) else None

    def needs(self) -> Needs:
        """What one to be loaded is picked by."""
        deficits = self.deficits
        return Needs(deficits.table, deficits.due, deficits.given, self._index)

    def leaving(self, rows: int, draws_per_load: float) -> list[int] | None:
        """Units to drop so that ``rows`` fit into the quota; None while too few were drawn
        enough. Those to which the least is due go first."""
        excess = self.used + rows - self.quota
        if excess <= 0:
            return []
        spent = np.flatnonzero(self._turn - self._loaded_at >= draws_per_load)
        spent = spent[np.argsort(self.deficits.deficit[self._index[spent]])]
        enough = int(np.searchsorted(np.cumsum(self._sizes[spent]), excess)) + 1
        if enough > len(spent) or enough >= len(self):
            return None
        return [int(key) for key in self.deficits.table.key[self._index[spent[:enough]]]]

    def _index_units(self) -> None:
        self._line = np.flatnonzero(self._units["there"])
        units = self._units[self._line]
        self._index, self._steps, self._marks, self._sizes, self._loaded_at = (
            units[name] for name in ("index", "steps", "mark", "size", "loaded_at")
        )
        self._first_loaded = float(self._loaded_at.min(initial=np.inf))
        self._ends = np.cumsum(self._steps)
