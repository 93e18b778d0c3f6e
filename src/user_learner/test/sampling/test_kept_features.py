"""Features of images that are computed once and kept beside them."""

import numpy as np
import pytest

from user_core.errors import StoreError
from user_learner.cli.replay import main
from user_learner.replay import StoreWriter
from user_learner.replay.config import CompressionConfig
from user_learner.replay.layout import RowLayout
from user_learner.sampling import ReplaySource
from user_learner.sampling.batches import batch_nbytes
from user_learner.sampling.features import KeptFeatures
from user_learner.upkeep.compression import compress
from user_learner.upkeep.tiering import bring_back, move_old
from user_testing.worlds.replay import IMAGE_SCHEMA, QUICK, STILL, Actor, Plan, fill, pixel_of

SMALL_SEGMENTS = QUICK.replace(segment_bytes=1)


class Encoder:
    """Two features of three numbers each, that all say the mean of the image; counts images."""

    channels = 3
    key = np.arange(8, dtype=np.uint8)

    def __init__(self):
        self.seen = 0

    def places(self, height, width):
        return 2

    def __call__(self, image_bhwc):
        self.seen += len(image_bhwc)
        mean = image_bhwc.float().flatten(1).mean(1)
        return mean[:, None, None].expand(-1, 2, 3).half()


def kept(encoder):
    return KeptFeatures({"image_wrist": encoder})


def check(batch):
    for which in (batch.observation, batch.next_observation):
        found = which["image_wrist"]
        assert found.dtype == np.float16 and found.shape[-2:] == (2, 3)
        places = which["place"].reshape(-1, 3).tolist()
        wanted = np.array([pixel_of(*place) for place in places], np.float16)
        assert (found.reshape(-1, 6) == wanted[:, None]).all()


def test_features_are_computed_once_and_take_the_place_of_images(tmp_path):
    actor, encoder = Actor(1, schema=IMAGE_SCHEMA), Encoder()
    with StoreWriter(tmp_path, config=SMALL_SEGMENTS) as writer:
        fill(writer, actor, [Plan(1100), Plan(20, terminated=True)])
        with ReplaySource(tmp_path, STILL, features=kept(encoder)) as source:
            check(source.sample(200))
            first = encoder.seen
            assert first == 1122  # all rows, final observations too, in two segments
            fill(writer, actor, [Plan(10)])
            assert source.refresh() and encoder.seen == first + 11
            for _ in range(5):
                check(source.sample(200))
    again = Encoder()
    config = STILL.replace(observation_history=3, window=2, pad_windows=True)
    with ReplaySource(tmp_path, config, features=kept(again)) as source:
        check(source.sample(64))
    assert again.seen == 0
    for path in tmp_path.rglob("*.rows"):  # what is lost is made again
        path.unlink()
    with ReplaySource(tmp_path, STILL, features=kept(again)) as source:
        check(source.sample(64))
    assert again.seen == first + 11


def test_a_segment_that_is_moved_to_another_disk_meanwhile_has_the_right_ones(tmp_path):
    store = tmp_path / "store"

    class Mover(Encoder):
        def __call__(self, image_bhwc):
            if self.seen:
                move_old(store, tmp_path / "slow", keep_bytes=0)
            return super().__call__(image_bhwc)

    with StoreWriter(store, config=SMALL_SEGMENTS) as writer:
        fill(writer, Actor(1, schema=IMAGE_SCHEMA), [Plan(1100), Plan(20, terminated=True)])
    with pytest.raises(StoreError, match="moved to another disk"):
        ReplaySource(store, STILL, features=kept(Mover()))
    encoder = Encoder()
    with ReplaySource(store, STILL, features=kept(encoder)) as source:
        for _ in range(5):
            check(source.sample(200))
    assert encoder.seen == 1122
    bring_back(store)
    with ReplaySource(store, STILL, features=kept(encoder)) as source:
        check(source.sample(200))
    assert encoder.seen == 1122  # features come along


def test_other_eyes_have_features_of_their_own(tmp_path):
    with StoreWriter(tmp_path, config=SMALL_SEGMENTS) as writer:
        fill(writer, Actor(1, schema=IMAGE_SCHEMA), [Plan(20)])
    one, other = Encoder(), Encoder()
    other.key = other.key + 1
    for encoder in (one, other, one):
        with ReplaySource(tmp_path, STILL, features=kept(encoder)) as source:
            check(source.sample(32))
    assert (one.seen, other.seen) == (21, 21)


def test_a_store_whose_images_do_not_fit_into_memory_and_whose_features_do(tmp_path):
    with StoreWriter(tmp_path, config=SMALL_SEGMENTS) as writer:
        fill(writer, Actor(1, schema=IMAGE_SCHEMA, chunk_rows=100), [Plan(200)] * 40)
    layout = RowLayout(IMAGE_SCHEMA)
    config = STILL.replace(keep=1, read_bytes_per_s=1e12)
    small = kept(Encoder()).layout(layout)
    batches = batch_nbytes(small, 64, config) * (config.prefetch + config.keep)
    for rows, cached in ((9000, False), (4500, True)):
        room = batches + rows * (small.row_nbytes + 40) * 20 // 19
        encoder = Encoder()
        with ReplaySource(
            tmp_path, config.replace(memory_bytes=room), features=kept(encoder)
        ) as source:
            for _ in range(5):
                check(source.sample(64))
            assert source.cached is cached


def test_damaged_images_that_are_set_aside_are_not_looked_at(tmp_path):
    with StoreWriter(tmp_path, config=SMALL_SEGMENTS) as writer:
        fill(writer, Actor(1, schema=IMAGE_SCHEMA, chunk_rows=100), [Plan(200)] * 8)
    assert compress(tmp_path, CompressionConfig(raw_bytes=0)).segments == 1
    (packed,) = tmp_path.rglob("*.packed")
    with open(packed, "r+b") as stream:
        stream.seek(1600)  # in the first group
        stream.write(b"\xff" * 8)
    main(["verify", str(tmp_path), "--repair"])
    encoder = Encoder()
    with ReplaySource(tmp_path, STILL, features=kept(encoder)) as source:
        for _ in range(5):
            check(source.sample(200))
    assert encoder.seen == 8 * 201 - 512


def test_a_folder_that_cannot_be_written_to_is_named(tmp_path):
    with StoreWriter(tmp_path, config=SMALL_SEGMENTS) as writer:
        fill(writer, Actor(1, schema=IMAGE_SCHEMA), [Plan(20)])
    (images,) = tmp_path.rglob("*image_wrist.col")
    images.with_suffix("." + Encoder.key.tobytes().hex() + ".features").mkdir()
    with pytest.raises(StoreError, match=r"can be written to.*encoder"):
        ReplaySource(tmp_path, STILL, features=kept(Encoder()))
