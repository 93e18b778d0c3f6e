"""Batches for policies that see several observations at once."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from user_core.errors import ConfigError
from user_learner.replay import StoreWriter
from user_learner.replay.layout import RowLayout
from user_learner.sampling import ReplaySource
from user_learner.sampling.batches import batch_nbytes
from user_testing.worlds.replay import IMAGE_SCHEMA, QUICK, STILL, Actor, Plan, fill, pixel_of

SMALL_SEGMENTS = QUICK.replace(segment_bytes=1)
PLANS = st.lists(
    st.builds(Plan, steps=st.integers(1, 12), terminated=st.booleans(), final=st.booleans()),
    min_size=1,
    max_size=8,
)


def check(batch, history, ahead=1):
    """Whether each step comes with those before it, and its successor with those before that."""
    seen, after = batch.observation["place"], batch.next_observation["place"]
    for mine, its in zip(seen.tolist(), after.tolist(), strict=True):
        (actor, episode, row), (_, _, following) = mine[-1], its[-1]
        assert row < following <= row + ahead
        for shown, last in ((mine, row), (its, following)):
            wanted = [max(0, last - back) for back in range(history - 1, -1, -1)]
            assert shown == [[actor, episode, place] for place in wanted]


@settings(deadline=None, max_examples=25)
@given(plans=PLANS, history=st.integers(2, 6), n=st.integers(1, 4))
def test_each_step_comes_with_those_before_it(tmp_path_factory, plans, history, n):
    path = tmp_path_factory.mktemp("store")
    with StoreWriter(path, config=SMALL_SEGMENTS) as writer:
        # 5 rows are left in the first segment, so the episodes go on in the second
        fill(writer, Actor(9, chunk_rows=512), [Plan(1018)])
        fill(writer, Actor(1, chunk_rows=3), plans)
    with ReplaySource(path, STILL.replace(observation_history=history, n_step=n)) as source:
        for _ in range(8):
            check(source.sample(128), history, n)


def test_windows_and_images_come_with_those_before_them(tmp_path):
    with StoreWriter(tmp_path, config=SMALL_SEGMENTS) as writer:
        fill(writer, Actor(9, schema=IMAGE_SCHEMA, chunk_rows=512), [Plan(1018)])
        fill(writer, Actor(1, schema=IMAGE_SCHEMA, chunk_rows=3), [Plan(9), Plan(4)])
    config = STILL.replace(observation_history=3, window=4, pad_windows=True)
    with ReplaySource(tmp_path, config) as source:
        for _ in range(10):
            batch = source.sample(64)
            check(batch, 3, 4)
            for which in (batch.observation, batch.next_observation):
                places, images = which["place"], which["image_wrist"]
                assert images.shape[:2] == (64, 3)
                for some, pixels in zip(places.tolist(), images, strict=True):
                    for place, image in zip(some, pixels, strict=True):
                        assert (image == pixel_of(*place)).all()
            rows, actions = batch.observation["place"][:, -1, 2], batch.action[:, 0]
            assert (actions[:, 1] == rows).all()


def test_a_store_larger_than_its_budget(tmp_path):
    config = STILL.replace(
        observation_history=4, read_bytes_per_s=1e12, keep=1, draws_per_load=0.5, max_draws_per_load=0.7
    )  # fmt: skip
    with StoreWriter(tmp_path, config=SMALL_SEGMENTS) as writer:
        rng = np.random.default_rng(0)
        actor = Actor(1, chunk_rows=100)
        fill(writer, actor, [Plan(int(steps)) for steps in rng.integers(1, 300, 120)])
        layout = RowLayout(actor.schema)
    batches = (config.prefetch + config.keep) * batch_nbytes(layout, 256, config)
    room = (layout.row_nbytes + 40) * 7000 * 20 // 19 + batches
    with ReplaySource(tmp_path, config.replace(memory_bytes=room)) as source:
        assert source.sample(256) is not None and source.cached
        for _ in range(60):
            check(source.sample(256), 4)


def test_goals_of_hindsight_are_for_one_observation():
    with pytest.raises(ConfigError, match="one observation where goals are replaced"):
        STILL.replace(observation_history=2, hindsight={"strategy": "future"})
