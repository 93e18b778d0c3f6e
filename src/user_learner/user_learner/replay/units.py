"""Units of residence: the steps of one block of one segment, which come and go together.

How often a step is drawn is controlled per unit. Its *debt* is the number of draws per step
that uniform sampling from the whole store would have made so far, minus those that were
made. Steps that are in memory are drawn equally often, which lowers their debt, and those on
disk gain it; loading units with a chance in proportion to their debt, and dropping those
whose debt is lowest, keeps every debt within about one residence. So the draws of each step,
over their expected number, go to one, whatever the sizes of the units, however the store
grows, and however long the disk takes.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from user_core.specs import Array
from user_learner.replay.catalog import RunTable
from user_learner.replay.population import Population


def _ints() -> Array:
    return np.empty(0, np.int64)


@dataclass(frozen=True)
class UnitTable:
    """The units of a population, ascending by key.

    Attributes:
        key: Address of the block divided by its rows, (U,) int64.
        steps: Steps that can be drawn, (U,).
        first: Index of the unit's first piece, (U + 1,).
        run: Run of each piece, (P,).
        offset: First row of the piece within its run, (P,).
        count: Steps of the piece, (P,).
    """

    key: Array = field(default_factory=_ints)
    steps: Array = field(default_factory=_ints)
    first: Array = field(default_factory=lambda: np.zeros(1, np.int64))
    run: Array = field(default_factory=_ints)
    offset: Array = field(default_factory=_ints)
    count: Array = field(default_factory=_ints)

    @classmethod
    def of(cls, population: Population, runs: RunTable, block_rows: int) -> UnitTable:
        """Cut a population at the boundaries of blocks."""
        start = runs.address[population.run] + population.offset
        low = start // block_rows
        parts = (start + population.count - 1) // block_rows - low + 1
        piece = np.repeat(np.arange(len(start)), parts)
        nth = np.arange(len(piece)) - np.repeat(np.cumsum(parts) - parts, parts)
        key = low[piece] + nth
        begin = np.maximum(start[piece], key * block_rows)
        end = np.minimum((start + population.count)[piece], (key + 1) * block_rows)
        order = np.lexsort((begin, key))
        run, begin, count = population.run[piece][order], begin[order], (end - begin)[order]
        keys, first = np.unique(key[order], return_index=True)
        steps = np.add.reduceat(count, first) if len(first) else count
        return cls(keys, steps, np.append(first, len(count)), run, begin - runs.address[run], count)

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
        addresses: Rows to load, each piece followed by what its last step needs, (M,).
        position: Where each step is among them, (N,) int32; what follows it, follows there.
        after: How many rows follow it there, at most the horizon, (N,) int32.
    """

    addresses: Array
    position: Array
    after: Array

    @classmethod
    def of(cls, table: UnitTable, unit: int, runs: RunTable, horizon: int) -> UnitRows:
        """Lay out a unit for steps that need up to ``horizon`` following rows."""
        pieces = slice(table.first[unit], table.first[unit + 1])
        run, offset, count = table.run[pieces], table.offset[pieces], table.count[pieces]
        addresses, available = runs.follow(run, offset, int(count.max()) + horizon - 1)
        rows = np.minimum(count + horizon, available + 1)
        wanted = np.arange(addresses.shape[1]) < rows[:, None]
        starts = np.cumsum(rows) - rows
        within = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count)
        after = np.minimum(np.repeat(rows, count) - within - 1, horizon)
        position = np.repeat(starts, count) + within
        return cls(addresses[wanted], position.astype(np.int32), after.astype(np.int32))


class Debts:
    """What each unit of a table is owed, in draws per step."""

    def __init__(self) -> None:
        self.table = UnitTable()
        self._due = 0.0
        self._given: Array = np.empty(0)

    @property
    def debt(self) -> Array:
        """Draws per step that each unit is owed, (U,); negative where it had more."""
        return self._due - self._given

    def drawn(self, units: Array, resident: Array, draws: int) -> None:
        """So many draws were made, spread evenly over the ``resident`` steps of these units."""
        self._due += draws / self.table.steps.sum()
        each = draws / resident.sum()
        self._given[units] += each * resident / self.table.steps[units]

    def renew(self, table: UnitTable) -> None:
        """Go over to a later population. New steps are owed nothing; a unit that grew owes the
        same number of draws to more steps."""
        debt = np.zeros(len(table))
        old = self.table.index(table.key)
        known = old >= 0
        debt[known] = self.debt[old[known]] * np.minimum(
            1.0, self.table.steps[old[known]] / table.steps[known]
        )
        self.table, self._given = table, self._due - debt

    def load(self, debt: Array) -> None:
        """Take over debts of all units, (U,)."""
        self._given = self._due - debt
