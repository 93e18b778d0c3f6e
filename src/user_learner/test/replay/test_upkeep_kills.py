"""Whatever looks after a store is killed, again and again, while robots send: what was acknowledged stays.

Import and export are killed in ``test_kills.py``, backups and single moments of compaction in ``test_upkeep.py``.
"""

from __future__ import annotations

import random
import sys
from contextlib import closing

import pytest

from user_learner.edits.log import EditLog
from user_learner.replay import StoreReader, StoreWriter
from user_learner.replay.index import connect
from user_learner.replay.maintenance import verify
from user_learner.replay.packed import NEW_SUFFIX
from user_testing.processes import killed_after
from user_testing.worlds.replay import IMAGE_SCHEMA, QUICK, Actor, Plan, fill, joined, same_columns

KILLS = 72
STORE = QUICK.replace(segment_bytes=1)  # 1024 rows

#: Says that it begins, and goes on for ever; each further line that it prints is acknowledged. Compression and
#: retention by rule work in a process apart, as in the replay node; after ``alone`` seconds that one is killed by
#: itself.
_WORK = """
import os, signal, sys, threading
from user_core.errors import StoreError
from user_core.types import EpisodeKey
from user_learner.edits.entries import Edit
from user_learner.edits.log import EditLog
from user_learner.replay import RetentionConfig, StoreWriter
from user_learner.replay.config import CompressionConfig
from user_learner.upkeep.apart import Apart
from user_learner.upkeep.compression import compress, decompress, waits
from user_learner.upkeep.retention import retain, survives_thinning
from user_learner.upkeep.tiering import bring_back, move_old
from user_testing.worlds.replay import QUICK
what, store, slow, rows, turn, alone = sys.argv[1:]
apart = Apart()
if what in ("compress", "compact"):  # it has read its modules before the clock runs
    apart.call(waits, store, CompressionConfig(images="raw"))
    apart.call(survives_thinning, EpisodeKey("a", 1, 1), 2)
    child = apart.call(os.getpid)
    timer = threading.Timer(float(alone), os.kill, (child, signal.SIGKILL))
    timer.daemon = True
    timer.start()
print("ready", flush=True)
if what == "compress":
    while True:
        try:
            apart.call(compress, store, CompressionConfig(raw_bytes=0))
        except StoreError as error:
            assert "ended with -9" in str(error), error
            continue
        decompress(store)
elif what == "tier":
    while True:
        move_old(store, slow, 0)
        bring_back(store)
elif what == "edit":
    log, number = EditLog(store), 0
    while True:
        number += 1
        tag = f"t{turn}n{number}"
        log.append(Edit.tag([EpisodeKey("actor1", 1, 0)], [tag]))
        print(tag, flush=True)
else:
    with StoreWriter(store, config=QUICK.replace(segment_bytes=1)) as writer:
        policy = RetentionConfig(max_rows=int(rows), keep=("successes",), thin=4)
        while True:
            if what == "compact":
                try:
                    retain(writer, policy, apart=apart)
                except StoreError as error:
                    assert "ended with -9" in str(error), error
            else:
                retain(writer, RetentionConfig(max_rows=policy.max_rows))
            policy = policy.replace(max_rows=max(1, policy.max_rows - 100))
"""


def killed(what, store, slow, rows, turn, rng):
    """Begin some upkeep, and kill it at a random moment of it; what it had acknowledged."""
    alone = rng.uniform(0, 0.2) if turn % 12 < 6 else 300
    words = map(str, (what, store, slow, rows, turn, alone))
    ready, *told = killed_after([sys.executable, "-c", _WORK, *words], rng.uniform(0, 0.3))
    assert ready == "ready\n"
    return told


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_seventy_kills_of_what_looks_after_a_store(tmp_path):
    store, slow, rng = tmp_path / "store", tmp_path / "slow", random.Random(17)
    actor, chunks, tags = Actor(1, schema=IMAGE_SCHEMA, chunk_rows=100), [], set()
    for turn in range(KILLS):
        with StoreWriter(store, config=STORE) as writer:
            assert writer.warnings == []
            if turn % 6 < 2:
                chunks += fill(writer, actor, [Plan(300, terminated=n % 3 == 0) for n in range(6)])
        what = ("compress", "edit", "compact", "tier", "compress", "retain")[turn % 6]
        with closing(StoreReader(store)) as reader:
            before = {e.key for e in reader.episodes() if e.extents}
            rows = int(reader.tables.segments[:, 2].sum())
        tags |= {tag.strip() for tag in killed(what, store, slow, rows, turn, rng)}
        with StoreWriter(store, config=STORE) as writer:
            assert writer.warnings == []
        report = verify(store)
        assert report.ok, report.errors
        wanted = joined(chunks)
        with closing(StoreReader(store)) as reader:
            found = [e for e in reader.episodes() if e.extents]
            assert len({e.key for e in found}) == len(found)
            if what in ("compress", "edit", "tier"):
                assert {e.key for e in found} == before
            for episode in found:
                if sum(extent[3] for extent in episode.extents) == episode.rows:
                    assert same_columns(reader.read_episode(episode), wanted[episode.key])
        said = {tag for edit in EditLog(store).edits for tag in edit.values.get("add", ())}
        assert tags <= said
    assert len(list(store.rglob(f"*{NEW_SUFFIX}"))) <= 1
    with closing(connect(store, writable=False)) as index:
        gone, rows = index.execute("SELECT count(*), sum(rows) FROM retired").fetchone()
    print(f"{KILLS} kills, {len(chunks)} chunks, {len(tags)} edits acknowledged; retention rewrote or "
          f"dropped {gone} segments with {rows} rows that went")  # fmt: skip
    assert gone
