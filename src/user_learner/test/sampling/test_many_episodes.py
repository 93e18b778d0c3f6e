"""Readers and samplers of stores with very many episodes, that retention changes all the time."""

import threading
import time
from contextlib import closing

import numpy as np
import pytest

from user_learner.replay import RetentionConfig, StoreReader, StoreWriter
from user_learner.replay.index import connect, transaction
from user_learner.replay.layout import RowLayout
from user_learner.replay.segments import segment_directory
from user_learner.sampling import ReplaySource, catalog
from user_learner.sampling.cache_units import UnitTable
from user_learner.sampling.pool import MappedPool, Region
from user_learner.sampling.sample_cache import SampleCache
from user_learner.upkeep.retention import retain
from user_testing.waiting import wait_until
from user_testing.worlds.replay import QUICK, SCHEMA, STILL, Actor, Plan, fill

SMALL = QUICK.replace(segment_bytes=1)  # 1024 rows
BY_RULE = RetentionConfig(max_rows=6000, keep=("successes",))
BATCH = 64


@pytest.fixture
def writer(tmp_path):
    with StoreWriter(tmp_path, config=SMALL) as writer:
        fill(
            writer,
            Actor(1, chunk_rows=101),
            [Plan(100, terminated=k % 4 == 0, humans={3}) for k in range(120)],
        )
        yield writer


def small_cache(rows):
    """A configuration whose cache holds about so many rows."""
    row_nbytes = RowLayout(SCHEMA).row_nbytes + 40
    return STILL.replace(memory_bytes=rows * row_nbytes * 20 // 19, keep=1, read_bytes_per_s=1e12)


# Readers


def assert_as_new(reader):
    with closing(StoreReader(reader.path, with_actors=True, with_robots=True)) as new:
        for name in ("segments", "extents", "actors", "robots"):
            found, wanted = getattr(reader.tables, name), getattr(new.tables, name)
            key = np.lexsort(wanted.T[::-1]), np.lexsort(found.T[::-1])
            assert np.array_equal(found[key[1]], wanted[key[0]]), name


def test_a_reader_follows_retention_without_reading_everything_again(writer, monkeypatch):
    with closing(StoreReader(writer.path, with_actors=True, with_robots=True)) as reader:
        read, load = [], reader._load
        monkeypatch.setattr(reader, "_load", lambda since: read.append(since) or load(since))
        assert retain(writer, BY_RULE)
        fill(writer, Actor(2), [Plan(100)] * 10)
        assert reader.refresh()
        assert_as_new(reader)
        assert writer.retain(RetentionConfig(max_rows=2000))
        assert reader.refresh()
        assert_as_new(reader)
        assert len(read) == 2 and min(read) > 0


def test_a_reader_sees_when_somebody_else_took_rows_away(writer):
    with closing(StoreReader(writer.path, with_actors=True, with_robots=True)) as reader:
        with closing(connect(writer.path, writable=True)) as index, transaction(index):
            index.execute("DELETE FROM extents WHERE episode = 7")
            index.execute(
                "UPDATE meta SET value = value + 1 WHERE key IN ('removals', 'commit_id')"
            )
        assert reader.refresh()
        assert_as_new(reader)


def test_a_reader_that_only_counts_holds_nothing_of_episodes(writer):
    with closing(StoreReader(writer.path, with_extents=False)) as reader:
        assert reader.count_episodes() == 120 and not len(reader.tables.extents)
        assert retain(writer, BY_RULE)
        assert reader.refresh() and not len(reader.tables.extents)
        with closing(StoreReader(writer.path)) as whole:
            assert reader.count_episodes() == len(np.unique(whole.tables.extents[:, 1])) < 120
            assert np.array_equal(reader.tables.segments, whole.tables.segments)


def test_episodes_are_counted_as_they_come_go_and_come_back(tmp_path):
    with StoreWriter(tmp_path, config=SMALL) as writer:
        with closing(StoreReader(tmp_path, with_extents=False)) as reader:

            def counted(episodes):
                with closing(StoreReader(tmp_path, with_extents=False)) as new:
                    assert reader.count_episodes() == new.count_episodes() == episodes

            counted(0)
            actor = Actor(1, chunk_rows=7)
            fill(writer, actor, [Plan(20)] * 3)
            counted(3)
            queries = []
            reader.connection.set_trace_callback(queries.append)
            fill(writer, Actor(2, chunk_rows=50), [Plan(700)] * 2)  # each over two segments
            counted(5)
            counted(5)
            reader.connection.set_trace_callback(None)
            assert not any("GROUP BY" in query for query in queries), "all are not counted again"
            assert writer.retain(RetentionConfig(max_rows=700))
            assert reader.count_episodes() < 5
            fill(writer, actor, [Plan(20)])
            with closing(StoreReader(tmp_path)) as whole:
                counted(len(np.unique(whole.tables.extents[:, 1])))


# Samplers


def held_up(monkeypatch, owner, name):
    """Let a step of the way to the next state of a store wait until it is told to go on."""
    begun, go_on, step = threading.Event(), threading.Event(), getattr(owner, name)

    def slow(*words, **how):
        begun.set()
        assert go_on.wait(60)
        return step(*words, **how)

    monkeypatch.setattr(owner, name, staticmethod(slow) if owner is UnitTable else slow)
    return begun, go_on


@pytest.mark.parametrize("cached", [False, True])
def test_draws_go_on_while_the_next_state_of_a_store_is_made(writer, monkeypatch, cached):
    config = small_cache(6000) if cached else STILL
    with ReplaySource(writer.path, config) as source:
        source.sample(BATCH)
        assert source.cached is cached
        before = len(source)
        retain(writer, BY_RULE)
        step = (UnitTable, "of") if cached else (Region, "map")
        begun, go_on = held_up(monkeypatch, *step)
        refreshing = threading.Thread(target=source.refresh)
        refreshing.start()
        try:
            assert begun.wait(30)
            for _ in range(20):
                assert len(source.sample(BATCH).reward) == BATCH
            assert len(source) == before
        finally:
            go_on.set()
            refreshing.join()
        assert len(source) < before
        there = episodes_of(writer.path)
        for _ in range(20):
            assert set(source.sample(BATCH).observation["place"][:, 1].tolist()) <= there


def episodes_of(path):
    with closing(StoreReader(path)) as reader:
        return {one.key.number for one in reader.episodes() if one.extents}


def test_a_segment_that_takes_the_addresses_of_another_is_mapped_when_that_has_left(tmp_path):
    """A sampler that missed a state of the store, as images of one could not be made ready."""
    with StoreWriter(tmp_path, config=SMALL) as writer, ReplaySource(tmp_path, STILL) as source:
        actor = Actor(1, chunk_rows=512)
        fill(writer, actor, [Plan(511)] * 8)
        source.refresh()
        source.sample(BATCH)
        writer.retain(RetentionConfig(max_rows=2048))
        source._catalog.refresh()  # not seen by the pool
        fill(writer, actor, [Plan(511)] * 4)
        ready, late = MappedPool.ready, []

        def spied(pool, *words):
            late.append(len(ready(pool, *words).late))
            return ready(pool, *words)

        MappedPool.ready = spied
        try:
            source.refresh()
        finally:
            MappedPool.ready = ready
        assert late == [2]
        there, seen = episodes_of(tmp_path), set()
        for _ in range(40):
            batch = source.sample(BATCH)
            seen |= set(batch.observation["place"][:, 1].tolist())
            assert (batch.action[:, 0] == batch.observation["place"][:, 1]).all()
        assert seen == there


def placed(table):
    """Base address by path, where all lie apart."""
    assert (np.diff(table.base) >= table.capacity[:-1]).all()
    assert len(table.paths) == len(table.base) == len(table.number) == len(table.store)
    assert all(p.name == f"{n:08d}" for p, n in zip(table.paths, table.number, strict=True))
    return dict(zip(table.paths, table.base.tolist(), strict=True))


def test_of_a_changed_store_only_segments_that_came_or_went_are_placed_again(writer, monkeypatch):
    """Draws wait while a thread goes through hundreds of segments."""
    asked, directory = [], catalog.segment_directory
    monkeypatch.setattr(
        catalog, "segment_directory", lambda *which: asked.append(which) or directory(*which)
    )
    with closing(catalog.open_catalog(writer.path)) as stores:
        states = [placed(stores.snapshot.segments)]
        assert len(asked) == len(states[0]) > 8
        for change in (
            lambda: retain(writer, BY_RULE),
            lambda: fill(writer, Actor(2), [Plan(500)] * 8),
        ):
            change()
            asked.clear()
            assert stores.refresh()
            states.append(placed(stores.snapshot.segments))
            assert 0 < len(asked) == len(states[-1].keys() - states[-2].keys())
        first, second, third = states
        assert first.keys() - second.keys() and first.keys() & second.keys()
        for before, after in ((first, second), (second, third)):
            assert all(after[path] == before[path] for path in before.keys() & after.keys())
        came = {second[path] for path in second.keys() - first.keys()}
        went = {first[path] for path in first.keys() - second.keys()}
        assert not came & went, "gathers in flight still read what was there"
        assert {third[path] for path in third.keys() - second.keys()} & went, "used again"


def test_a_store_that_lies_where_another_one_lay_has_addresses_of_its_own(tmp_path):
    for name, episodes in (("live", 8), ("other", 12)):
        with StoreWriter(tmp_path / name, config=SMALL) as writer:
            fill(writer, Actor(1), [Plan(500)] * episodes)
    with closing(catalog.open_catalog(tmp_path / "live")) as stores:
        before = placed(stores.snapshot.segments)
        (tmp_path / "live").rename(tmp_path / "gone")
        (tmp_path / "other").rename(tmp_path / "live")
        assert stores.refresh()
        after = placed(stores.snapshot.segments)
        assert len(after) > len(before)
        assert not set(before.values()) & set(after.values())


def test_a_cache_that_must_become_smaller_does_while_it_is_drawn_from(tmp_path):
    with StoreWriter(tmp_path, config=SMALL) as writer:
        fill(writer, Actor(1, chunk_rows=500), [Plan(511)] * 40)
    with ReplaySource(tmp_path, small_cache(12_000)) as source:
        source.sample(BATCH)
        pool = source._pool
        assert isinstance(pool, SampleCache)
        memory, before = pool._memory, pool._memory.rows
        pool.fit(source._budget_bytes * 2 // 3)
        assert memory.rows < 0.7 * before and memory.over > 0

        def shrunk():
            source.sample(BATCH)
            return not memory.over

        wait_until(shrunk, period_s=0.0)
        for array in memory.arrays:  # given back, but for the rest of a page
            assert not array[memory.rows + 4096 // array.shape[1] + 1 :].any()
        seen, deadline_s = set(), time.monotonic() + 60
        while len(seen) < 0.95 * len(source) and time.monotonic() < deadline_s:
            batch = source.sample(256)
            place = batch.observation["place"]
            assert (batch.action[:, 0] == place[:, 1]).all()
            seen |= {tuple(one) for one in place.tolist()}
        assert len(seen) >= 0.95 * len(source)
        assert memory.rows < 0.7 * before


def test_tables_of_a_sampler_are_part_of_its_memory(writer, monkeypatch):
    monkeypatch.setattr("user_learner.sampling.source._FEW_BYTES", 0)
    with ReplaySource(writer.path, small_cache(6000)) as source:
        source.sample(BATCH)
        before, rows = source._cache_bytes(BATCH), source._pool._memory.rows
        assert source.cached
        fill(writer, Actor(2), [Plan(2)] * 200)
        source.refresh()
        assert before - source._cache_bytes(BATCH) > 200 * 200
        assert source._pool._memory.rows < rows


def test_what_cannot_be_read_is_told_once_and_no_longer_than_it_is_there(writer):
    """A sampler tries again after each change of its store, for weeks."""
    with ReplaySource(writer.path, small_cache(6000)) as source:
        source.sample(BATCH)
        away = segment_directory(writer.path, 1)
        away.rename(writer.path / "away")

        def told():
            source.sample(256)
            return any(str(away) in text for text in source.warnings)

        for robot in (2, 3, 4):
            fill(writer, Actor(robot), [Plan(20)])
            source.refresh()
            wait_until(told, period_s=0.0)
        assert len(source.warnings) == 1
        (writer.path / "away").rename(away)
        fill(writer, Actor(5), [Plan(20)])
        source.refresh()
        wait_until(lambda: not told(), period_s=0.0)
        away.rename(writer.path / "away")
        fill(writer, Actor(6), [Plan(20)])
        source.refresh()
        wait_until(told, period_s=0.0)
        writer.retain(RetentionConfig(max_rows=11_000))
        source.refresh()
        assert not told()
