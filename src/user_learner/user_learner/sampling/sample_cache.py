"""The sample cache: sampling from stores that are larger than the memory budget.

A part of the steps is in memory, and draws are uniform over it. A background thread exchanges
units (:mod:`~user_learner.sampling.cache_units`) at a bounded rate: one that has been drawn
enough leaves, and one from disk takes its place, picked at random with a chance in proportion
to the draws that are due to it. Every stratum has its share of the memory; one that fits into
its share stays in memory whole.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from user_core.errors import ConfigError, StoreCorrupt
from user_core.runtime.files import pread_into
from user_core.specs import Array
from user_core.types import EpisodeSource
from user_learner.replay.bucket import MARK
from user_learner.replay.layout import ColumnFile, RowLayout
from user_learner.replay.packed import PackedColumn
from user_learner.replay.segments import open_column
from user_learner.sampling.cache_units import CachedUnits, Successor, UnitRows, UnitTable
from user_learner.sampling.catalog import SegmentTable, Snapshot
from user_learner.sampling.config import SamplerConfig
from user_learner.sampling.draws import Population
from user_learner.sampling.pool import CLOSE_S, Drawn, Pins, aligned_bytes, release

_CACHE_PIECE_BYTES = 2 * 2**20


class RowMemory:
    """Rows in anonymous memory, one array per column file.

    Rows are read with ``preadv`` or decoded straight into their place, and the page cache is told to
    forget them, so that the memory taken is that of the cache and no other.
    """

    def __init__(self, layout: RowLayout, rows: int) -> None:
        self._layout = layout
        self.rows = rows
        #: Rows that are in use and are to be given back to the system.
        self.over = 0
        self.arrays: list[Array] = [
            aligned_bytes(rows * file.stride).reshape(rows, file.stride) for file in layout.files
        ]
        self._free = np.arange(rows - 1, -1, -1, dtype=np.int32)  # a stack, lowest on top
        self._free_count = rows

    @property
    def free(self) -> int:
        """Rows that are not in use."""
        return self._free_count

    def take(self, count: int) -> Array:
        """Take rows, ascending, (count,) int32; there must be this many."""
        self._free_count -= count
        return np.sort(self._free[self._free_count : self._free_count + count])

    def give(self, rows: Array) -> None:
        """Give rows back."""
        kept = rows[rows < self.rows]
        if self.over and len(kept) < len(rows):
            self.over -= len(rows) - len(kept)
            self._give_to_system()
        rows = kept
        self._free[self._free_count : self._free_count + len(rows)] = rows[::-1]
        self._free_count += len(rows)

    def shrink(self, rows: int) -> None:
        """Use only the first ``rows`` rows from now on. The memory of the others goes back to the system as soon as
        all of them were given back."""
        free = self._free[: self._free_count]
        low = free[free < rows]
        self.over += self.rows - rows - (len(free) - len(low))
        self._free[: len(low)] = low
        self.rows, self._free_count = rows, len(low)
        self._give_to_system()

    def _give_to_system(self) -> None:
        if not self.over:
            for array in self.arrays:
                release(array[self.rows :])

    def load(self, segments: SegmentTable, addresses: Array, rows: Array) -> int:
        """Read rows of the stores, by address, into rows of the cache; return their bytes.

        Raises:
            OSError: A file cannot be read, for instance because retention dropped it.
            StoreCorrupt: A file is cut short, or what is compressed is damaged.
        """
        segment, row = segments.locate(addresses)
        nbytes = 0
        for file, array in zip(self._layout.files, self.arrays, strict=True):
            for start, end in _pieces(np.diff(segment) != 0):
                path = segments.paths[int(segment[start])]
                _load(path, file, row[start:end], array, rows[start:end])
                nbytes += (end - start) * file.stride
        return nbytes


def _pieces(breaks: Array) -> Iterable[tuple[int, int]]:
    """From and up to which elements pieces go, where ``breaks`` says behind which elements but the last one ends."""
    return pairwise([0, *(np.flatnonzero(breaks) + 1).tolist(), len(breaks) + 1])


def _load(path: Path, file: ColumnFile, source: Array, array: Array, rows: Array) -> None:
    """Read rows of a segment, ``source``, into ``rows`` of an array."""
    with open_column(path, file) as column:
        if isinstance(column, PackedColumn):
            for start, end in _pieces(np.diff(source) != 1):
                _unpack(column, int(source[start]), array, rows[start:end])
            column.forget()
            return
        handle = column.fileno()
        if hasattr(os, "posix_fadvise"):  # what follows is not wanted
            os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_RANDOM)
        for start, end in _pieces((np.diff(source) != 1) | (np.diff(rows) != 1)):
            target = array[rows[start] : rows[end - 1] + 1].reshape(-1)
            _read(handle, target, int(source[start]) * file.stride)


def _unpack(column: PackedColumn, first: int, array: Array, rows: Array) -> None:
    """Decode consecutive rows, ``first`` and those behind it, in groups: each once, and not once for each place that it
    goes to."""
    if rows[-1] - rows[0] + 1 == len(rows):
        column.read(first, array[rows[0] : rows[-1] + 1])
        return
    out = np.empty_like(array[: len(rows)])
    column.read(first, out)
    array[rows] = out


def _read(handle: int, target: Array, offset: int) -> int:
    done = pread_into(handle, target.data, offset)
    if done < target.nbytes:
        raise StoreCorrupt("a column file ends within its committed rows", got=offset + done)
    if hasattr(os, "posix_fadvise"):
        # The cache keeps files in pieces of up to 2 MiB, and drops whole ones only.
        start = offset - offset % _CACHE_PIECE_BYTES
        end = offset + done + -(offset + done) % _CACHE_PIECE_BYTES
        os.posix_fadvise(handle, start, end - start, os.POSIX_FADV_DONTNEED)
    return done


#: Bytes per row besides its columns: where it lies, what follows it, its address.
_OVERHEAD_BYTES = 40
#: For what does not grow with the rows: threads, tables of units, halves of large pages.
_RESERVE_BYTES = 8 * 2**20
_LOOK_PERIOD_S = 0.05
#: How long the first batch waits for memory to be filled.
_FILL_S = 0.5
#: How long sampling waits for the disk at most, where it does.
_PATIENCE_S = 2.0
#: Reading may catch up on pauses of this length.
_BURST_S = 0.1


@dataclass(frozen=True)
class _Renewal:
    """A later state of the stores, by stratum; ``needs``: rows that would hold all of it. What was used before it is
    put into ``left``, and freed with it: to free large tables takes long, and draws are not to wait for it."""

    snapshot: Snapshot
    sets: list[CachedUnits]
    successors: list[Successor]
    names: list[str]
    needs: list[int]
    shares: list[float]
    left: list[Any] = field(default_factory=list)


class SampleCache:
    """See :class:`~user_learner.sampling.pool.Pool`. All methods may be called from any thread."""

    def __init__(self, layout: RowLayout, config: SamplerConfig, budget_bytes: int) -> None:
        """Raises ConfigError when the budget cannot hold two units per stratum, or the system does not give this
        much."""
        self.pins = Pins()
        self._layout, self._config = layout, config
        self._horizon, self._past = config.horizon, config.past
        budget_bytes -= min(_RESERVE_BYTES, budget_bytes // 20)
        rows = budget_bytes // (layout.row_nbytes + _OVERHEAD_BYTES)
        self._unit = unit = layout.block_rows() + 2 * (self._horizon + self._past)
        if rows < unit * (2 * len(config.strata) + 2):
            raise ConfigError(
                "memory_bytes, less what batches take",
                got=budget_bytes,
                expected=f"room for {unit * (2 * len(config.strata) + 2)} rows of "
                f"{layout.row_nbytes + _OVERHEAD_BYTES} bytes",
                hint="Give more memory, smaller batches, or less prefetch",
            )
        try:
            self._memory = RowMemory(layout, rows)
        except MemoryError as error:
            raise ConfigError(
                "memory_bytes, less what batches take",
                got=budget_bytes,
                expected=f"what this system gives a process ({error})",
                hint="Give less, or lift the limit on address space (ulimit -v)",
            ) from error
        self._share_rows(rows)
        self._needs: list[int] = []
        self._shares: list[float] = []
        self.arrays: list[Array] = self._memory.arrays
        self._snapshot = Snapshot()
        self._sets: list[CachedUnits] = []
        self._names: list[str] = []
        self._turn = 0
        self._retired: list[tuple[int, Array]] = []
        self._unreadable: set[int] = set()
        self._unread: dict[Path, str] = {}  # why, by segment
        #: Bytes read from disk so far.
        self.bytes_read = 0
        self._rng = np.random.default_rng([config.seed, 1])
        self._lock = threading.RLock()
        self._wake = threading.Condition(self._lock)
        self._exchanged = threading.Condition(self._lock)
        self._stopping = False
        self._thread: threading.Thread | None = None
        self._filled = False  # once
        self._short = ""  # of memory

    @property
    def warnings(self) -> list[str]:
        """What cannot be read, for people, as long as the stores have it."""
        with self._lock:
            return [*self._unread.values(), *filter(None, [self._short])]

    def draw(self, stratum: int, count: int, rng: np.random.Generator) -> Drawn:
        """See :class:`Pool`."""
        with self._lock:
            drawn = self._sets[stratum].draw(count, rng)
            if self._sets[stratum].spent(self._config.draws_per_load):
                self._wake.notify()
            return drawn

    def has(self, stratum: int) -> bool:
        """See :class:`Pool`: not before the first unit of a robot that has just joined was loaded."""
        with self._lock:
            return stratum < len(self._sets) and len(self._sets[stratum]) > 0

    def wait_for_disk(self) -> None:
        """See :class:`Pool`: until rows drawn too often have been exchanged for others."""
        limit = self._config.max_draws_per_load
        if not limit:
            return
        with self._lock:
            self._exchanged.wait_for(
                lambda: not any(units.worn(limit) for units in self._sets), _PATIENCE_S
            )

    def ready(self, snapshot: Snapshot, populations: list[Population]) -> _Renewal:
        """See :class:`Pool`."""
        block_rows = self._layout.block_rows()
        wanted = self._horizon, self._past
        tables = [UnitTable.of(p, snapshot.runs, block_rows, *wanted) for p in populations]
        sets = [*self._sets]
        while len(sets) < len(populations):  # a robot has joined
            sets.append(CachedUnits(self._horizon, self._past))
        around = self._horizon + self._past
        return _Renewal(
            snapshot, sets,
            [units.deficits.ready(table) for units, table in zip(sets, tables, strict=True)],
            [population.name for population in populations],
            [int(table.steps.sum()) + len(table.run) * around for table in tables],
            [population.share for population in populations],
        )  # fmt: skip

    def renew(self, ready: _Renewal) -> None:
        """See :class:`Pool`."""
        ready.left.extend((self._snapshot, [units.deficits.table for units in self._sets]))
        with self._lock:
            self._snapshot, self._sets, self._names = ready.snapshot, ready.sets, ready.names
            self._unreadable.clear()
            there = set(ready.snapshot.segments.paths) if self._unread else set()
            self._unread = {path: why for path, why in self._unread.items() if path in there}
            for units, successor in zip(self._sets, ready.successors, strict=True):
                self._leave(units.renew(successor))
            self._needs, self._shares = ready.needs, ready.shares
            self._share_out()

    def settle(self) -> None:
        """See :class:`Pool`. At first it begins to fill the memory, as fast as the disk can, and leaves the rest to its
        thread: the first batches are drawn from what is there by then."""
        began_s = time.monotonic()
        while self._thread is None or self._are_starting():
            if not self._exchange():
                break
            if time.monotonic() - began_s > _FILL_S and not self._are_starting():
                break
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="replay-cache", daemon=True)
            self._thread.start()

    def _are_starting(self) -> bool:
        """Whether there are strata that nothing can be drawn from yet."""
        with self._lock:
            return any(len(units.deficits.table) and not len(units) for units in self._sets)

    def fit(self, budget_bytes: int) -> None:
        """Take no more memory than this from now on, to about a hundredth; what is over leaves unit by unit. It does
        not grow again."""
        budget_bytes -= min(_RESERVE_BYTES, budget_bytes // 20)
        rows = budget_bytes // (self._layout.row_nbytes + _OVERHEAD_BYTES)
        rows = max(rows, self._unit * (2 * len(self._sets) + 2))
        with self._lock:
            if rows <= self._memory.rows - self._memory.rows // 128:
                self._memory.shrink(rows)
                self._share_rows(rows)
                self._share_out()
                self._wake.notify()

    def state(self) -> dict[str, Any]:
        """See :class:`Pool`: the draws that are due to every unit."""
        state = {}
        with self._lock:
            segments, block_rows = self._snapshot.segments, self._layout.block_rows()
            for name, units in zip(self._names, self._sets, strict=True):
                segment, row = segments.locate(units.deficits.table.key * block_rows)
                state[name] = {
                    "store": segments.store[segment],
                    "segment": segments.number[segment],
                    "row": row,
                    "debt": units.deficits.deficit,
                }
        return state

    def load_state(self, state: Mapping[str, Any]) -> None:
        """See :class:`Pool`. Units that are not known any more are passed over."""
        with self._lock:
            table, block_rows = self._snapshot.segments, self._layout.block_rows()
            place = {
                (store, number): base
                for store, number, base in zip(
                    table.store.tolist(), table.number.tolist(), table.base.tolist(), strict=True
                )
            }
            for name, units in zip(self._names, self._sets, strict=True):
                saved, deficits = state.get(name), units.deficits
                if saved is None:
                    continue
                where = zip(saved["store"], saved["segment"], saved["row"], strict=True)
                keys = [place.get((int(s), int(n)), -1) + int(row) for s, n, row in where]
                index = deficits.table.index(np.array(keys, np.int64) // block_rows)
                deficit = deficits.deficit.copy()
                deficit[index[index >= 0]] = np.asarray(saved["debt"])[index >= 0]
                deficits.load(deficit)

    def close(self) -> None:
        """See :class:`Pool`."""
        with self._lock:
            self._stopping = True
            self._wake.notify()
        if self._thread is not None:
            self._thread.join()
        self.pins.wait(self.pins.stamp(), CLOSE_S)

    def _run(self) -> None:
        """Exchange units while there is something to exchange, not faster than allowed."""
        ready_s = time.monotonic()
        while True:
            with self._lock:
                while not self._stopping and time.monotonic() < ready_s:
                    self._wake.wait(ready_s - time.monotonic())
                if self._stopping:
                    return
            before = self.bytes_read
            try:
                exchanged, self._short = self._exchange(), ""
            except MemoryError as error:  # another process may end, and leave some
                exchanged = False
                self._short = f"no memory to load other rows, drawn are those here: {error}"
            if exchanged:
                spent_s = (self.bytes_read - before) / self._config.read_bytes_per_s
                ready_s = max(ready_s, time.monotonic() - _BURST_S) + spent_s
            else:
                with self._lock:
                    if not self._stopping:
                        self._wake.wait(_LOOK_PERIOD_S)

    def _exchange(self) -> bool:
        """Load one unit, drop those that make room for it; False when there is none to load."""
        self._pick()
        with self._lock:
            if self._narrow():
                return True
            if self._memory.over:
                self._drop_beyond()
            chosen = self._choose()
            if chosen is None:
                self._filled = True
                return False
            units, key, unit, leaving = chosen
            rows, segments = self._memory.take(len(unit.addresses)), self._snapshot.segments
            demonstration = self._is_demonstration(units, key)
        try:
            self.bytes_read += self._memory.load(segments, unit.addresses, rows)
            self._make_room(units, unit)
        except MemoryError:
            with self._lock:
                self._memory.give(rows)
            raise
        except (OSError, StoreCorrupt) as error:
            with self._lock:
                self._memory.give(rows)
                self._unreadable.add(key)
                path = self._path_of(segments, key)
                gone = isinstance(error, FileNotFoundError)
                if not (gone and (path / MARK).exists()):  # else it just went to its bucket
                    self._unread[path] = f"rows cannot be read, and are passed over: {error}"
            return True
        with self._lock:
            if self._unread:
                self._unread.pop(self._path_of(segments, key), None)
            if units.deficits.table.index(np.array([key]))[0] < 0:  # it went meanwhile
                self._memory.give(rows)
                return True
            # What is loaded together at first would else leave together, all within a moment.
            drawn = 0.0 if self._filled else self._rng.random() * self._config.draws_per_load
            old = units.publish(key, unit, rows, demonstration, drawn)
            self._leave([] if old is None else [old])
            self._leave(units.drop(other for other in leaving if other in units))
            self._exchanged.notify_all()
        return True

    def _make_room(self, units: CachedUnits, unit: UnitRows) -> None:
        while (room := units.room(unit)) is not None:
            with self._lock:
                if not units.take_room(room):
                    return

    def _narrow(self) -> bool:
        """Stop drawing what edits took out of a unit in memory; False when there is none such."""
        for units in self._sets:
            key = units.changed()
            if key is None:
                continue
            table = units.deficits.table
            index = int(table.index(np.array([key]))[0])
            unit = UnitRows.of(table, index, self._snapshot.runs, self._horizon, self._past)
            left = units.narrow(key, unit)
            if left is not None:
                self._leave([left])
                return True
        return False

    def _drop_beyond(self) -> None:
        """Let a unit go that lies in memory that is to be given back."""
        for units in self._sets:
            key = units.beyond(self._memory.rows)
            if key is not None and len(units) > 1:
                self._leave(units.drop([key]))
                return

    def _pick(self) -> None:
        """Pick what each stratum loads next. There may be a hundred thousand to pick from: draws go on meanwhile."""
        with self._lock:
            needs = [
                (units, units.needs())
                for units in self._sets
                if not units.complete
                and (units.picked is None or units.picked[0] in self._unreadable)
            ]
            unreadable = set(self._unreadable)
        for units, need in needs:
            key = need.pick(self._rng, unreadable)
            with self._lock:
                if key is not None and need.table is units.deficits.table:
                    units.picked = key, 0

    def _choose(self) -> tuple[CachedUnits, int, UnitRows, list[int]] | None:
        """What to load next, and what leaves for it; the strata take turns."""
        self._reclaim()
        for _ in self._sets:
            self._turn = (self._turn + 1) % len(self._sets)
            units = self._sets[self._turn]
            if units.used > units.quota:  # another stratum has grown
                self._leave(units.drop(units.leaving(0, 0.0) or ()))
            key, reuse = units.changed(), 0.0
            if key is None and not units.complete:
                reuse = self._config.draws_per_load
                if units.picked is not None and units.leaving(units.picked[1], reuse) is not None:
                    key = units.picked[0]
            if key is None or key in self._unreadable:
                continue
            table = units.deficits.table
            index = int(table.index(np.array([key]))[0])
            unit = UnitRows.of(table, index, self._snapshot.runs, self._horizon, self._past)
            leaving = units.leaving(len(unit.addresses), reuse)
            if leaving is not None and len(unit.addresses) <= self._memory.free:
                units.picked = None
                return units, key, unit, [other for other in leaving if other != key]
            if units.picked is not None and key == units.picked[0]:  # there is no room for it yet
                units.picked = key, len(unit.addresses)
        return None

    def _path_of(self, segments: SegmentTable, key: int) -> Path:
        segment, _ = segments.locate(np.array([key * self._layout.block_rows()]))
        return segments.paths[int(segment[0])]

    def _is_demonstration(self, units: CachedUnits, key: int) -> bool:
        table = units.deficits.table
        run = table.run[table.first[int(table.index(np.array([key]))[0])]]
        return bool(self._snapshot.runs.source[run] == int(EpisodeSource.DEMONSTRATION))

    def _leave(self, rows: list[Array]) -> None:
        """Rows that nothing new is drawn from; gathers in flight may still read them."""
        if rows:
            self._retired.append((self.pins.stamp(), np.concatenate(rows)))

    def _reclaim(self) -> None:
        while self._retired and self.pins.passed(self._retired[0][0]):
            self._memory.give(self._retired.pop(0)[1])

    def _share_rows(self, rows: int) -> None:
        self._shared_rows = rows - max(
            2 * self._unit, rows // 32
        )  # the rest is for units on the way

    def _share_out(self) -> None:
        """Give every stratum rows in proportion to its share, but not more than it needs."""
        needs, parts = self._needs, self._shares
        shares = [share if need else 0.0 for share, need in zip(parts, needs, strict=True)]
        left = self._shared_rows
        for number in sorted(range(len(needs)), key=lambda n: needs[n] / max(shares[n], 1e-9)):
            total = sum(shares)
            part = int(left * shares[number] / total) if total else 0
            self._sets[number].quota = min(part, needs[number])
            left -= self._sets[number].quota
            shares[number] = 0.0
