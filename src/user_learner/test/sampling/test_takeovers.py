"""What led to a takeover, in stored episodes: found, drawn less often, given another reward; and
windows that end where a person let go."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from user_core.config import from_mapping
from user_core.errors import ConfigError
from user_core.types import ActedBy, EpisodeSource
from user_learner.edits import Edit, EditLog
from user_learner.replay import StoreWriter
from user_learner.sampling import ReplaySource, Stratum
from user_learner.sampling.config import BalanceConfig, SamplerConfig, TakeoversConfig
from user_testing.worlds.replay import QUICK, STILL, Actor, Plan, fill, reward_of

PERSON, POLICY = Stratum(acted_by=(ActedBy.HUMAN,)), Stratum(acted_by=(ActedBy.POLICY,))


def store_of(path, plans, chunk_rows=3, **config):
    with StoreWriter(path, config=QUICK.replace(**config)) as writer:
        fill(writer, Actor(chunk_rows=chunk_rows), plans)
    return path


def expected(plans, steps):
    """The steps that led to a takeover, one by one."""
    found = set()
    for number, plan in enumerate(plans):
        for row in sorted(plan.humans):
            if row - 1 in plan.humans:
                continue
            for before in range(row - 1, max(-1, row - 1 - steps), -1):
                if before in plan.humans:
                    break
                found.add((number, before))
    return found


def drawn(source, size=4000):
    batch = source.sample(size)
    return list(map(tuple, batch.observation["place"][:, 1:].tolist())), batch


PLANS = [
    Plan(30, humans=frozenset({0, 1, 10, 11, 12, 14, 25})),  # 0: nothing led to it
    Plan(12, terminated=True),
    Plan(
        9, humans=frozenset(range(9))
    ),  # the last step is a person's, the next episode's first is not
    Plan(6, humans=frozenset({1})),
]


def test_steps_before_a_takeover_get_another_reward_and_all_others_keep_theirs(tmp_path):
    path = store_of(tmp_path, PLANS)
    config = STILL.replace(takeovers=TakeoversConfig(before_steps=4, reward=-1.0))
    with ReplaySource(path, config) as source:
        places, batch = drawn(source)
    bad = expected(PLANS, 4)
    assert {(0, 9), (0, 6), (0, 13), (0, 24), (0, 21), (3, 0)} <= bad
    assert not {(0, 5), (0, 12), (0, 20), (1, 11), (2, 8)} & bad
    assert bad <= set(places)
    for place, reward, discount in zip(places, batch.reward, batch.discount, strict=True):
        assert reward == pytest.approx(-1.0 if place in bad else reward_of(*place))
        assert (discount == 0) == (place == (1, 11)), "the task did not end there"


@pytest.mark.parametrize("weight", [0.0, 0.25])
def test_they_are_drawn_less_often_or_never(tmp_path, weight):
    path = store_of(tmp_path, PLANS)
    config = STILL.replace(
        strata=(POLICY,), takeovers=TakeoversConfig(before_steps=4, weight=weight)
    )
    with ReplaySource(path, config) as source:
        places, _ = drawn(source, 20_000)
    bad = expected(PLANS, 4)
    usual = [place for place in places if place not in bad]
    steps = len(set(usual))
    assert steps + len(bad) + sum(len(plan.humans) for plan in PLANS) == 57, "none is left out"
    often = (len(places) - len(usual)) / len(bad) / (len(usual) / steps)
    assert often == pytest.approx(weight, abs=0.04)


def test_it_goes_together_with_robots_that_are_balanced(tmp_path):
    with StoreWriter(tmp_path, config=QUICK) as writer:
        fill(writer, Actor(1, chunk_rows=5, robot="one"), [Plan(30, humans=frozenset({10}))])
        two = Actor(2, chunk_rows=5, robot="two", episode=1)
        fill(writer, two, [Plan(10, humans=frozenset({5}))])
    config = STILL.replace(
        balance=BalanceConfig(by="robots"), takeovers=TakeoversConfig(before_steps=3, weight=0.5)
    )
    with ReplaySource(tmp_path, config) as source:
        places, _ = drawn(source, 8000)
    rates = {place: places.count(place) for place in set(places)}
    assert len(rates) == 40
    led = np.mean([rates[0, row] for row in (7, 8, 9)])
    assert 0.4 < led / np.mean([rates[0, row] for row in range(15, 25)]) < 0.6


def test_new_steps_are_bad_once_a_person_takes_over(tmp_path):
    actor = Actor(chunk_rows=4)
    chunks = actor.chunks(Plan(12, humans=frozenset({8, 9})))
    with StoreWriter(tmp_path, config=QUICK) as writer:
        for chunk in chunks[:2]:
            writer.append(chunk)
        writer.commit()
        config = STILL.replace(takeovers=TakeoversConfig(before_steps=2, reward=-7.0))
        with ReplaySource(tmp_path, config) as source:
            assert -7.0 not in drawn(source)[1].reward
            for chunk in chunks[2:]:
                writer.append(chunk)
            writer.commit()
            assert source.refresh()
            places, batch = drawn(source)
    bad = {place for place, reward in zip(places, batch.reward, strict=True) if reward == -7.0}
    assert bad == {(0, 6), (0, 7)}


def test_a_window_of_a_person_ends_where_he_let_go(tmp_path):
    path = store_of(tmp_path, PLANS)
    config = STILL.replace(strata=(PERSON, POLICY), window=4, pad_windows=True)
    with ReplaySource(path, config) as source:
        batch = source.sample(4000)
    for half, person in ((slice(0, 2000), True), (slice(2000, 4000), False)):
        places = batch.observation["place"][half, 1:].tolist()
        for place, mask in zip(places, batch.extras["mask"][half], strict=True):
            humans, steps = PLANS[place[0]].humans, PLANS[place[0]].steps
            length = 0
            while (row := place[1] + length) < steps and length < 4 and (row in humans) == person:
                length += 1
            assert mask.tolist() == [True] * length + [False] * (4 - length), place
        assert (batch.extras["demonstration"][half] == person).all(), "what a person did is shown"


@pytest.mark.parametrize(("chunk_rows", "segment_bytes"), [(30, 1 << 20), (3, 1)])
def test_windows_that_begin_before_a_person_took_over_count_from_there_on(
    tmp_path, chunk_rows, segment_bytes
):
    path = store_of(tmp_path, PLANS, chunk_rows, segment_bytes=segment_bytes)
    strata = (PERSON.replace(before_steps=3), POLICY)
    config = STILL.replace(strata=strata, window=6, pad_windows=True)
    with ReplaySource(path, config) as source:
        places, batch = drawn(source)
    drove = {(number, row) for number, plan in enumerate(PLANS) for row in plan.humans}
    assert set(places[:2000]) == drove | expected(PLANS, 3)
    for (number, row), action, mask in zip(places[:2000], batch.action, batch.extras["mask"]):
        there = [at in PLANS[number].humans for at in range(row, row + 7)] + [False]
        first = there.index(True)
        end = there.index(False, first)
        assert mask.tolist() == [first <= at < end for at in range(6)], (number, row)
        shown = min(end, 6)  # what the policy did before is there, too
        assert action[:shown].tolist() == [[number, at] for at in range(row, row + shown)]
    assert batch.extras["mask"][2000:, 0].all(), "of the other stratum the first step counts"


def test_corrections_and_demonstrations_of_one_stratum_are_drawn_alike(tmp_path):
    """As hg_dagger_late has it: with few corrections few of each batch are such, whatever they are before."""
    plans = [
        Plan(60, source=EpisodeSource.DEMONSTRATION, humans=frozenset(range(60))),
        Plan(30, humans=frozenset(range(12, 16))),
        Plan(30),
    ]
    both = (EpisodeSource.DEMONSTRATION, EpisodeSource.ONLINE)
    strata = (PERSON.replace(sources=both, before_steps=3),)
    config = STILL.replace(strata=strata, window=6, pad_windows=True)
    with ReplaySource(store_of(tmp_path, plans), config) as source:
        places = drawn(source, 6700)[0]
    often = Counter(places)
    assert set(often) == {(0, row) for row in range(60)} | {(1, row) for row in range(9, 16)}
    assert all(50 < count < 160 for count in often.values()), "each some hundred times"


@pytest.mark.parametrize("chunk_rows", [12, 4, 1])
def test_no_window_begins_before_a_takeover_of_which_no_step_is_there(tmp_path, chunk_rows):
    """The takeover's first row is the last that an edit left, or the newest of an episode that goes on."""
    actor = Actor(chunk_rows=chunk_rows)
    person = frozenset({5, 11, 12})
    cut, growing = actor.chunks(Plan(23, humans=person)), actor.chunks(Plan(23, humans=person))
    config = STILL.replace(strata=(PERSON.replace(before_steps=3),), window=6, pad_windows=True)
    with StoreWriter(tmp_path, config=QUICK.replace(segment_bytes=1)) as writer:
        for chunk in (*cut, *growing[: 12 // chunk_rows]):
            writer.append(chunk)
        writer.commit()
        EditLog(tmp_path).append(Edit.cut([cut[0].episode], 0, 11))
        with ReplaySource(tmp_path, config) as source:
            places, batch = drawn(source)
            assert set(places) == {(number, row) for number in (0, 1) for row in (2, 3, 4, 5)}
            assert batch.extras["mask"].any(1).all(), "something is learned of each"
            for chunk in growing[12 // chunk_rows :]:
                writer.append(chunk)
            writer.commit()
            assert source.refresh()
            places, batch = drawn(source)
    assert {row for number, row in places if number} == {2, 3, 4, 5, 8, 9, 10, 11, 12}
    assert batch.extras["mask"].any(1).all()


def test_nothing_counts_of_a_window_whose_step_an_edit_took_away_after_it_was_drawn(tmp_path):
    """What is in memory of a store larger than that is drawn until a thread has looked at it again."""
    path = store_of(tmp_path, PLANS)
    config = STILL.replace(strata=(PERSON.replace(before_steps=3),), window=6, pad_windows=True)
    with ReplaySource(path, config) as source:
        source.sample(8)
        late = source._pool.draw(0, 500, np.random.default_rng(0))
        EditLog(path).append(Edit.exclude([Actor().chunks(PLANS[0])[0].episode]))
        assert source.refresh()
        idle = source._cut(source._populations[0], late).idle
        gone = source._snapshot.runs.locate(late.address)[0] < 0
    assert gone.any() and (idle[gone] == 6).all() and (idle[~gone] < 6).all()


def test_windows_that_a_person_ends_are_drawn_as_often_where_what_led_to_takeovers_is_not(tmp_path):
    path = store_of(tmp_path, PLANS)
    strata = (PERSON.replace(before_steps=3), POLICY)
    config = STILL.replace(strata=strata, window=6, pad_windows=True)
    weighed = config.replace(takeovers=TakeoversConfig(before_steps=4, weight=0.0))
    with ReplaySource(path, config) as usual, ReplaySource(path, weighed) as source:
        before, (places, batch) = drawn(usual)[0], drawn(source)
    assert set(places[:2000]) == set(before[:2000]) >= expected(PLANS, 3)
    assert not set(places[2000:]) & expected(PLANS, 4) and set(before[2000:]) & expected(PLANS, 4)
    assert batch.extras["mask"].any(1).all()


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"window": 8, "strata": [{"before_steps": 2}]}, "acted_by"),
        ({"window": 8, "strata": [{"before_steps": 2, "acted_by": ["human"]}]}, "padded windows"),
        ({"pad_windows": True, "strata": [{"before_steps": 2, "acted_by": ["human"]}]}, "window 0"),
        (
            {"window": 8, "pad_windows": True, "strata": [{"before_steps": 8, "acted_by": ["human"]}]},
            "one at least must count",
        ),
    ],
)  # fmt: skip
def test_windows_in_which_no_step_could_count_are_refused(wrong, says):
    with pytest.raises(ConfigError, match=says):
        from_mapping(SamplerConfig, wrong)


@settings(max_examples=25, deadline=None)
@given(
    humans=st.lists(st.frozensets(st.integers(0, 14)), min_size=1, max_size=4),
    steps=st.integers(1, 8), chunk_rows=st.integers(1, 9), seed=st.integers(0, 9),
)  # fmt: skip
def test_any_pattern(tmp_path_factory, humans, steps, chunk_rows, seed):
    plans = [Plan(15, humans=each) for each in humans]
    path = store_of(tmp_path_factory.mktemp("store"), plans, chunk_rows, segment_bytes=1)
    config = STILL.replace(takeovers=TakeoversConfig(before_steps=steps, reward=-9.0), seed=seed)
    with ReplaySource(path, config) as source:
        places, batch = drawn(source, 1500)
    bad = {place for place, reward in zip(places, batch.reward, strict=True) if reward == -9.0}
    assert bad == expected(plans, steps) & set(places)
