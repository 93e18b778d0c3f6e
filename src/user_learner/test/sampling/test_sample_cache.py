import math
import subprocess
import sys
import threading
import time
from collections import Counter

import numpy as np
import pytest

from user_core.errors import ConfigError
from user_core.types import ActedBy, EpisodeSource
from user_learner.replay import StoreWriter
from user_learner.replay.layout import RowLayout
from user_learner.sampling import ReplaySource, Stratum, cache_units, sample_cache
from user_learner.sampling.batches import batch_nbytes
from user_learner.sampling.sample_cache import SampleCache
from user_testing.waiting import wait_until
from user_testing.worlds.replay import (
    IMAGE_SCHEMA,
    QUICK,
    SCHEMA,
    STILL,
    Actor,
    Plan,
    fill,
    pixel_of,
    reward_of,
)

SMALL_SEGMENTS = QUICK.replace(segment_bytes=1)
#: Exchanged as fast as the disk can, and drawn no faster, however busy the machine is.
FAST = STILL.replace(read_bytes_per_s=1e12, keep=1, draws_per_load=0.5, max_draws_per_load=0.7)
BATCH = 256


def budget(schema, rows, config=FAST):
    """A memory budget with room for so many rows besides the batches."""
    layout = RowLayout(schema)
    return rows * (layout.row_nbytes + 40) * 20 // 19 + (
        config.prefetch + config.keep
    ) * batch_nbytes(layout, BATCH, config)


def chi_square_ok(counts, expected):
    """Whether counts fit their expectations: within five standard deviations of the mean."""
    chi_square = ((counts - expected) ** 2 / expected).sum()
    freedom = len(counts) - 1
    return abs(chi_square - freedom) < 5 * math.sqrt(2 * freedom), chi_square / freedom


def uneven_plans(rng, steps):
    while steps > 0:
        plan = Plan(int(rng.integers(1, 300)))
        steps -= plan.steps
        yield plan


def drawn(source, draws):
    """How often each step was drawn, by (actor, episode, row)."""
    places = [source.sample(BATCH).observation["place"].copy() for _ in range(draws // BATCH)]
    coded = np.concatenate(places).astype(np.int64) @ np.array([2**40, 2**20, 1])
    codes, counts = np.unique(coded, return_counts=True)
    return Counter(
        {(c >> 40, c >> 20 & 0xFFFFF, c & 0xFFFFF): n
         for c, n in zip(codes.tolist(), counts.tolist(), strict=True)}
    )  # fmt: skip


def test_a_store_four_times_its_budget_is_drawn_uniformly(tmp_path):
    rng = np.random.default_rng(0)
    with StoreWriter(tmp_path, config=SMALL_SEGMENTS) as writer:
        for number in range(3):  # three lanes, each with a last segment that is not full
            fill(writer, Actor(number, chunk_rows=200), list(uneven_plans(rng, 7000)))
    config = FAST.replace(memory_bytes=budget(SCHEMA, 6000), n_step=3)
    with ReplaySource(tmp_path, config) as source:
        steps = len(source)
        assert steps > 20000
        counts = drawn(source, 30 * steps)
        assert source.cached
        assert len(counts) == steps
        expected = sum(counts.values()) / steps
        ok, ratio = chi_square_ok(np.array(list(counts.values())), expected)
        assert ok, ratio
        assert source.warnings == []


def test_growth_does_not_bias(tmp_path):
    rng = np.random.default_rng(1)
    actors = [Actor(number, chunk_rows=100) for number in range(2)]
    config = FAST.replace(memory_bytes=budget(SCHEMA, 5000))
    counts, expected = Counter(), Counter()
    with StoreWriter(tmp_path, config=SMALL_SEGMENTS) as writer:
        for actor in actors:
            fill(writer, actor, list(uneven_plans(rng, 5000)))
        with ReplaySource(tmp_path, config) as source:
            for _ in range(5):
                draws = 12 * len(source)
                known = Counter(drawn(source, draws))
                counts += known
                for episode in source._catalog.stores[0].reader.episodes():
                    name, number = int(episode.key.producer[5:]), episode.key.number
                    for row in range(episode.rows - 1):
                        expected[name, number, row] += (draws // BATCH) * BATCH / len(source)
                for actor in actors:
                    fill(writer, actor, list(uneven_plans(rng, 1500)))
                source.refresh()
            assert source.cached
    keys = list(expected)
    assert set(counts) <= set(keys)
    wanted = np.array([expected[key] for key in keys])
    ok, ratio = chi_square_ok(np.array([counts[key] for key in keys]), wanted)
    assert ok, ratio
    newest = wanted < 13  # also the youngest get what is theirs, no more and no less
    got = np.array([counts[key] for key in keys])
    # A unit is up to one stay in memory ahead or behind, 0.7 of its 12 draws: 1.5 % of their sum.
    assert got[newest].sum() == pytest.approx(wanted[newest].sum(), rel=0.08)


def test_what_is_drawn_from_memory_is_what_is_stored(tmp_path):
    lengths = (40, 1, 1300, 77, 1500, 2, 1900, 33, 2400)
    plans = [Plan(n, terminated=n % 2 == 0) for n in lengths]
    with StoreWriter(tmp_path, config=SMALL_SEGMENTS) as writer:
        fill(writer, Actor(1, schema=IMAGE_SCHEMA, chunk_rows=50), plans)
    config = FAST.replace(n_step=4)
    config = config.replace(memory_bytes=budget(IMAGE_SCHEMA, 2300, config))
    with ReplaySource(tmp_path, config) as source:
        seen = set()
        for _ in range(150):
            batch = source.sample(BATCH)
            place, following = batch.observation["place"], batch.next_observation["place"]
            for which in ("observation", "next_observation"):
                arrays = getattr(batch, which)
                pixels = pixel_of(*arrays["place"].T.astype(int))
                assert (arrays["image_wrist"][:, 7, 8] == pixels[:, None]).all()
                assert (arrays["image_wrist"][:, -1, -1] == pixels[:, None]).all()
            for i, (_, episode, row) in enumerate(place.tolist()):
                seen.add((episode, row))
                plan = plans[episode]
                k = min(4, plan.steps - row)
                assert following[i].tolist() == [1, episode, row + k]
                total = sum(0.99**j * reward_of(episode, row + j) for j in range(k))
                assert batch.reward[i] == pytest.approx(total, abs=1e-5)
                over = plan.terminated and row + k == plan.steps
                assert batch.discount[i] == pytest.approx(0 if over else 0.99**k)
        assert source.cached
        assert len(seen) > 0.95 * sum(plan.steps for plan in plans)


def test_strata_share_the_memory_and_small_ones_stay_whole(tmp_path):
    rng = np.random.default_rng(2)
    with StoreWriter(tmp_path, config=SMALL_SEGMENTS) as writer:
        fill(writer, Actor(1, chunk_rows=200), list(uneven_plans(rng, 30000)))
        humans = frozenset(range(10, 60))
        fill(writer, Actor(2, chunk_rows=200), [Plan(100, humans=humans)] * 8)
        fill(writer, Actor(3), [Plan(150, source=EpisodeSource.DEMONSTRATION)] * 3)
    strata = (
        Stratum(share=2.0, sources=(EpisodeSource.ONLINE,)),
        Stratum(sources=(EpisodeSource.DEMONSTRATION,)),
        Stratum(acted_by=(ActedBy.HUMAN,)),
    )
    config = FAST.replace(strata=strata)
    config = config.replace(memory_bytes=budget(SCHEMA, 10000, config))
    with ReplaySource(tmp_path, config) as source:
        counts = drawn(source, 400_000)
        assert source.cached
        online = [n for (actor, _, row), n in counts.items() if actor == 1]
        demonstrations = np.array([n for (actor, _, _), n in counts.items() if actor == 3])
        assert len(demonstrations) == 450
        ok, ratio = chi_square_ok(demonstrations, 100_000 / 450)
        assert ok, ratio
        assert len(online) > 29_900
        human = np.array([n for (a, _, r), n in counts.items() if a == 2 and 10 <= r < 60])
        others = np.array([n for (a, _, r), n in counts.items() if a == 2 and not 10 <= r < 60])
        assert human.mean() - others.mean() == pytest.approx(100_000 / 400, rel=0.02)


def test_a_store_outgrows_its_budget_while_it_is_sampled(tmp_path):
    rng = np.random.default_rng(3)
    config = FAST.replace(prefetch=2, refresh_period_s=0.005)
    config = config.replace(memory_bytes=budget(SCHEMA, 5000, config))
    with StoreWriter(tmp_path, config=SMALL_SEGMENTS) as writer:
        actor = Actor(1, chunk_rows=100)
        fill(writer, actor, list(uneven_plans(rng, 2000)))
        with ReplaySource(tmp_path, config) as source:
            source.sample(BATCH)
            assert not source.cached
            deadline = time.monotonic() + 60
            while not source.cached:
                fill(writer, actor, list(uneven_plans(rng, 500)))
                for _ in range(20):
                    batch = source.sample(BATCH)
                    place, following = batch.observation["place"], batch.next_observation["place"]
                    assert (following - place == [0, 0, 1]).all()
                assert time.monotonic() < deadline
            newest = actor.episode - 1
            while newest not in source.sample(BATCH).observation["place"][:, 1]:
                assert time.monotonic() < deadline


def test_what_units_are_owed_survives_a_restart(tmp_path):
    with StoreWriter(tmp_path, config=SMALL_SEGMENTS) as writer:
        fill(writer, Actor(1, chunk_rows=500), [Plan(500)] * 30)
    config = FAST.replace(memory_bytes=budget(SCHEMA, 5000))
    with ReplaySource(tmp_path, config) as source:
        drawn(source, 20_000)
        state = source.state()
        saved = state["pool"]["0"]["debt"]
        assert np.ptp(saved) > 0.1
    with ReplaySource(tmp_path, config) as source:
        source.load_state(state)
        source.sample(1)
        assert source.state()["pool"]["0"]["debt"] == pytest.approx(saved, abs=0.01)


def test_retention_takes_rows_out_of_memory(tmp_path):
    with StoreWriter(tmp_path, config=SMALL_SEGMENTS) as writer:
        actor = Actor(1, chunk_rows=500)
        fill(writer, actor, [Plan(511)] * 20)
        config = FAST.replace(memory_bytes=budget(SCHEMA, 4800))
        with ReplaySource(tmp_path, config) as source:
            assert {0, 1, 2, 3, 4, 5} < {episode for _, episode, _ in drawn(source, 100_000)}
            assert writer.retain(QUICK.retention.replace(max_rows=8000))
            source.refresh()
            for _ in range(50):
                assert source.sample(BATCH).observation["place"][:, 1].min() >= 6
            fill(writer, actor, [Plan(511)] * 4)
            source.refresh()
            counts = drawn(source, 50 * len(source))
            assert {episode for _, episode, _ in counts} == set(range(6, 24))


def test_a_budget_that_is_too_small_is_refused(tmp_path):
    with StoreWriter(tmp_path, config=SMALL_SEGMENTS) as writer:
        fill(writer, Actor(1, chunk_rows=500), [Plan(500)] * 12)
    with ReplaySource(tmp_path, FAST.replace(memory_bytes=1000)) as source:
        with pytest.raises(ConfigError, match="memory_bytes.*room for"):
            source.sample(BATCH)


def test_a_budget_that_the_system_does_not_give_is_refused(tmp_path):
    layout = RowLayout(SCHEMA)
    with pytest.raises(ConfigError, match=r"memory_bytes.*what this system gives"):
        SampleCache(layout, FAST, 2**49)  # more than there are addresses


def measured(path, budget, address_space=0):
    """What a process of its own took, and whether it sampled from a resident set."""
    program = [sys.executable, "-m", "user_testing.programs.replay_memory"]
    done = subprocess.run(
        [*program, path, str(budget), str(address_space)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    taken, resident = map(int, done.stdout.split())
    return taken, bool(resident)


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """A store of 120 MB."""
    path = tmp_path_factory.mktemp("large")
    with StoreWriter(path, config=QUICK) as writer:
        for number in range(12):
            fill(writer, Actor(number, schema=IMAGE_SCHEMA, chunk_rows=500), [Plan(2000)])
    return path


def test_memory_stays_within_its_budget(large):
    budget_bytes = 30_000_000
    taken, resident = measured(large, budget_bytes)
    assert resident
    assert taken <= budget_bytes
    taken, resident = measured(large, 10**9)
    assert not resident
    assert taken > 60_000_000  # the measure sees what is there


def test_little_address_space_is_enough(large):
    assert not measured(large, 10**9, address_space=2 * 2**30)[1]


def test_what_is_loaded_next_is_not_picked_at_each_draw(tmp_path, monkeypatch):
    """Of very many units a pick takes a millisecond, and nothing is loaded before something was drawn enough."""
    with StoreWriter(tmp_path, config=SMALL_SEGMENTS) as writer:
        fill(writer, Actor(0), [Plan(200)] * 100)
    picks, pick = [], cache_units.Needs.pick
    monkeypatch.setattr(
        cache_units.Needs, "pick", lambda *words: picks.append(pick(*words)) or picks[-1]
    )
    config = FAST.replace(
        memory_bytes=budget(SCHEMA, 6000), draws_per_load=1e6, max_draws_per_load=0
    )
    with ReplaySource(tmp_path, config) as source:
        source.sample(BATCH)
        source._pool._filled = True
        source._pool._exchange()
        before = len(picks)
        for _ in range(100):
            source.sample(BATCH)
            assert not source._pool._exchange()
        assert len(picks) == before


def test_the_first_batch_does_not_wait_until_memory_is_full(tmp_path, monkeypatch):
    monkeypatch.setattr(sample_cache, "_FILL_S", 0.0)
    threads, exchange = [], sample_cache.SampleCache._exchange

    def told(cache):
        threads.append(threading.current_thread())
        return exchange(cache)

    monkeypatch.setattr(sample_cache.SampleCache, "_exchange", told)
    with StoreWriter(tmp_path, config=SMALL_SEGMENTS) as writer:
        fill(writer, Actor(0), [Plan(200)] * 100)
    config = FAST.replace(
        memory_bytes=budget(SCHEMA, 6000), draws_per_load=1e6, max_draws_per_load=0
    )
    with ReplaySource(tmp_path, config) as source:
        source.sample(BATCH)
        assert threads.count(threading.current_thread()) == 1
        units = source._pool._sets[0]
        wait_until(lambda: units.used > units.quota // 2, "memory is filled")


def test_many_small_units_before_a_large_one_take_no_more_memory_than_rows():
    units = cache_units.CachedUnits(1)
    units.quota = 20_000_000
    for count in (1, 512):
        steps = np.zeros(count, np.int32)
        unit = cache_units.UnitRows(np.arange(count + 1), steps, steps, steps)
        while (room := units.room(unit)) is not None:
            assert room.array.nbytes <= 10 * units.quota
            assert units.take_room(room)


def test_without_memory_for_larger_tables_what_is_there_is_drawn(tmp_path, monkeypatch):
    caches, full, short = [], threading.Event(), threading.Event()
    exchange, grown = SampleCache._exchange, cache_units._GrowingTable.grown

    def watched(cache):
        caches.append(cache)
        if full.is_set():
            (units,) = cache._sets
            with cache._lock:  # from now on the next one needs larger tables
                full.clear()
                units._spare.clear()
                for table in (units._rows, units._address):
                    table.array = table.array[: units._lines]
        return exchange(cache)

    def without(table, *words):
        made = grown(table, *words)
        if made is not None and short.is_set() and made.dtype == np.int64:
            raise MemoryError("none is left")
        return made

    def check(batch):
        place = batch.observation["place"].astype(int)
        assert batch.reward.tolist() == [np.float32(reward_of(e, r)) for _, e, r in place]

    monkeypatch.setattr(SampleCache, "_exchange", watched)
    monkeypatch.setattr(cache_units._GrowingTable, "grown", without)
    path = tmp_path / "store"
    with StoreWriter(path, config=SMALL_SEGMENTS) as writer:
        fill(writer, Actor(1), list(uneven_plans(np.random.default_rng(3), 20_000)))
    config = FAST.replace(memory_bytes=budget(SCHEMA, 6_000), max_draws_per_load=0.0)
    with ReplaySource(path, config) as source:
        source.sample(BATCH)
        wait_until(lambda: caches[-1]._filled, "the memory to be filled")
        short.set()
        full.set()

        def is_told():
            check(source.sample(BATCH))
            return any("no memory to load" in warning for warning in source.warnings)

        wait_until(is_told, "a warning")
        short.clear()
        wait_until(lambda: not is_told(), "memory")
        for _ in range(50):
            check(source.sample(BATCH))
        with caches[-1]._lock:
            assert caches[-1]._thread.is_alive()
            (units,), memory = caches[-1]._sets, caches[-1]._memory
            waiting = sum(len(rows) for _, rows in caches[-1]._retired)
            on_the_way = memory.rows - memory.free - waiting - units.used
            assert 0 <= on_the_way <= caches[-1]._unit  # none is lost


def test_room_for_more_units_is_made_while_draws_go_on(tmp_path, monkeypatch):
    """Not with their lock: copying what is known of a thousand units takes tens of milliseconds."""
    caches, copies = [], []
    exchange, grown = SampleCache._exchange, cache_units._GrowingTable.grown

    def watched(cache):
        caches.append(cache)
        return exchange(cache)

    def noted(table, *words):
        made = grown(table, *words)
        if made is not None and made.shape[1] > 1:
            copies.append((caches[-1]._lock._is_owned(), made.shape))
        return made

    monkeypatch.setattr(SampleCache, "_exchange", watched)
    monkeypatch.setattr(cache_units._GrowingTable, "grown", noted)
    path = tmp_path / "store"
    with StoreWriter(path, config=SMALL_SEGMENTS) as writer:
        fill(writer, Actor(1), list(uneven_plans(np.random.default_rng(3), 60_000)))
    config = FAST.replace(memory_bytes=budget(SCHEMA, 20_000), max_draws_per_load=0.0)
    with ReplaySource(path, config) as source:
        source.sample(BATCH)
        wait_until(lambda: caches[-1]._filled, "the memory to be filled")
        for _ in range(100):
            source.sample(BATCH)
    assert copies and not any(held for held, _ in copies), copies
