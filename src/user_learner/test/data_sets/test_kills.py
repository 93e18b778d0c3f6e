"""Imports and exports that are killed, again and again: each continues, nothing twice, nothing lost."""

import random
import signal
import subprocess
import sys
import time
from contextlib import closing

import numpy as np
import pytest

from user_core.types import EpisodeSource
from user_learner.replay import StoreReader, StoreWriter
from user_testing.worlds.replay import IMAGE_SCHEMA, QUICK, Actor, Plan, fill, joined, same_columns

KILLS = 15
EPISODES = 200


def until_done(words, rng):
    """Run a command, kill it up to KILLS times at random moments, then let it end; how often it was killed."""
    killed = 0
    while True:
        process = subprocess.Popen(
            [sys.executable, "-c", "import sys; from user_learner.cli.data import main; sys.exit(main())",
             *map(str, words)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        try:
            out, _ = process.communicate(timeout=rng.uniform(0.3, 1.5) if killed < KILLS else 120)
            assert process.returncode == 0, out
            return killed
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.communicate()
            killed += 1
            time.sleep(0.01)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_thirty_kills_of_import_and_export(tmp_path):
    pytest.importorskip("pyarrow")
    pytest.importorskip("av")
    rng = random.Random(3)
    with StoreWriter(tmp_path / "store", config=QUICK) as writer:
        actor = Actor(1, schema=IMAGE_SCHEMA, chunk_rows=500)
        chunks = fill(writer, actor, [Plan(80, EpisodeSource.DEMONSTRATION)] * EPISODES)
    killed = until_done(
        ["export", tmp_path / "store", tmp_path / "v3", "--images", "lossless", "--file-steps", 200],
        rng,
    )  # fmt: skip
    killed += until_done(["import", tmp_path / "v3", "--into", tmp_path / "back"], rng)
    print(f"{killed} kills")
    wanted = joined(chunks)
    with closing(StoreReader(tmp_path / "back")) as reader:
        episodes = list(reader.episodes())
        assert sorted(e.key for e in episodes) == sorted(wanted)
        for episode in episodes:
            assert same_columns(reader.read_episode(episode), wanted[episode.key])
        extents = reader.tables.extents
        assert int(extents[:, 5].sum()) == sum(len(c["reward"]) for c in wanted.values())
    assert np.all([e.result is not None for e in episodes])
