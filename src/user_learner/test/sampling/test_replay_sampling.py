import math
import threading
import time
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from user_core.config import from_mapping, to_mapping
from user_core.errors import ConfigError, StoreError
from user_core.types import ActedBy, EpisodeSource
from user_learner.replay import ChunkStatus, StoreWriter
from user_learner.sampling import (
    HALF_DEMONSTRATIONS,
    ReplaySource,
    SamplerConfig,
    Share,
    Stratum,
)
from user_learner.sampling.hindsight import Relabelled
from user_testing.worlds.replay import (
    IMAGE_SCHEMA,
    QUICK,
    STILL,
    Actor,
    Plan,
    fill,
    pixel_of,
    reward_of,
)

DEMONSTRATION, EVALUATION = EpisodeSource.DEMONSTRATION, EpisodeSource.EVALUATION
GAMMA = 0.9


class Reference:
    """What a sampler should give, computed one step at a time from the plans of episodes."""

    def __init__(self, plans):
        self.plans = plans

    def drawable(self, required=1):
        return {
            (episode, row)
            for episode, plan in enumerate(self.plans)
            for row in range(plan.steps)
            if row + required < plan.rows
        }

    def n_step(self, episode, row, n):
        """Sum of rewards, discount, row of the next observation."""
        plan, total, discount = self.plans[episode], 0.0, 1.0
        for _ in range(n):
            total += discount * reward_of(episode, row)
            discount *= GAMMA
            row += 1
            if row == plan.steps and plan.final and plan.terminated:
                return total, 0.0, row
            if row + 1 == plan.rows:
                break
        return total, discount, row


def places(batch, which="observation"):
    return getattr(batch, which)["place"][:, 1:].tolist()


PLANS = st.lists(
    st.builds(
        Plan,
        steps=st.integers(1, 12),
        terminated=st.booleans(),
        final=st.booleans(),
    ),
    min_size=1,
    max_size=8,
)


def store_of(path, plans, schema=None, segment_bytes=1, **kwargs):
    """A store of these episodes by one actor, its first segment filled up so that they cross."""
    actor = Actor(**({"schema": schema} if schema else {}), **kwargs)
    with StoreWriter(path, config=QUICK.replace(segment_bytes=segment_bytes)) as writer:
        filler = Actor(9, schema=actor.schema, chunk_rows=512)
        fill(writer, filler, [Plan(1017, source=EVALUATION), Plan(1018)])
        fill(writer, actor, plans)
    return path


@settings(deadline=None, max_examples=25)
@given(plans=PLANS, n=st.integers(1, 5))
def test_n_step_returns_match_a_step_by_step_computation(tmp_path_factory, plans, n):
    path, reference = tmp_path_factory.mktemp("store"), Reference(plans)
    with StoreWriter(path, config=QUICK.replace(segment_bytes=1)) as writer:
        # 5 rows are left in the first segment, so the episodes go on in the second
        fill(writer, Actor(9, chunk_rows=512), [Plan(1018)])
        fill(writer, Actor(1, chunk_rows=3), plans)
    wanted = reference.drawable()
    config = STILL.replace(n_step=n, gamma=GAMMA, strata=(Stratum(newest_steps=10**6),))
    with ReplaySource(path, config) as source:
        assert len(source) == 1018 + len(wanted)
        seen = set()
        for _ in range(60):
            batch = source.sample(128)
            for i, (actor, episode, row) in enumerate(batch.observation["place"].tolist()):
                if actor == 9:
                    continue
                seen.add((episode, row))
                total, discount, following = reference.n_step(episode, row, n)
                assert batch.next_observation["place"][i].tolist() == [1, episode, following]
                assert batch.action[i].tolist() == [episode, row]
                assert batch.reward[i] == pytest.approx(total, abs=1e-6)
                assert batch.discount[i] == pytest.approx(discount)
                assert batch.extras["policy_version"][i] == episode
        assert seen <= wanted
        if len(wanted) < 40:  # 7,680 draws of at most 1,058 steps
            assert len(seen) >= len(wanted) - 1


@settings(deadline=None, max_examples=25)
@given(plans=PLANS, length=st.integers(1, 6), pad=st.booleans())
def test_windows_match_a_step_by_step_computation(tmp_path_factory, plans, length, pad):
    path, reference = tmp_path_factory.mktemp("store"), Reference(plans)
    with StoreWriter(path, config=QUICK.replace(segment_bytes=1)) as writer:
        fill(writer, Actor(9, chunk_rows=512), [Plan(1018, source=EVALUATION)])
        fill(writer, Actor(8, chunk_rows=512), [Plan(1018, source=DEMONSTRATION)])
        fill(writer, Actor(1, chunk_rows=3), plans)
    wanted = reference.drawable(1 if pad else length)
    strata = (Stratum(sources=(EpisodeSource.ONLINE,)),)
    config = STILL.replace(window=length, pad_windows=pad, gamma=GAMMA, strata=strata)
    with ReplaySource(path, config) as source:
        assert len(source) == len(wanted)
        if not wanted:
            with pytest.raises(StoreError, match="nothing to draw"):
                source.sample(8)
            return
        seen = Counter()
        for _ in range(10):
            batch = source.sample(64)
            assert batch.action.shape == (64, length, 2)
            assert batch.reward.shape == batch.discount.shape == (64, length)
            for i, (episode, row) in enumerate(places(batch)):
                seen[episode, row] += 1
                plan = plans[episode]
                here = min(length, plan.rows - 1 - row)
                for j in range(length):
                    at = row + min(j, here - 1)
                    assert batch.action[i, j].tolist() == [episode, at]
                    over = plan.final and plan.terminated and at == plan.steps - 1
                    expected = (reward_of(episode, at), 0.0 if over else GAMMA)
                    if j >= here:
                        expected = (0.0, 1.0)
                    assert batch.reward[i, j] == pytest.approx(expected[0])
                    assert batch.discount[i, j] == pytest.approx(expected[1])
                    if pad:
                        assert batch.extras["mask"][i, j] == (j < here)
                assert batch.next_observation["place"][i].tolist() == [1, episode, row + here]
        assert set(seen) <= wanted
        if len(wanted) < 60:
            assert set(seen) == wanted


def test_images_and_their_successors_are_gathered(tmp_path):
    path = store_of(tmp_path, [Plan(30), Plan(20, terminated=True)], IMAGE_SCHEMA)
    with ReplaySource(path, STILL) as source:
        for _ in range(4):
            batch = source.sample(200)
            for which in ("observation", "next_observation"):
                arrays = getattr(batch, which)
                assert arrays["image_wrist"].shape == (200, 40, 41, 3)
                expected = [pixel_of(*place) for place in arrays["place"].tolist()]
                assert (arrays["image_wrist"] == np.reshape(expected, (-1, 1, 1, 1))).all()
            same = batch.observation["place"][:, 2] + 1 == batch.next_observation["place"][:, 2]
            assert same.all()


def test_evaluation_is_kept_out_unless_named(tmp_path):
    with StoreWriter(tmp_path, config=QUICK) as writer:
        for number, kind in enumerate(EpisodeSource):
            fill(writer, Actor(number), [Plan(10, source=kind)])
    with ReplaySource(tmp_path, STILL) as source:
        assert len(source) == 20
        assert set(source.sample(500).observation["place"][:, 0]) == {0, 1}
    named = STILL.replace(strata=(Stratum(sources=(EVALUATION,)),))
    with ReplaySource(tmp_path, named) as source:
        assert set(source.sample(500).observation["place"][:, 0]) == {2}


def test_half_of_a_batch_are_demonstrations(tmp_path):
    config = STILL.replace(strata=HALF_DEMONSTRATIONS)
    with StoreWriter(tmp_path, config=QUICK) as writer:
        fill(writer, Actor(1), [Plan(300)])
        with ReplaySource(tmp_path, config) as source:
            batch = source.sample(64)  # no demonstrations yet: their half goes to the others
            assert not batch.extras["demonstration"].any()
            fill(writer, Actor(2), [Plan(6, source=DEMONSTRATION)])
            assert source.refresh()
            batch = source.sample(64)
            assert batch.extras["demonstration"].tolist() == [False] * 32 + [True] * 32
            assert batch.observation["place"][:, 0].tolist() == [1] * 32 + [2] * 32
            odd = [source.sample(5).extras["demonstration"].sum() for _ in range(400)]
            assert set(odd) == {2, 3}
            assert 0.4 < np.mean(np.array(odd) == 3) < 0.6


def test_interventions_can_be_a_part_of_their_own(tmp_path):
    humans = frozenset({0, 3, 4, 5, 11, 19})
    plans = [Plan(20, humans=humans), Plan(7), Plan(6, humans=frozenset(range(6)))]
    path = store_of(tmp_path, plans, chunk_rows=3)
    wanted = {(0, row) for row in humans} | {(2, row) for row in range(6)}
    config = STILL.replace(
        n_step=3,
        gamma=GAMMA,
        strata=(Stratum(acted_by=(ActedBy.HUMAN,)), Stratum(share=3.0)),
    )
    with ReplaySource(path, config) as source:
        batch = source.sample(400)
        human = set(map(tuple, places(batch)[:100]))
        assert human == wanted
        assert set(batch.observation["place"][100:, 0].tolist()) == {1, 9}
        for i, (episode, row) in enumerate(places(batch)[:100]):
            total, discount, following = Reference(plans).n_step(episode, row, 3)
            assert batch.reward[i] == pytest.approx(total, abs=1e-6)
            assert batch.discount[i] == pytest.approx(discount)
            assert places(batch, "next_observation")[i] == [episode, following]


def test_only_the_newest_steps(tmp_path):
    with StoreWriter(tmp_path, config=QUICK.replace(segment_bytes=1)) as writer:
        actor = Actor(1, chunk_rows=64)
        fill(writer, actor, [Plan(700), Plan(700), Plan(50)])
        config = STILL.replace(strata=(Stratum(newest_steps=120),))
        with ReplaySource(tmp_path, config) as source:
            assert len(source) == 120
            drawn = set(map(tuple, places(source.sample(3000))))
            assert drawn == {(2, row) for row in range(50)} | {(1, r) for r in range(630, 700)}
            fill(writer, actor, [Plan(119)])
            source.refresh()
            drawn = set(map(tuple, places(source.sample(3000))))
            assert drawn == {(3, row) for row in range(119)} | {(2, 49)}


def test_an_episode_that_goes_on_is_drawn_as_far_as_it_has_come(tmp_path):
    actor = Actor(chunk_rows=3)
    chunks = actor.chunks(Plan(8, terminated=True))
    with StoreWriter(tmp_path, config=QUICK) as writer:
        writer.append(chunks[0])
        writer.commit()
        with ReplaySource(tmp_path, STILL.replace(gamma=GAMMA)) as source:
            assert set(map(tuple, places(source.sample(200)))) == {(0, 0), (0, 1)}
            assert source.sample(50).discount.tolist() == pytest.approx([GAMMA] * 50)
            writer.append(chunks[1])
            assert not source.refresh()
            writer.commit()
            assert source.refresh()
            assert len(source) == 5
            writer.append(chunks[2])
            writer.commit()
            source.refresh()
            batch = source.sample(400)
            ends = np.array(places(batch))[:, 1] == 7
            assert ends.any()
            assert (batch.discount[ends] == 0).all()
            assert (batch.discount[~ends] > 0).all()


def test_a_hole_in_an_episode_ends_what_can_be_followed(tmp_path):
    actor = Actor(chunk_rows=3)
    chunks = actor.chunks(Plan(8))
    with StoreWriter(tmp_path, config=QUICK) as writer:
        for chunk in (chunks[0], actor.empty(chunks[1]), chunks[2]):
            assert writer.append(chunk).status == ChunkStatus.STAGED
        writer.commit()
        with ReplaySource(tmp_path, STILL.replace(n_step=5)) as source:
            batch = source.sample(200)
            pairs = set(zip(map(tuple, places(batch)), map(tuple, places(batch, "next_observation")),
                            strict=True))  # fmt: skip
            assert pairs == {((0, 0), (0, 2)), ((0, 1), (0, 2)), ((0, 6), (0, 8)), ((0, 7), (0, 8))}


def test_the_draws_are_uniform_and_follow_the_seed(tmp_path):
    plans = [Plan(n) for n in (1, 2, 50, 7, 120, 20)]
    path = store_of(tmp_path, plans)
    strata = (Stratum(newest_steps=200),)
    with ReplaySource(path, STILL.replace(strata=strata)) as source:
        counts = Counter()
        for _ in range(200):
            counts.update(source.sample(256).extras["row"].tolist())
    expected = 200 * 256 / 200
    assert len(counts) == 200
    chi_square = sum((n - expected) ** 2 / expected for n in counts.values())
    assert abs(chi_square - 199) < 5 * math.sqrt(2 * 199)

    def first(**changes):
        share = changes.pop("share", None)
        with ReplaySource(path, STILL.replace(**changes), share=share) as source:
            return [source.sample(32).extras["row"].tolist() for _ in range(5)]

    assert first() == first()
    assert first() == first(prefetch=3, workers=2)  # whoever gathers, the draws are the same
    assert first() != first(seed=1)
    # Several processes have together what one would have, each an equal part of each minibatch.
    parts = [first(share=Share(rank, of=2, minibatches=4)) for rank in (0, 1)]
    for whole, *own in zip(first(), *parts, strict=True):
        for number in range(4):
            assert whole[number::4][0::2] == own[0][number::4]
            assert whole[number::4][1::2] == own[1][number::4]


@pytest.mark.parametrize(("rows", "of", "minibatches"), [(30, 4, 1), (12, 4, 6), (10, 1, 3)])
def test_a_batch_that_cannot_be_divided_evenly_is_refused(rows, of, minibatches):
    with pytest.raises(ConfigError, match="batch_size"):
        Share(0, of, minibatches).rows(rows)


def test_the_goals_of_a_part_are_those_of_its_steps():
    which = np.array([True, False, True, True, False, True])
    whole = Relabelled(which, np.array([10, 12, 13, 15]))
    part = whole.part(np.array([1, 2, 5]))
    assert part.which.tolist() == [False, True, True]
    assert part.address.tolist() == [12, 15]


@pytest.mark.parametrize("prefetch", [0, 3])
def test_drawing_goes_on_from_a_saved_state(tmp_path, prefetch):
    path = store_of(tmp_path, [Plan(50)])
    config = STILL.replace(prefetch=prefetch, strata=HALF_DEMONSTRATIONS)
    with ReplaySource(path, config) as source:
        for _ in range(4):
            source.sample(16)
        state = source.state()
        following = [source.sample(16).extras["row"].tolist() for _ in range(5)]
        source.load_state(state)
        assert [source.sample(16).extras["row"].tolist() for _ in range(5)] == following
    with ReplaySource(path, config) as source:
        source.sample(16)
        source.load_state(state)
        assert [source.sample(16).extras["row"].tolist() for _ in range(5)] == following


def test_a_batch_stays_as_it_is_for_as_long_as_promised(tmp_path):
    path = store_of(tmp_path, [Plan(500)])
    for prefetch in (0, 2):
        with ReplaySource(path, STILL.replace(prefetch=prefetch, keep=3)) as source:
            batch = source.sample(64)
            rows = batch.extras["row"].copy()
            for _ in range(3):
                assert np.array_equal(batch.extras["row"], rows)
                source.sample(64)
            kept = [source.sample(64) for _ in range(3)]
            assert len({b.extras["row"].tobytes() for b in kept}) == 3


def test_only_large_batches_are_prepared_by_a_thread(tmp_path):
    path = store_of(tmp_path, [Plan(500)])
    config = STILL.replace(prefetch=2, prefetch_above_bytes=20_000)
    with ReplaySource(path, config) as source:
        gathered: set[str] = set()
        gather = source._gather

        def noted(*arguments):
            gathered.add(threading.current_thread().name)
            return gather(*arguments)

        source._gatherer._gather = noted
        source.sample(4)
        assert gathered == {threading.current_thread().name}
        gathered.clear()
        source.sample(2000)
        assert all(name.startswith("replay-gather") for name in gathered)
        gathered.clear()
        source.sample(4)
        assert threading.current_thread().name in gathered


def test_batches_of_another_size(tmp_path):
    path = store_of(tmp_path, [Plan(500)])
    with ReplaySource(path, STILL.replace(prefetch=2)) as source:
        for size in (8, 300, 8, 1):
            batch = source.sample(size)
            assert len(batch) == size
            assert (batch.observation["place"][:, 2] + 1).tolist() == (
                batch.next_observation["place"][:, 2].tolist()
            )


def test_tensors(tmp_path):
    torch = pytest.importorskip("torch")
    path = store_of(tmp_path, [Plan(30)], IMAGE_SCHEMA)
    with ReplaySource(path, STILL.replace(output="torch")) as source:
        batch = source.sample(16)
        assert isinstance(batch.reward, torch.Tensor)
        assert batch.observation["image_wrist"].dtype == torch.uint8
        assert batch.extras["demonstration"].dtype == torch.bool
        assert (batch.observation["place"][:, 2] + 1 == batch.next_observation["place"][:, 2]).all()
    if not torch.cuda.is_available():
        with ReplaySource(path, STILL.replace(output="pinned")) as source:
            with pytest.raises(ConfigError, match="without a GPU"):
                source.sample(16)


def test_who_learns_from_demonstrations_alone_is_not_told_to_wait_for_robots(tmp_path):
    strata = (Stratum(sources=(EpisodeSource.DEMONSTRATION,)),)
    with StoreWriter(tmp_path, config=QUICK) as writer:
        fill(writer, Actor(), [Plan(3)])
        with ReplaySource(tmp_path, STILL.replace(strata=strata)) as source:
            with pytest.raises(StoreError, match=r"nothing to draw.* Give demonstrations"):
                source.sample(4)


def test_an_empty_store_says_so_and_waits(tmp_path):
    with StoreWriter(tmp_path, config=QUICK) as writer:
        with ReplaySource(tmp_path, STILL.replace(prefetch=2)) as source:
            assert len(source) == 0
            assert source.schema is None
            with pytest.raises(StoreError, match=r"nothing to draw.* Wait until robots"):
                source.sample(4)
            assert not source.wait(1, timeout_s=0)
            fill(writer, Actor(), [Plan(3)])
            assert source.wait(3, timeout_s=10)
            assert len(source.sample(4)) == 4
            assert source.collected() == source.collected(EpisodeSource.ONLINE) == 3
            assert source.collected(DEMONSTRATION) == 0


def test_new_rows_come_into_play_by_themselves(tmp_path):
    with StoreWriter(tmp_path, config=QUICK) as writer:
        fill(writer, Actor(1), [Plan(3)])
        with ReplaySource(tmp_path, STILL.replace(refresh_period_s=0.01)) as source:
            assert len(source) == 3
            fill(writer, Actor(2), [Plan(5)])
            deadline = time.monotonic() + 60
            while not (len(source) == 8 and 2 in source.sample(64).observation["place"][:, 0]):
                assert time.monotonic() < deadline, "the new rows were not seen"


def test_configuration_from_plain_data():
    config = from_mapping(
        SamplerConfig,
        {
            "strata": [
                {"sources": ["online"], "share": 0.5},
                {"sources": ["demonstration"], "acted_by": ["human", "script"]},
            ],
            "window": 8,
        },
    )
    assert config.strata[1].acted_by == (ActedBy.HUMAN, ActedBy.SCRIPT)
    assert from_mapping(SamplerConfig, to_mapping(config)) == config
    with pytest.raises(ConfigError, match="n_step 1 with windows"):
        SamplerConfig(window=4, n_step=2)
    with pytest.raises(ConfigError, match=r"strata\[0\].share"):
        from_mapping(SamplerConfig, {"strata": [{"share": 0}]})
