"""The units of one stratum that are in memory, and which of them come and go."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from user_core.specs import Array
from user_learner.replay.pool import Drawn
from user_learner.replay.units import Debts, UnitRows, UnitTable


@dataclass
class _Resident:
    """A unit in memory.

    Attributes:
        line: Its line in the tables.
        rows: Rows of the slab that it takes.
        steps: Steps of it that can be drawn.
        loaded_at: Draws per step of the whole set when it was loaded.
    """

    line: int
    rows: Array
    steps: int
    loaded_at: float


class _Lines:
    """A table (lines, width) that grows in both directions."""

    def __init__(self, dtype: type[np.generic]) -> None:
        self.array: Array = np.zeros((0, 0), dtype)

    def write(self, line: int, values: Array) -> None:
        lines, width = self.array.shape
        if line >= lines or len(values) > width:
            more = max(16, 2 * line) if line >= lines else lines
            grown = np.zeros((more, max(width, len(values))), self.array.dtype)
            grown[:lines, :width] = self.array
            self.array = grown
        self.array[line, : len(values)] = values


class Residents:
    """What is in memory of one stratum. Not thread-safe: the pool's lock guards it.

    Attributes:
        quota: Rows of the slab that it may take.
        used: Rows of the slab that it takes.
        debts: What its units are owed.
    """

    def __init__(self, horizon: int) -> None:
        self.quota = 0
        self.used = 0
        self.debts = Debts()
        self._ahead = np.arange(horizon + 1)
        self._units: dict[int, _Resident] = {}
        self._spare: list[int] = []
        self._turn = 0.0
        self._rows, self._address = _Lines(np.int32), _Lines(np.int64)
        self._position, self._after = _Lines(np.int32), _Lines(np.int32)
        self._demonstration = _Lines(np.bool_)
        self._index_units()

    def __len__(self) -> int:
        return len(self._units)

    def __contains__(self, key: int) -> bool:
        return key in self._units

    @property
    def complete(self) -> bool:
        """Whether every step of the stratum is in memory."""
        return len(self._units) == len(self.debts.table)

    def draw(self, count: int, rng: np.random.Generator) -> Drawn:
        """Draw uniformly, with replacement, from the steps in memory."""
        total = int(self._ends[-1])
        pick = rng.integers(0, total, count)
        unit = np.searchsorted(self._ends, pick, side="right")
        line, step = self._line[unit], pick - (self._ends[unit] - self._steps[unit])
        after = self._after.array[line, step].astype(np.int64)
        first = self._position.array[line, step]
        position = first[:, None] + np.minimum(self._ahead, after[:, None])
        self._turn += count / total
        self.debts.drawn(self._index, self._steps, count)
        return Drawn(
            self._rows.array[line[:, None], position].astype(np.int64),
            after,
            self._address.array[line, first],
            self._demonstration.array[line, 0],
        )

    def worn(self, draws: float) -> bool:
        """Whether what is in memory was drawn so often, on average, and others wait for a place."""
        if self.complete or not len(self._loaded_at):
            return False
        return bool(np.mean(self._turn - self._loaded_at) >= draws)

    def renew(self, table: UnitTable) -> list[Array]:
        """Go over to a later population; return rows of units that are no longer in it."""
        there = table.index(np.array(list(self._units), np.int64)) >= 0
        gone = [key for key, stays in zip(list(self._units), there, strict=True) if not stays]
        rows = [self.drop(key) for key in gone]
        self.debts.renew(table)
        self._index_units()
        return rows

    def publish(self, key: int, unit: UnitRows, rows: Array, demonstration: bool) -> Array | None:
        """Begin to draw from a unit that was loaded; return the rows of an older copy of it."""
        old = self.drop(key) if key in self._units else None
        line = self._spare.pop() if self._spare else len(self._units)
        self._rows.write(line, rows)
        self._address.write(line, unit.addresses)
        self._position.write(line, unit.position)
        self._after.write(line, unit.after)
        self._demonstration.write(line, np.array([demonstration]))
        self._units[key] = _Resident(line, rows, len(unit.position), self._turn)
        self.used += len(rows)
        self._index_units()
        return old

    def drop(self, key: int) -> Array:
        """Draw no more from a unit; return the rows that it took."""
        resident = self._units.pop(key)
        self._spare.append(resident.line)
        self.used -= len(resident.rows)
        self._index_units()
        return resident.rows

    def changed(self) -> int | None:
        """A unit in memory that has other steps in the stores by now, if there is one."""
        stale = np.flatnonzero(self._steps != self.debts.table.steps[self._index])
        return int(self.debts.table.key[self._index[stale[0]]]) if len(stale) else None

    def owed(self, rng: np.random.Generator, without: set[int]) -> int | None:
        """A unit that is not in memory, picked with a chance in proportion to its debt."""
        chance = np.maximum(self.debts.debt, 0.0) + 1e-9
        chance[self._index] = 0.0
        if without:
            chance[np.isin(self.debts.table.key, list(without))] = 0.0
        total = chance.sum()
        if total == 0.0:
            return None
        return int(self.debts.table.key[rng.choice(len(chance), p=chance / total)])

    def leaving(self, rows: int, draws_per_load: float) -> list[int] | None:
        """Units to drop so that ``rows`` fit into the quota; None while too few were drawn
        enough. Those that are owed the least go first."""
        excess = self.used + rows - self.quota
        if excess <= 0:
            return []
        spent = np.flatnonzero(self._turn - self._loaded_at >= draws_per_load)
        spent = spent[np.argsort(self.debts.debt[self._index[spent]])]
        enough = int(np.searchsorted(np.cumsum(self._sizes[spent]), excess)) + 1
        if enough > len(spent) or enough >= len(self._units):
            return None
        return [int(key) for key in self.debts.table.key[self._index[spent[:enough]]]]

    def _index_units(self) -> None:
        units = list(self._units.values())
        self._line = np.array([unit.line for unit in units], np.int64)
        self._steps = np.array([unit.steps for unit in units], np.int64)
        self._sizes = np.array([len(unit.rows) for unit in units], np.int64)
        self._loaded_at = np.array([unit.loaded_at for unit in units])
        self._ends = np.cumsum(self._steps)
        self._index = self.debts.table.index(np.array(list(self._units), np.int64))
