"""The replay source: batches for an algorithm, from a store on disk that grows meanwhile."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from user_core.errors import StoreError
from user_core.reasons import BUCKET_AWAY, ROWS_SET_ASIDE, TASKS_UNTOLD, Reason
from user_core.runtime.closing import Closing
from user_core.specs import Array
from user_core.types import OBSERVATION, ActedBy, Batch, EpisodeSource, TrajectorySchema
from user_learner.replay.layout import RECORDS, RowLayout
from user_learner.replay.reader import IN_BUCKET
from user_learner.sampling.batches import BatchBuffers, BatchGatherer, batch_nbytes
from user_learner.sampling.catalog import History, Snapshot, open_catalog
from user_learner.sampling.config import SamplerConfig, Stratum
from user_learner.sampling.draws import Population, Populations, population, split_batch
from user_learner.sampling.features import KeptFeatures
from user_learner.sampling.fetching import Fetcher
from user_learner.sampling.hindsight import Hindsight, Relabelled
from user_learner.sampling.pool import Drawn, MappedPool, Pool, give_back_free_memory
from user_learner.sampling.sample_cache import SampleCache
from user_learner.sampling.share import Share
from user_learner.sampling.takeovers import acted_by, bad_steps, before_takeovers

#: Place of the store in ``extras["row"]``; below it, segment times rows of a segment plus row.
STORE_SHIFT = 48
_LOOK_PERIOD_S = 0.02
#: Who shows how it is done, wherever he does it.
_PEOPLE = frozenset((ActedBy.HUMAN, ActedBy.SCRIPT))
#: Memory of a sampler's tables by run, by block and by range of judged steps, also while the next ones are made
#: (docs/measurements/data.md), and how much of it counts as what a cache reserves anyhow.
_RUN_BYTES, _BLOCK_BYTES, _LABEL_BYTES, _FEW_BYTES = 390, 130, 290, 2 * 2**20


@dataclass(frozen=True)
class _Plan:
    """Which rows a batch will have, which of them get another goal, and the random state before
    they were drawn. ``pins`` are to be let go when they are gathered. ``labels``: which of the drawn
    steps and those after them have another reward than the recorded one, (B, H) bool, it, and
    whether the task ended there."""

    drawn: Drawn
    row_id: Array
    pool: Pool
    pins: tuple[tuple[Pool, int], ...]
    random: Mapping[str, Any]
    relabelled: Relabelled | None = None
    labels: tuple[Array, Array, Array] | None = None
    task: Array | None = None

    def unpin(self) -> None:
        for pool, ticket in self.pins:
            pool.pins.unpin(ticket)


class ReplaySource(Closing):
    """A :class:`~user_core.interfaces.TransitionSource` over a replay store and its history.

    Draws are uniform with replacement within each stratum of the configuration, or within the part of
    each robot in it, where robots are balanced. While
    everything fits into the memory budget rows are gathered from the mapped files; a larger
    store is sampled from a cache that is renewed in the background, so that over time
    every step is still drawn equally often. New rows come into play within
    ``refresh_period_s``.

    ``extras`` of a batch: ``demonstration`` (B,) bool; ``row`` (B,) int64, the place of the
    step: store (0 is the live one) << 48, plus segment times rows of a segment plus row;
    ``policy_version`` (B,) int64; for padded windows ``mask`` (B, T) bool; with hindsight
    ``relabelled`` (B,) bool, which steps have another goal than they had
    (:mod:`user_learner.sampling.hindsight`). The strata lie one behind the other in the order of
    the configuration.

    The memory of a batch is used again after ``keep`` more have been drawn.

    Args:
        store: Directory of the live store.
        config: What to draw.
        history: Older stores to draw from as well.
        share: Which part of each batch is wanted, of several processes that train together:
            :meth:`sample` then gives that part of a batch of the size that it is asked for.
        features: Of images, which batches then hold in their place.
        tasks: Names of tasks that the policy tells apart: observations of batches then have ``@task`` (B,) int64, the
            number of the step's task among these; as many as there are for any other task.

    Raises:
        StoreError: A store is not there, or of another format.
        SchemaMismatch: The stores do not have the same schema.
    """

    def __init__(
        self,
        store: str | Path,
        config: SamplerConfig | None = None,
        history: Sequence[History] = (),
        share: Share | None = None,
        features: KeptFeatures | None = None,
        tasks: Sequence[str] = (),
    ) -> None:
        self.config = config = config or SamplerConfig()
        self._features, self._tasks = features, tuple(tasks)
        self._untaken = False
        self._share = share = share or Share()
        free = psutil.virtual_memory().available // 2 // share.of
        self._budget_bytes = config.memory_bytes or free
        with_actors = bool(config.takeovers.before_steps) or any(
            stratum.acted_by for stratum in config.strata
        )
        with_robots = config.balance.by == "robots" or bool(tasks)
        self._catalog = open_catalog(store, history, with_actors, with_robots)
        self._divide = Populations(config)
        self._random = np.random.default_rng([config.seed, 0, 0])
        self._pool: Pool | None = None
        self._hindsight: Hindsight | None = None
        self._goal_pool: MappedPool | None = None
        self._pool_state: Mapping[str, Any] = {}
        self._snapshot, self._all_steps = self._catalog.snapshot, 0
        self._populations: list[Population] = []
        #: By a task's number in the snapshot: its number for the policy. The last is that of unknown tasks.
        self._task_numbers: Array = np.zeros(1, np.int64)
        self._warnings: dict[str, None] = {}
        self._lock, self._refreshing = threading.RLock(), threading.Lock()
        self._gatherer: BatchGatherer[_Plan, BatchBuffers] = BatchGatherer(
            self._plan,
            self._gather,
            self._make_buffers,
            config.prefetch,
            config.keep,
            config.workers,
            self._worth_a_thread,
        )
        self._batch_size = 0
        self._take_newest()
        self._stopping = threading.Event()
        self._refresher = threading.Thread(
            target=self._keep_fresh, name="replay-refresh", daemon=True
        )
        self._fetcher = Fetcher([store.reader.path for store in self._catalog.stores], config.seed)
        if config.refresh_period_s:
            self._refresher.start()

    def __len__(self) -> int:
        """Number of steps that can be drawn."""
        with self._lock:
            return min(sum(len(p) for p in self._populations), self._all_steps)

    @property
    def schema(self) -> TrajectorySchema | None:
        """Schema of the rows; None until the first chunk came."""
        return self._catalog.schema

    @property
    def cached(self) -> bool:
        """Whether the store is larger than the memory budget."""
        return isinstance(self._pool, SampleCache)

    @property
    def warnings(self) -> list[str]:
        """What a person should look at: rows that were set aside, reads that failed, rewards of
        hindsight that are not those of the store."""
        return [reason.text for reason in self.reasons()]

    def reasons(self) -> list[Reason]:
        """The same with codes."""
        with self._lock:
            damages = [
                f"{store.reader.path}: segment {d.segment}"
                + (f", block {d.block}" if d.block >= 0 else "")
                + f" is passed over: {d.reason}"
                for store in self._catalog.stores
                for d in store.reader.tables.damages
                if d.reason != IN_BUCKET
            ]
            pool = self._pool
            reads = pool.warnings if isinstance(pool, SampleCache) else []
            aside = [Reason(ROWS_SET_ASIDE, text) for text in [*damages, *reads, *self._warnings]]
            aside += [Reason(BUCKET_AWAY, text) for text in self._fetcher.troubles()]
            hindsight = self._hindsight.warnings() if self._hindsight is not None else []
            return [*aside, *self._catalog.edits_warnings(), *hindsight, *self._untold()]

    def _untold(self) -> list[Reason]:
        """A name of a task that is written otherwise than in the data would teach its words nothing."""
        stored = self._snapshot.tasks
        lacking = [name for name in self._tasks if name not in stored]
        others = [repr(name) if name else "none" for name in stored if name not in self._tasks]
        if not lacking or not others:
            return []
        text = (
            f"tasks that the policy is told: {', '.join(map(repr, lacking))} "
            f"{'has' if len(lacking) == 1 else 'have'} no episode, and episodes of task {', '.join(others)} "
            "are learned from without an instruction: are they the same by another name? "
            "`user episodes ls` shows the names"
        )
        return [Reason(TASKS_UNTOLD, text)]

    def collected(self, *sources: EpisodeSource) -> int:
        """Steps of these sources (all by default) that ever came to the live store, also those
        that retention dropped since: what an update-to-data ratio counts."""
        steps = self._catalog.stores[0].reader.meta.steps
        return sum(steps.get(int(source), 0) for source in sources or EpisodeSource)

    def sample(self, batch_size: int) -> Batch:
        """Draw a batch; its memory is used again after ``keep`` more calls.

        Raises:
            StoreError: There is nothing to draw yet.
            ConfigError: The memory budget is too small for the sample cache, or for the
                batches.
        """
        if not len(self):
            raise StoreError(
                f"nothing to draw from {self._catalog.stores[0].reader.path}",
                got="no step that fits the strata and has a next observation",
                expected="at least one",
                hint=self._what_to_wait_for(),
            )
        return self._gatherer.next(batch_size)

    def _what_to_wait_for(self) -> str:
        wanted = {source for stratum in self.config.strata for source in stratum.sources}
        if wanted == {EpisodeSource.DEMONSTRATION}:  # no robot brings them by itself
            return "Give demonstrations (demonstrations:=FOLDER; user demos record makes some), or let a person show it"
        return "Wait until robots have collected something"

    def refresh(self) -> bool:
        """Look for new rows now; return whether there were any. The background does so too."""
        with self._refreshing:
            if not self._catalog.refresh() and not self._untaken:
                return False
            self._take_newest()
            return True

    def wait(self, steps: int, timeout_s: float | None = None) -> bool:
        """Wait until this many steps can be drawn; return whether they can."""
        deadline_s = None if timeout_s is None else time.monotonic() + timeout_s
        while len(self) < steps:
            if deadline_s is not None and time.monotonic() >= deadline_s:
                return False
            self.refresh()
            time.sleep(_LOOK_PERIOD_S)
        return True

    def state(self) -> dict[str, Any]:
        """What a checkpoint must hold to go on drawing as if never stopped.

        On stores that did not change and fit into memory the same draws follow. A sample
        cache is filled anew: what follows is drawn from others, but every step still gets its
        due.
        """
        with self._lock:
            first = self._gatherer.first_plan()
            random = first.random if first is not None else _random_state(self._random)
            pool = self._pool.state() if self._pool is not None else dict(self._pool_state)
            return {"random": dict(random), "pool": pool}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Take over what :meth:`state` gave."""
        self._gatherer.discard()
        with self._lock:
            _set_random_state(self._random, state["random"])
            self._pool_state = dict(state["pool"])
            if self._pool is not None:
                self._pool.load_state(self._pool_state)

    def close(self) -> None:
        """Stop the threads and let go of the memory. Idempotent."""
        self._stopping.set()
        if self._refresher.is_alive():
            self._refresher.join()
        self._fetcher.stop()
        self._gatherer.close()
        with self._lock:
            if self._pool is not None:
                self._pool.close()
                self._pool = None
            if self._goal_pool is not None:
                self._goal_pool.close()
                self._goal_pool = None
        self._catalog.close()

    def _plan(self, batch_size: int) -> _Plan:
        if self._pool is None or batch_size > self._batch_size:
            with self._refreshing, self._lock:  # no pool goes while a later state is made for it
                self._pool_for(batch_size)
        with self._lock:
            pool = self._pool
            assert pool is not None  # noqa: S101 - made above
            available = [len(p) * pool.has(n) for n, p in enumerate(self._populations)]
            pool.wait_for_disk()
            pools = [pool] if self._goal_pool is None else [pool, self._goal_pool]
            random = _random_state(self._random)
            pins = tuple((each, each.pins.pin()) for each in pools)
            try:
                parts = self._populations
                shares = [part.share for part in parts]
                counts = split_batch(batch_size, shares, available, self._random)
                by_stratum = sorted(range(len(parts)), key=lambda n: parts[n].stratum)
                drawn = Drawn.join(
                    [
                        self._cut(parts[number], pool.draw(number, counts[number], self._random))
                        for number in by_stratum
                        if counts[number]
                    ]
                )
                relabelled = None
                if self._hindsight is not None:
                    runs = self._snapshot.runs
                    relabelled = self._hindsight.plan(drawn.address, runs, self._random)
                if self._share.of > 1:
                    own = self._share.rows(batch_size)
                    drawn = drawn.part(own)
                    relabelled = relabelled and relabelled.part(own)
                row_id, labels = self._row_id(drawn.address), self._labels(drawn.address)
                task = self._task_of(drawn.address)
                return _Plan(drawn, row_id, pool, pins, random, relabelled, labels, task)
            except BaseException:
                for each, ticket in pins:
                    each.pins.unpin(ticket)
                raise

    def _cut(self, part: Population, drawn: Drawn) -> Drawn:
        """Let padded windows of a stratum end where somebody decided whom it does not name: what the
        policy did after a correction must not be cloned with it. What people alone decided is shown, too. What others
        decided before, where windows begin with that, does not count."""
        stratum = self.config.strata[part.stratum]
        actors = stratum.acted_by
        if actors and _PEOPLE.issuperset(actors):
            drawn = replace(drawn, demonstration=np.ones_like(drawn.demonstration))
        if not actors or not self.config.pad_windows or self.config.window < 2:
            return drawn
        runs = self._snapshot.runs
        run, offset = runs.locate(drawn.address)
        addresses, _ = runs.follow(run, offset, self.config.horizon)
        who = acted_by(self._snapshot.actors, addresses[:, :-1])
        other = ~np.isin(who, [int(actor) for actor in actors])
        # Where an edit took the step away meanwhile nobody can tell: it counts as theirs, or nothing does.
        other[run < 0] = stratum.before_steps > 0
        if stratum.before_steps:
            idle = np.where(other.all(1), other.shape[1], (~other).argmax(1))
            drawn = replace(drawn, idle=idle)
            other &= np.arange(other.shape[1]) >= idle[:, None]
        first = np.where(other.any(1), np.maximum(other.argmax(1), 1), other.shape[1])
        return replace(drawn, after=np.minimum(drawn.after, first))

    def _gather(self, plan: _Plan, buffers: BatchBuffers) -> Batch:
        try:
            goals = None
            if plan.relabelled is not None and self._hindsight is not None:
                rows = self._goal_records(plan.relabelled.address)
                goals = plan.relabelled.which, self._hindsight.goals(rows)
            return buffers.gather(
                plan.pool.arrays, plan.drawn, plan.row_id, goals, plan.labels, plan.task
            )
        finally:
            plan.unpin()

    def _goal_records(self, address: Array) -> Array:
        """Records at these addresses, (M,), from the mapped files: rows that a goal is taken from
        need not be in the sample cache."""
        assert self._goal_pool is not None  # noqa: S101 - made with the hindsight
        raw = self._goal_pool.arrays[0].take(address, axis=0, mode="clip")
        file = next(file for file in self._layout.files if file.name == RECORDS)
        records: Array = raw.view(file.dtype).reshape(-1)
        return records

    def _make_buffers(self, batch_size: int) -> BatchBuffers:
        own = len(self._share.rows(batch_size))
        return BatchBuffers(self._layout, own, self.config, self._hindsight, bool(self._tasks))

    def _worth_a_thread(self, batch_size: int) -> bool:
        own = batch_size // self._share.of
        nbytes = batch_nbytes(self._layout, own, self.config)
        return nbytes >= self.config.prefetch_above_bytes

    def _labels(self, address: Array) -> tuple[Array, Array, Array] | None:
        """Rewards of these steps and those after them, where edits say that they are others."""
        labels, runs = self._snapshot.labels, self._snapshot.runs
        if not labels:
            return None
        run, offset = runs.locate(address)
        addresses = runs.follow(run, offset, self.config.horizon)[0][:, :-1]
        addresses[run < 0] = -1  # an edit took it away meanwhile
        return labels.of(addresses)

    def _task_of(self, address: Array) -> Array | None:
        """Number of the task of each step, among those that are told apart."""
        if not self._tasks:
            return None
        runs = self._snapshot.runs
        run, _ = runs.locate(address)
        found: Array = self._task_numbers[np.where(run < 0, -1, runs.task[run])]
        return found

    def _row_id(self, address: Array) -> Array:
        table = self._snapshot.segments
        segment, row = table.locate(address)
        within = table.number[segment] * table.capacity[segment] + row
        row_id: Array = table.store[segment] << STORE_SHIFT | within
        return row_id

    @property
    def _layout(self) -> RowLayout:
        """Where columns lie that batches are gathered from."""
        layout = self._catalog.layout
        return layout if self._features is None else self._features.layout(layout)

    def _take_newest(self) -> None:
        """Go over to what the stores hold now, once all that batches need of it is there."""
        snapshot, self._untaken = self._catalog.snapshot, True
        if self._features is not None and self._catalog.schema is not None:
            self._features.complete(self._catalog.layout, snapshot)
        self._take(snapshot)
        self._untaken = False

    def _take(self, snapshot: Snapshot) -> None:
        """Go over to a later state of the stores. All that takes long is prepared first: draws wait for
        the exchange alone."""
        config, pool = self.config, self._pool
        snapshot = self._with_takeovers(snapshot)
        populations = self._divide.of(snapshot)
        every = tuple({source for s in config.strata for source in s.sources})
        all_steps = len(population(snapshot, Stratum(sources=every), config.required))
        told, others = self._tasks, len(self._tasks)
        numbers = [told.index(n) if n in told else others for n in snapshot.tasks]
        cuts = config.pad_windows and any(stratum.acted_by for stratum in config.strata)
        if snapshot.labels or told or cuts or config.hindsight.enabled:
            snapshot.runs.prepare()
        for part in populations:
            len(part)  # counted here, not in the first draw
        goals = self._goals(snapshot)
        ready = None if pool is None else pool.ready(snapshot, populations)
        before = self._snapshot, self._populations
        with self._lock:
            self._snapshot, self._populations = snapshot, populations
            self._task_numbers = np.array([*numbers, others], np.int64)
            self._all_steps = all_steps
            if self._goal_pool is not None:
                self._goal_pool.renew(goals)
            if pool is not None and self._pool_for(self._batch_size) is pool:
                pool.renew(ready)
        del before, ready  # only here: to free large tables takes long, and draws would wait for it
        for each in (self._goal_pool, self._pool):
            if each is not None:
                each.settle()
        if isinstance(self._pool, SampleCache):
            self._pool.fit(self._cache_bytes(self._batch_size))
            if _RUN_BYTES * len(snapshot.runs.rows) > _FEW_BYTES:
                give_back_free_memory()  # of the tables before, and of making these

    def _with_takeovers(self, snapshot: Snapshot) -> Snapshot:
        """A snapshot with the steps that led to takeovers, and their labels, where these count."""
        takeovers = self.config.takeovers
        if not takeovers.before_steps:
            return snapshot
        ranges = before_takeovers(snapshot.runs, snapshot.actors, takeovers.before_steps)
        labels = snapshot.labels
        if takeovers.reward is not None:
            bad = bad_steps(ranges, takeovers.reward, takeovers.before_steps)
            labels = replace(labels, takeovers=bad)
        return replace(snapshot, before_takeovers=ranges, labels=labels)

    def _goals(self, snapshot: Snapshot) -> Any:
        """What hindsight needs: the records of all rows, mapped."""
        if not self.config.hindsight.enabled or self._catalog.schema is None:
            return None
        layout = self._layout
        if self._goal_pool is None:
            observation = {
                name[len(OBSERVATION) :]: spec
                for name, spec in layout.schema.columns.items()
                if name.startswith(OBSERVATION)
            }
            self._hindsight = Hindsight(self.config.hindsight, observation)
            records = [file for file in layout.files if file.name == RECORDS]
            self._goal_pool = MappedPool(layout, 0, records)
        return self._goal_pool.ready(snapshot, [])

    def _pool_for(self, batch_size: int) -> Pool:
        """The pool that suits the size of the stores and of the batches."""
        layout = self._layout
        batches = self._batches_nbytes(batch_size)
        stored = int(self._snapshot.runs.rows.sum()) * layout.row_nbytes
        fits = stored + batches <= self._budget_bytes
        grown = batch_size > self._batch_size
        self._batch_size = max(batch_size, self._batch_size)
        if self._pool is None or (not fits and (grown or not self.cached)):
            if self._pool is not None:
                self._pool_state = self._pool.state() or self._pool_state
                self._pool.close()  # before the next is made: both would not fit
                self._pool = None
            pool: Pool
            if fits:
                pool = MappedPool(layout, self.config.horizon, past=self.config.past)
            else:
                pool = SampleCache(layout, self.config, self._cache_bytes(batch_size))
            self._bring_up(pool)
            pool.load_state(self._pool_state)
            self._pool = pool
        return self._pool

    def _bring_up(self, pool: Pool) -> None:
        pool.renew(pool.ready(self._snapshot, self._populations))
        pool.settle()
        give_back_free_memory()

    def _batches_nbytes(self, batch_size: int) -> int:
        batches = self.config.prefetch + self.config.keep
        return batches * batch_nbytes(self._layout, batch_size, self.config)

    def _cache_bytes(self, batch_size: int) -> int:
        """Memory of a sample cache: what batches and tables leave, so that a process takes the same however many
        episodes there are."""
        runs, labels = self._snapshot.runs, self._snapshot.labels
        blocks = int(runs.rows.sum()) // self._layout.block_rows()
        judged = len(labels.columns) + len(labels.people) + len(labels.takeovers)
        tables = _RUN_BYTES * len(runs.rows) + _BLOCK_BYTES * blocks + _LABEL_BYTES * judged
        return self._budget_bytes - self._batches_nbytes(batch_size) - max(0, tables - _FEW_BYTES)

    def _keep_fresh(self) -> None:
        gone = ""
        while not self._stopping.wait(self.config.refresh_period_s):
            try:
                self._fetcher.start()
                self.refresh()
                gone = ""
            except FileNotFoundError as error:
                # a segment that went between two looks, for instance to its bucket, is not missed by the next
                if str(error) == gone:
                    self._warnings.setdefault(gone)
                gone = str(error)
            except Exception as error:  # for instance an index that is being rebuilt
                self._warnings.setdefault(str(error) or type(error).__name__)


def _random_state(random: np.random.Generator) -> dict[str, Any]:
    """State of a PCG64; its 128-bit numbers as text, which any format can hold."""
    state: Any = random.bit_generator.state
    return {
        "state": str(state["state"]["state"]),
        "inc": str(state["state"]["inc"]),
        "has_uint32": int(state["has_uint32"]),
        "uinteger": int(state["uinteger"]),
    }


def _set_random_state(random: np.random.Generator, state: Mapping[str, Any]) -> None:
    random.bit_generator.state = {
        "bit_generator": "PCG64",
        "state": {"state": int(state["state"]), "inc": int(state["inc"])},
        "has_uint32": int(state["has_uint32"]),
        "uinteger": int(state["uinteger"]),
    }
