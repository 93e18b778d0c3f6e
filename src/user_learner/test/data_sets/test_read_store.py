"""The reader of about a hundred lines that uses nothing of USER, on a store of today and one of before.

``data/store_b8547ce.tar.gz`` was written by the code of commit b8547ce: three episodes of 6 to 8 rows.
"""

import runpy
import tarfile
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from user_core.types import TrajectorySchema
from user_learner.replay import StoreReader, StoreWriter
from user_learner.replay.config import CompressionConfig
from user_learner.upkeep.compression import compress
from user_testing.worlds.replay import IMAGE_SCHEMA, QUICK, SPEC, Actor, Plan, fill, same_columns

HERE = Path(__file__).resolve()
EXAMPLE = HERE.parents[4] / "examples/read_store.py"


def agree(path):
    stranger = runpy.run_path(str(EXAMPLE))["Store"](path)
    found = {tuple(e["key"]): e for e in stranger.episodes()}
    with closing(StoreReader(path)) as reader:
        episodes = list(reader.episodes())
        assert len(found) == len(episodes) > 0
        for episode in episodes:
            key = (episode.key.producer, episode.key.incarnation, episode.key.number)
            one = found[key]
            assert (one["robot"], one["task"]) == (episode.robot, episode.task)
            assert one["source"] == episode.source.name.lower()
            assert same_columns(stranger.rows(one["id"]), reader.read_episode(episode))
            result = episode.result
            assert (one["result"] is None) == (result is None)
            assert result is None or one["result"]["length"] == result.length
    return stranger


def test_a_stranger_reads_a_store_of_today(tmp_path):
    with StoreWriter(tmp_path / "store", config=QUICK) as writer:
        fill(writer, Actor(1, schema=IMAGE_SCHEMA), [Plan(7), Plan(30), Plan(3, terminated=True)])
        fill(writer, Actor(2, schema=IMAGE_SCHEMA), [Plan(5, final=False)])
    agree(tmp_path / "store")


@pytest.mark.parametrize("images", ["zstd", "webp90"])
def test_a_stranger_reads_compressed_images(tmp_path, images):
    with StoreWriter(tmp_path / "store", config=QUICK.replace(segment_bytes=1)) as writer:
        fill(
            writer, Actor(1, schema=IMAGE_SCHEMA, chunk_rows=100), [Plan(500), Plan(543), Plan(90)]
        )
    assert compress(tmp_path / "store", CompressionConfig(images=images, raw_bytes=0)).segments == 1
    agree(tmp_path / "store")


def test_a_stranger_reads_which_plan_each_step_is_of(tmp_path):
    with StoreWriter(tmp_path / "store", config=QUICK) as writer:
        fill(writer, Actor(1, schema=TrajectorySchema.of(SPEC, plans=True)), [Plan(7), Plan(30)])
    agree(tmp_path / "store")


def test_a_stranger_and_we_read_a_store_of_b8547ce_and_we_write_to_it(tmp_path):
    with tarfile.open(HERE.parents[1] / "data/store_b8547ce.tar.gz") as archive:
        archive.extractall(tmp_path, filter="data")
    path = tmp_path / "store_b8547ce"
    stranger = agree(path)
    for number, episode in enumerate(stranger.episodes()):
        rows = stranger.rows(episode["id"])
        row = np.arange(6 + number)
        assert np.array_equal(rows["observation.place"][:, 2], row)
        images = rows["observation.image_wrist"]
        assert np.array_equal(images[:, 3, 4, 1], (number * 13 + row * 5) % 256)
        assert np.array_equal(rows["reward"][:-1], (row / 8).astype(np.float32)[:-1])
    with StoreWriter(path, config=QUICK) as writer:
        assert not writer.warnings
        assert writer.schema is not None
    agree(path)
