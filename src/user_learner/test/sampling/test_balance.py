"""Batches in which each robot has its share, however fast it collects."""

from __future__ import annotations

from collections import Counter
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from user_core.types import EpisodeSource
from user_learner.replay import StoreWriter
from user_learner.replay.reader import StoreReader
from user_learner.sampling import BalanceConfig, History, ReplaySource, Stratum
from user_learner.sampling.draws import robot_shares
from user_testing.worlds.replay import IMAGE_SCHEMA, QUICK, STILL, Actor, Plan, fill

BY_ROBOT = BalanceConfig(by="robots")
DEMONSTRATION = EpisodeSource.DEMONSTRATION


def robots_of(batch) -> Counter[int]:
    """How many steps are from each actor."""
    return Counter(batch.observation["place"][:, 0].tolist())


def drawn(source: ReplaySource, batches: int = 60, size: int = 128) -> dict[int, float]:
    total: Counter[int] = Counter()
    for _ in range(batches):
        total += robots_of(source.sample(size))
    return {actor: count / total.total() for actor, count in sorted(total.items())}


def test_shares_are_equal_or_by_steps_or_between():
    def shares(**how):
        return robot_shares([900, 100], BY_ROBOT.replace(**how))

    assert shares() == pytest.approx([0.5, 0.5])
    assert shares(strength=0.0) == pytest.approx([0.9, 0.1])
    assert shares(strength=0.5) == pytest.approx([0.75, 0.25])  # 30 to 10
    assert shares(most=2.0) == pytest.approx([0.8, 0.2]), "twice as often as 0.1"
    assert robot_shares([1000, 2, 0], BY_ROBOT) == pytest.approx([1 - 20 / 1002, 20 / 1002, 0])
    assert robot_shares([0, 0], BY_ROBOT) == [0, 0]


@given(
    st.lists(st.integers(0, 10**6), min_size=1, max_size=12),
    st.floats(0, 1),
    st.floats(1, 100),
)
def test_shares_add_up_and_no_step_is_drawn_too_often(steps, strength, most):
    shares = np.array(robot_shares(steps, BalanceConfig(by="robots", strength=strength, most=most)))
    count = np.array(steps, float)
    if not count.sum():
        return
    assert shares.sum() == pytest.approx(1) and (shares >= 0).all()
    assert (shares <= most * count / count.sum() + 1e-9).all()
    order = np.argsort(count, kind="stable")
    assert (np.diff(shares[order]) >= -1e-9).all(), "who has more never gets less"


def test_a_fast_robot_does_not_drown_a_slow_one(tmp_path: Path):
    with StoreWriter(tmp_path, config=QUICK) as writer:
        fill(writer, Actor(1, robot="fast"), [Plan(90)] * 10)
        fill(writer, Actor(2, robot="slow"), [Plan(20)] * 5)
    with ReplaySource(tmp_path, STILL) as source:
        assert drawn(source)[2] == pytest.approx(0.1, abs=0.02)
    with ReplaySource(tmp_path, STILL.replace(balance=BY_ROBOT)) as source:
        assert len(source) == 1000
        assert drawn(source)[2] == pytest.approx(0.5, abs=0.02)
        seen = {tuple(p) for p in source.sample(40_000).observation["place"].tolist()}
        assert len(seen) == 1000, "within a robot every step is drawn"


def test_each_stratum_is_balanced_and_robots_of_other_stores_are_the_same_by_name(tmp_path: Path):
    live, old = tmp_path / "live", tmp_path / "old"
    with StoreWriter(live, config=QUICK) as writer:
        fill(writer, Actor(1, robot="a"), [Plan(80), Plan(20, source=DEMONSTRATION)])
        fill(writer, Actor(2, robot="b"), [Plan(20), Plan(20, source=DEMONSTRATION)])
    with StoreWriter(old, config=QUICK) as writer:
        fill(writer, Actor(3, robot="b"), [Plan(60)])
    strata = (Stratum(sources=(EpisodeSource.ONLINE,)), Stratum(sources=(DEMONSTRATION,)))
    config = STILL.replace(strata=strata, balance=BY_ROBOT)
    with ReplaySource(live, config, [History(path=str(old))]) as source:
        share = drawn(source)
        assert share[1] == pytest.approx(0.5, abs=0.02)
        # of b's half of what is online, 20 steps of 80 are in the live store
        assert share[3] == pytest.approx(0.25 * 60 / 80, abs=0.02)
        batch = source.sample(64)
        demonstrated = batch.extras["demonstration"]
        assert demonstrated[32:].all() and not demonstrated[:32].any(), "in the order of the strata"


@pytest.mark.parametrize("cached", [False, True])
def test_robots_join_while_batches_are_drawn(tmp_path: Path, cached: bool):
    """Also where the store is larger than memory."""
    schema = IMAGE_SCHEMA if cached else None
    options = {"schema": schema} if schema else {}
    config = STILL.replace(balance=BY_ROBOT, memory_bytes=20 * 2**20 if cached else 0)
    with StoreWriter(tmp_path, config=QUICK) as writer:
        fill(
            writer,
            Actor(1, robot="robot0", chunk_rows=64, **options),
            [Plan(100)] * (60 if cached else 20),
        )
        with ReplaySource(tmp_path, config) as source:
            assert drawn(source, 10) == {1: 1.0}
            assert source.cached is cached
            before = source.state()
            for number in (2, 3, 4):
                name = f"robot{number}"
                fill(writer, Actor(number, robot=name, chunk_rows=64, **options), [Plan(60)] * 5)
            assert source.refresh()
            share = drawn(source, 20)
            assert share.keys() == {1, 2, 3, 4}
            assert all(value == pytest.approx(0.25, abs=0.03) for value in share.values())
            after = source.state()
        with ReplaySource(tmp_path, config) as again:  # a learner that was restarted
            for state in (before, after):
                again.load_state(state)
                assert drawn(again, 10)[4] == pytest.approx(0.25, abs=0.04)


def test_a_reader_tells_robots_apart_and_learns_of_new_ones(tmp_path: Path):
    with StoreWriter(tmp_path, config=QUICK) as writer:
        fill(writer, Actor(1, robot="left"), [Plan(3)])
        fill(writer, Actor(2, robot=""), [Plan(3)])
        with closing(StoreReader(tmp_path, with_robots=True)) as reader:
            assert reader.robots == ["left", "actor2"], "who names none is known by its producer"
            fill(writer, Actor(3, robot="right"), [Plan(3)])
            fill(writer, Actor(4, robot="left"), [Plan(3)])
            reader.refresh()
            assert reader.robots == ["left", "actor2", "right"]
            assert reader.tables.robots[:, 1].tolist() == [0, 1, 2, 0]
        with closing(StoreReader(tmp_path)) as plain:
            assert not plain.robots and not len(plain.tables.robots)
