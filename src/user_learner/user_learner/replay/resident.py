"""The resident set: sampling from stores that are larger than the memory budget.

A part of the units is in memory; steps are drawn uniformly from it. A background thread
exchanges units at a bounded rate: one that has been drawn enough leaves, and one from disk
takes its place, picked at random with a chance in proportion to what its steps are owed
(:mod:`~user_learner.replay.units`). Every stratum has its share of the memory; one that fits
into its share stays in memory whole.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from typing import Any

import numpy as np

from user_core.errors import ConfigError, StoreCorrupt
from user_core.specs import Array
from user_core.types import EpisodeSource
from user_learner.replay.catalog import Snapshot
from user_learner.replay.layout import RowLayout
from user_learner.replay.pins import Pins
from user_learner.replay.pool import CLOSE_S, Drawn
from user_learner.replay.population import Population
from user_learner.replay.residents import Residents
from user_learner.replay.sampling import SamplerConfig
from user_learner.replay.slab import Slab
from user_learner.replay.units import UnitRows, UnitTable

#: Bytes per row besides its columns: where it lies, what follows it, its address.
_OVERHEAD_BYTES = 40
#: For what does not grow with the rows: threads, tables of units, halves of large pages.
_RESERVE_BYTES = 8 * 2**20
_LOOK_PERIOD_S = 0.05
#: How long sampling waits for the disk at most, where it does.
_PATIENCE_S = 2.0
#: Reading may catch up on pauses of this length.
_BURST_S = 0.1


class ResidentPool:
    """See :class:`~user_learner.replay.pool.Pool`. All methods may be called from any thread."""

    def __init__(self, layout: RowLayout, config: SamplerConfig, budget_bytes: int) -> None:
        """Raises ConfigError when the budget cannot hold two units per stratum."""
        self.pins = Pins()
        self._layout, self._config = layout, config
        self._horizon = config.horizon
        budget_bytes -= min(_RESERVE_BYTES, budget_bytes // 20)
        rows = budget_bytes // (layout.row_nbytes + _OVERHEAD_BYTES)
        unit = layout.block_rows() + 2 * self._horizon
        if rows < unit * (2 * len(config.strata) + 2):
            raise ConfigError(
                "memory_bytes, less what batches take",
                got=budget_bytes,
                expected=f"room for {unit * (2 * len(config.strata) + 2)} rows of "
                f"{layout.row_nbytes + _OVERHEAD_BYTES} bytes",
                hint="Give more memory, smaller batches, or less prefetch",
            )
        self._slab = Slab(layout, rows)
        self._shared_rows = rows - max(2 * unit, rows // 32)  # the rest is for units on the way
        self.arrays: list[Array] = self._slab.arrays
        self._snapshot = Snapshot()
        self._sets = [Residents(self._horizon) for _ in config.strata]
        self._turn = 0
        self._limbo: list[tuple[int, Array]] = []
        self._unreadable: set[int] = set()
        #: What could not be read, for people.
        self.warnings: list[str] = []
        #: Bytes read from disk so far.
        self.bytes_read = 0
        self._rng = np.random.default_rng([config.seed, 1])
        self._lock = threading.RLock()
        self._wake = threading.Condition(self._lock)
        self._exchanged = threading.Condition(self._lock)
        self._stopping = False
        self._thread: threading.Thread | None = None

    def draw(self, stratum: int, count: int, rng: np.random.Generator) -> Drawn:
        """See :class:`Pool`."""
        with self._lock:
            drawn = self._sets[stratum].draw(count, rng)
            self._wake.notify()
            return drawn

    def wait_for_disk(self) -> None:
        """See :class:`Pool`: until rows drawn too often have been exchanged for others."""
        limit = self._config.max_draws_per_load
        if not limit:
            return
        with self._lock:
            self._exchanged.wait_for(
                lambda: not any(residents.worn(limit) for residents in self._sets), _PATIENCE_S
            )

    def renew(self, snapshot: Snapshot, populations: list[Population]) -> None:
        """See :class:`Pool`. The first time it fills the memory, as fast as the disk can."""
        block_rows = self._layout.block_rows()
        tables = [UnitTable.of(p, snapshot.runs, block_rows) for p in populations]
        with self._lock:
            self._snapshot = snapshot
            self._unreadable.clear()
            for residents, table in zip(self._sets, tables, strict=True):
                self._leave(residents.renew(table))
            self._share_out(tables)
            starting = [r for r in self._sets if len(r.debts.table) and not len(r)]
        if starting or self._thread is None:
            while self._exchange():
                pass
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="replay-resident", daemon=True)
            self._thread.start()

    def state(self) -> dict[str, Any]:
        """See :class:`Pool`: what every unit is owed."""
        state = {}
        with self._lock:
            segments, block_rows = self._snapshot.segments, self._layout.block_rows()
            for number, residents in enumerate(self._sets):
                segment, row = segments.locate(residents.debts.table.key * block_rows)
                state[str(number)] = {
                    "store": segments.store[segment],
                    "segment": segments.number[segment],
                    "row": row,
                    "debt": residents.debts.debt,
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
            for number, residents in enumerate(self._sets):
                saved, debts = state.get(str(number)), residents.debts
                if saved is None:
                    continue
                where = zip(saved["store"], saved["segment"], saved["row"], strict=True)
                keys = [place.get((int(s), int(n)), -1) + int(row) for s, n, row in where]
                index = debts.table.index(np.array(keys, np.int64) // block_rows)
                debt = debts.debt.copy()
                debt[index[index >= 0]] = np.asarray(saved["debt"])[index >= 0]
                debts.load(debt)

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
            if self._exchange():
                spent_s = (self.bytes_read - before) / self._config.read_bytes_per_s
                ready_s = max(ready_s, time.monotonic() - _BURST_S) + spent_s
            else:
                with self._lock:
                    if not self._stopping:
                        self._wake.wait(_LOOK_PERIOD_S)

    def _exchange(self) -> bool:
        """Load one unit, drop those that make room for it; False when there is none to load."""
        with self._lock:
            chosen = self._choose()
            if chosen is None:
                return False
            residents, key, unit, victims = chosen
            rows, segments = self._slab.take(len(unit.addresses)), self._snapshot.segments
            demonstration = self._is_demonstration(residents, key)
        try:
            self.bytes_read += self._slab.load(segments, unit.addresses, rows)
        except (OSError, StoreCorrupt) as error:
            with self._lock:
                self._slab.give(rows)
                self._unreadable.add(key)
                self.warnings.append(f"rows cannot be read, and are passed over: {error}")
            return True
        with self._lock:
            if residents.debts.table.index(np.array([key]))[0] < 0:  # it went meanwhile
                self._slab.give(rows)
                return True
            old = residents.publish(key, unit, rows, demonstration)
            self._leave([] if old is None else [old])
            self._leave([residents.drop(victim) for victim in victims if victim in residents])
            self._exchanged.notify_all()
        return True

    def _choose(self) -> tuple[Residents, int, UnitRows, list[int]] | None:
        """What to load next, and what leaves for it; the strata take turns."""
        self._reclaim()
        for _ in self._sets:
            self._turn = (self._turn + 1) % len(self._sets)
            residents = self._sets[self._turn]
            if residents.used > residents.quota:  # another stratum has grown
                self._leave([residents.drop(k) for k in residents.leaving(0, 0.0) or ()])
            key, reuse = residents.changed(), 0.0
            if key is None and not residents.complete:
                reuse = self._config.draws_per_load
                if residents.leaving(1, reuse) is not None:
                    key = residents.owed(self._rng, self._unreadable)
            if key is None or key in self._unreadable:
                continue
            table = residents.debts.table
            index = int(table.index(np.array([key]))[0])
            unit = UnitRows.of(table, index, self._snapshot.runs, self._horizon)
            victims = residents.leaving(len(unit.addresses), reuse)
            if victims is not None and len(unit.addresses) <= self._slab.free:
                return residents, key, unit, [victim for victim in victims if victim != key]
        return None

    def _is_demonstration(self, residents: Residents, key: int) -> bool:
        table = residents.debts.table
        run = table.run[table.first[int(table.index(np.array([key]))[0])]]
        return bool(self._snapshot.runs.source[run] == int(EpisodeSource.DEMONSTRATION))

    def _leave(self, rows: list[Array]) -> None:
        """Rows that nothing new is drawn from; gathers in flight may still read them."""
        if rows:
            self._limbo.append((self.pins.stamp(), np.concatenate(rows)))

    def _reclaim(self) -> None:
        while self._limbo and self.pins.passed(self._limbo[0][0]):
            self._slab.give(self._limbo.pop(0)[1])

    def _share_out(self, tables: list[UnitTable]) -> None:
        """Give every stratum rows in proportion to its share, but not more than it needs."""
        needs = [int(t.steps.sum()) + len(t.run) * self._horizon for t in tables]
        shares = [stratum.share if need else 0.0 for stratum, need in
                  zip(self._config.strata, needs, strict=True)]  # fmt: skip
        left = self._shared_rows
        for number in sorted(range(len(needs)), key=lambda n: needs[n] / max(shares[n], 1e-9)):
            total = sum(shares)
            part = int(left * shares[number] / total) if total else 0
            self._sets[number].quota = min(part, needs[number])
            left -= self._sets[number].quota
            shares[number] = 0.0
