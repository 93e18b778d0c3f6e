"""Edits as a sampler needs them: which rows are left, and which rewards are others.

A sampler knows rows by episode number of the index and by address, not by
:class:`~user_core.types.EpisodeKey`. Here one is turned into the other, for all episodes at once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from user_core.errors import SuiteError
from user_core.specs import Array
from user_core.types import EpisodeKey
from user_learner.edits.columns import VALUE, RewardColumn
from user_learner.edits.log import EditLog
from user_learner.edits.state import EditState
from user_learner.replay.reader import StoreReader, integer_table

_EPISODE, _FIRST_ROW, _SEGMENT, _START, _ROWS = 1, 2, 3, 4, 5
_NO_END = np.iinfo(np.int64).max // 2
#: Episode number and row within the episode, as one number.
_EPISODE_SHIFT = 32


@dataclass(frozen=True)
class LabelTable:
    """Rewards that are not the recorded ones, by ranges of addresses that do not overlap.

    Attributes:
        start: First address of each range, ascending, (L,) int64.
        rows: Rows of the range, (L,).
        source: Which of ``values`` it is in, (L,).
        offset: Where it begins there, (L,).
        values: Arrays of :data:`~user_learner.edits.columns.VALUE`.
    """

    start: Array = field(default_factory=lambda: np.empty(0, np.int64))
    rows: Array = field(default_factory=lambda: np.empty(0, np.int64))
    source: Array = field(default_factory=lambda: np.empty(0, np.int64))
    offset: Array = field(default_factory=lambda: np.empty(0, np.int64))
    values: tuple[Array, ...] = ()

    def __len__(self) -> int:
        return len(self.start)

    def of(self, address: Array) -> tuple[Array, Array, Array]:
        """Of addresses (...): which have another reward, bool; rewards, float32; whether the task
        ended with the step, bool."""
        reward, ended = np.zeros(address.shape, np.float32), np.zeros(address.shape, bool)
        if not len(self):
            return np.zeros(address.shape, bool), reward, ended
        at = np.maximum(np.searchsorted(self.start, address, side="right") - 1, 0)
        within = address - self.start[at]
        known = (within >= 0) & (within < self.rows[at])
        source, place = self.source[at], self.offset[at] + within
        for number, values in enumerate(self.values):
            mine = known & (source == number)
            if mine.any():
                found = values[place[mine]]
                reward[mine], ended[mine] = found["reward"], found["terminated"] != 0
        return known, reward, ended

    @classmethod
    def join(cls, tables: Sequence[LabelTable]) -> LabelTable:
        """Several, of ranges that do not overlap."""
        tables = [table for table in tables if len(table)]
        if len(tables) < 2:
            return tables[0] if tables else cls()
        before = np.cumsum([0, *(len(table.values) for table in tables)])
        start = np.concatenate([table.start for table in tables])
        order = np.argsort(start)
        return cls(
            start[order],
            np.concatenate([table.rows for table in tables])[order],
            np.concatenate([t.source + b for t, b in zip(tables, before)])[order],
            np.concatenate([table.offset for table in tables])[order],
            tuple(values for table in tables for values in table.values),
        )


@dataclass(frozen=True)
class Labels:
    """Rewards that are not the recorded ones, of all stores.

    Attributes:
        columns: Of columns of rewards.
        people: Of last steps that a person, or a model that looks at episodes, judged: they go over
            what a column says.
        takeovers: Of steps that led to a takeover by a person; all others go over them.
    """

    columns: LabelTable = field(default_factory=LabelTable)
    people: LabelTable = field(default_factory=LabelTable)
    takeovers: LabelTable = field(default_factory=LabelTable)

    def __bool__(self) -> bool:
        return bool(len(self.columns) or len(self.people) or len(self.takeovers))

    def of(self, address: Array) -> tuple[Array, Array, Array]:
        """See :meth:`LabelTable.of`."""
        known, reward, ended = self.takeovers.of(address)
        for table in (self.columns, self.people):
            said, other, over = table.of(address)
            known, reward = known | said, np.where(said, other, reward)
            ended = np.where(said, over, ended)
        return known, reward, ended

    @classmethod
    def join(cls, parts: Sequence[Labels]) -> Labels:
        """Those of several stores."""
        return cls(
            LabelTable.join([part.columns for part in parts]),
            LabelTable.join([part.people for part in parts]),
        )


class _Numbers:
    """Numbers of episodes in an index. Looked up once, and not at each change of the store: a thread that goes through
    very many episodes in Python keeps the interpreter from draws.

    Args:
        keys: Of the episodes, (E,); more may come behind them.
    """

    def __init__(self, keys: Sequence[EpisodeKey]) -> None:
        self._keys = keys
        self._numbers: Array = np.empty(0, np.int64)
        self._numbers_of = 0

    def __len__(self) -> int:
        return len(self._keys)

    def of(self, index: int, number_of: Callable[[EpisodeKey], int]) -> Array:
        """Of the episodes in an index of this identity, (E,); -1 of those that have not come yet."""
        if index != self._numbers_of:  # another index gives other numbers
            self._numbers, self._numbers_of = np.empty(0, np.int64), index
        came = len(self) - len(self._numbers)
        if came:
            self._numbers = np.concatenate([self._numbers, np.full(came, -1, np.int64)])
        for at in np.flatnonzero(self._numbers < 0).tolist():
            self._numbers[at] = number_of(self._keys[at])
        return self._numbers


class _Said(_Numbers):
    """What edits say of episodes, as arrays.

    Args:
        keys: Of the episodes, (E,).
        values: What is said of each.
    """

    def __init__(self, keys: Sequence[EpisodeKey], values: Array) -> None:
        super().__init__(keys)
        self.values = values


class StoreEdits:
    """The edits of one store, for a sampler.

    Args:
        reader: Of the store.
        place: Where the edits are, when not in the store.
    """

    def __init__(self, reader: StoreReader, place: str | Path = "") -> None:
        self._reader = reader
        self.log = EditLog(place or reader.path)
        self.state = EditState.of(self.log.edits)
        self._column: RewardColumn | None = None
        #: What is said of episodes; None: to be made anew.
        self._cuts: _Said | None = None
        self._rewards: _Said | None = None
        self._judged = _Numbers(())  # of the pieces of the column
        #: Numbers of episodes that edits speak of, except for those of the column.
        self._ids: dict[EpisodeKey, int] = {}
        self._ids_of = 0
        #: Why edits are not honoured as they should be, for people.
        self.trouble = ""
        self._try_column()

    def refresh(self) -> bool:
        """Look for new edits; return whether there are any. What is wrong with them is told in
        :attr:`trouble`: training goes on with those that were read."""
        try:
            changed = self.log.refresh()
        except SuiteError as error:
            self.trouble = str(error)
            return False
        if changed:
            self.state = EditState.of(self.log.edits)
            self._cuts = self._rewards = None
        return self._try_column() or changed

    def _try_column(self) -> bool:
        try:
            return self._take_column()
        except (SuiteError, OSError) as error:
            self.trouble = str(error)
            return False

    def apply(self, extents: Array) -> Array:
        """Extents of the store without the rows that edits exclude or cut off."""
        if self._cuts is None:
            self._cuts = self._what_is_cut()
        if not len(self._cuts) or not len(extents):
            return extents
        number = self._numbers_of(self._cuts)
        order = np.argsort(number)
        number, (low, high) = number[order], self._cuts.values[order].T
        at = np.minimum(np.searchsorted(number, extents[:, _EPISODE]), len(number) - 1)
        hit = number[at] == extents[:, _EPISODE]
        changed = extents[hit].copy()
        first, rows = changed[:, _FIRST_ROW], changed[:, _ROWS]
        begin = np.maximum(first, low[at[hit]])
        left = np.minimum(first + rows, high[at[hit]]) - begin
        changed[:, _START] += begin - first
        changed[:, _FIRST_ROW], changed[:, _ROWS] = begin, left
        return np.concatenate([extents[~hit], changed[left > 0]])

    def labels(self, extents: Array, bases: Array) -> Labels:
        """Rewards that are not the recorded ones.

        Args:
            extents: What :meth:`apply` left.
            bases: Address of the first row of each segment, by its number; -1: none.
        """
        if self._column is None and not len(self._what_people_said()):
            return Labels()
        extents = extents[bases[extents[:, _SEGMENT]] >= 0]
        if not len(extents):
            return Labels()
        extents = extents[np.lexsort((extents[:, _FIRST_ROW], extents[:, _EPISODE]))]
        line = (extents[:, _EPISODE] << _EPISODE_SHIFT) + extents[:, _FIRST_ROW]
        address = bases[extents[:, _SEGMENT]] + extents[:, _START]
        return Labels(
            self._of_column(line, extents, address), self._of_people(line, extents, address)
        )

    def _of_people(self, line: Array, extents: Array, address: Array) -> LabelTable:
        """The last step of every episode that was given another reward there: that before the last row
        that is left, which is no step or has no next observation."""
        said = self._what_people_said()
        if not len(said):
            return LabelTable()
        numbers, values = self._numbers_of(said), said.values
        episode, first, rows = extents[:, _EPISODE], extents[:, _FIRST_ROW], extents[:, _ROWS]
        at = np.maximum(np.searchsorted(episode, numbers, side="right") - 1, 0)
        last = (numbers << _EPISODE_SHIFT) + first[at] + rows[at] - 2
        where = np.maximum(np.searchsorted(line, last, side="right") - 1, 0)
        within = last - line[where]
        there = (episode[at] == numbers) & (within >= 0) & (within < rows[where])
        start = (address[where] + within)[there]
        order = np.argsort(start)
        count = len(start)
        return LabelTable(
            start[order],
            np.ones(count, np.int64),
            np.zeros(count, np.int64),
            np.arange(count),
            (values[there][order],),
        )

    def _of_column(self, line: Array, extents: Array, address: Array) -> LabelTable:
        """The steps that the column in use has judged: its pieces, intersected with the extents."""
        if self._column is None:
            return LabelTable()
        pieces = self._pieces_of(self._column)
        end = line + extents[:, _ROWS]
        low, high = pieces[:, 0], pieces[:, 0] + pieces[:, 1]
        first = np.searchsorted(end, low, side="right")
        hits = np.maximum(0, np.searchsorted(line, high, side="left") - first)
        which = np.repeat(np.arange(len(pieces)), hits)
        index = first[which] + np.arange(len(which)) - np.repeat(np.cumsum(hits) - hits, hits)
        begin = np.maximum(line[index], low[which])
        stop = np.minimum(end[index], high[which])
        start = address[index] + begin - line[index]
        order = np.argsort(start)
        return LabelTable(
            start[order],
            (stop - begin)[order],
            np.zeros(len(order), np.int64),
            (pieces[which, 2] + begin - low[which])[order],
            (self._column.values,),
        )

    def _pieces_of(self, column: RewardColumn) -> Array:
        """Line, steps and offset of every piece, ascending, (P, 3)."""
        number = self._judged.of(self._reader.identity, self._number)
        there = np.flatnonzero(number >= 0)
        table = column.pieces.table[there]
        line = (number[there] << _EPISODE_SHIFT) + table["first_step"]
        order = np.argsort(line)
        return np.stack([line, table["steps"], table["offset"]], axis=1)[order]

    def _what_is_cut(self) -> _Said:
        """Episodes of which rows are left out, with the first that is kept, and the one behind the last."""
        said = {
            key: edits for key, edits in self.state.episodes.items() if edits.excluded or edits.cut
        }
        kept = (
            (_NO_END if e.excluded else e.start, _NO_END if e.stop is None else e.stop + 1)
            for e in said.values()
        )
        return _Said([*said], integer_table(kept, 2))

    def _what_people_said(self) -> _Said:
        """Episodes whose last step was judged, with :data:`~user_learner.edits.columns.VALUE` of each."""
        if self._rewards is None:
            said = {k: e for k, e in self.state.episodes.items() if e.reward is not None}
            values = np.zeros(len(said), VALUE)
            values["reward"] = [edits.reward for edits in said.values()]
            values["terminated"] = [edits.terminated for edits in said.values()]
            self._rewards = _Said([*said], values)
        return self._rewards

    def _numbers_of(self, said: _Said) -> Array:
        return said.of(self._reader.identity, self._kept_number)

    def _take_column(self) -> bool:
        """Go over to the column that the edits name; return whether anything is new."""
        name = self.state.reward_column
        there = self._column.provenance.name if self._column is not None else ""
        if name != there or (self._column is not None and self._column.is_another):
            self._column = RewardColumn(self.log.path.parent, name) if name else None
            self._judged = _Numbers(self._column.pieces if self._column is not None else ())
            self.trouble = ""
            return True
        return self._column is not None and self._column.refresh()

    def _kept_number(self, key: EpisodeKey) -> int:
        """As :meth:`_number`, which is asked once: what is said is gone through anew at each edit."""
        index = self._reader.identity
        if index != self._ids_of:  # another index gives other numbers
            self._ids, self._ids_of = {}, index
        if key not in self._ids:
            if (number := self._number(key)) < 0:
                return number
            self._ids[key] = number
        return self._ids[key]

    def _number(self, key: EpisodeKey) -> int:
        """Number of an episode in the index, -1 where it never came."""
        number = self._reader.episode_number(key)
        return -1 if number is None else number
