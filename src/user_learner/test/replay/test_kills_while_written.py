"""A store that is filled, thinned out, moved to a slower disk and edited, killed at random moments, over and over."""

import random
import sys
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from user_learner.edits.log import EditLog
from user_learner.replay import RetentionConfig, StoreReader, StoreWriter
from user_learner.replay.maintenance import verify
from user_learner.replay.segments import LEAVING, SEGMENTS
from user_learner.upkeep.retention import retain
from user_learner.upkeep.tiering import move_old
from user_testing.processes import killed_after
from user_testing.worlds.replay import QUICK, Actor, Plan, joined

KILLS = 30
SMALL = QUICK.replace(segment_bytes=1)
POLICY = RetentionConfig(max_rows=4000, keep=("successes", "tagged"))

_WORK = """
import sys
from user_core.types import EpisodeKey
from user_learner.edits.entries import Edit, EditKind
from user_learner.edits.log import EditLog
from user_learner.replay import StoreWriter
from user_learner.upkeep.retention import retain
from user_learner.upkeep.tiering import move_old
sys.path.insert(0, sys.argv[3])
from test_kills_while_written import POLICY, SMALL, episodes
store, slow = sys.argv[1:3]
with StoreWriter(store, config=SMALL) as writer:
    log = EditLog(store)
    done = max((ack.sequence for ack in writer.acknowledged()), default=0)
    for number, chunks in enumerate(episodes()):
        fresh = [chunk for chunk in chunks if chunk.id.sequence > done]
        for chunk in fresh:
            assert writer.append(chunk).status == "staged"
        if not fresh:
            continue
        writer.commit()
        print("episode", number, flush=True)
        if number % 7 == 3:
            key = EpisodeKey("actor1", 1, number)
            log.append(Edit(EditKind.TAG, (key,), {"add": ["keep"], "remove": []}))
            print("tag", number, flush=True)
        if number % 3 == 0:
            retain(writer, POLICY)
        if number % 5 == 0:
            move_old(store, slow, keep_bytes=200_000)
"""


def episodes():
    """Episodes without end: the chunks of one after the other."""
    actor = Actor(1, chunk_rows=60)
    number = 0
    while True:
        yield actor.chunks(Plan(100 + number % 90, terminated=number % 9 == 0))
        number += 1


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_kills_of_a_process_that_fills_and_thins_a_store_lose_nothing_that_counts(tmp_path):
    """What was acknowledged and counts is there, bit by bit; no episode is there in part; nothing is left behind."""
    store, slow = tmp_path / "store", tmp_path / "slow"
    told: list[tuple[str, int]] = []
    moment = random.Random(17)
    for _ in range(KILLS):
        words = map(str, (store, slow, Path(__file__).parent))
        for line in killed_after([sys.executable, "-c", _WORK, *words], moment.uniform(0, 0.4)):
            what, number = line.split()
            told.append((what, int(number)))
        check(store, told)
    move_old(store, slow, keep_bytes=200_000)
    (place,) = slow.iterdir()
    links = [path for path in (store / SEGMENTS).iterdir() if path.is_symlink()]
    assert {path.name for path in place.iterdir() if path.is_dir()} == {link.name for link in links}
    assert any(path.is_symlink() for path in (store / SEGMENTS).iterdir())


def check(store, told):
    with StoreWriter(store, config=SMALL) as writer:
        assert writer.warnings == []
        retain(writer, POLICY)
    report = verify(store)
    assert report.errors == []
    acknowledged = {number for what, number in told if what == "episode"}
    tagged = {number for what, number in told if what == "tag"}
    edits = {edit.episodes[0].number for edit in EditLog(store).edits}
    assert tagged <= edits
    chunks = []
    for _, of in zip(range(max(acknowledged) + 3), episodes(), strict=False):
        chunks += of
    wanted = joined(chunks)
    with closing(StoreReader(store)) as reader:
        known = {f"{row[0]:08d}" for row in reader.tables.segments}
        here = {}
        for one in reader.episodes():
            rows = sum(extent[3] for extent in one.extents)
            closed = one.result is not None
            assert rows in (0, one.rows) or not closed, f"{one.key} is here in part"
            if rows:
                here[one.key.number] = one
        for number, one in here.items():
            found = reader.read_episode(one)
            for name, rows in wanted[one.key].items():
                assert np.array_equal(found[name], rows[: len(found[name])]), (number, name)
    keeps = {n for n in acknowledged if n % 9 == 0} | tagged
    assert keeps <= here.keys()
    assert {path.name for path in (store / SEGMENTS).iterdir()} == known
    assert not (store / LEAVING).exists() or not any((store / LEAVING).iterdir())
