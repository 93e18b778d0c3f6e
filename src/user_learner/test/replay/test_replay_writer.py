import os
import re
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from user_core.errors import SchemaMismatch, StoreError, StoreFull
from user_core.specs import ArraySpec, RobotSpec
from user_core.types import ChunkId, EpisodeKey, EpisodeSource, TrajectorySchema
from user_learner.replay import ChunkStatus, StoreReader, StoreWriter
from user_learner.replay.maintenance import verify
from user_testing.worlds.replay import (
    FSYNC,
    IMAGE_SCHEMA,
    QUICK,
    SCHEMA,
    Actor,
    Plan,
    assert_holds,
    fill,
    same_columns,
)


@pytest.fixture
def writer(tmp_path):
    with StoreWriter(tmp_path / "store", config=QUICK) as writer:
        yield writer


@pytest.fixture
def chunks():
    return [*Actor().chunks(Plan(10, terminated=True))]


def receipts(writer, chunks):
    return [writer.append(chunk).status for chunk in chunks]


@pytest.mark.parametrize("config", [QUICK, FSYNC])
@pytest.mark.parametrize("schema", [SCHEMA, IMAGE_SCHEMA])
def test_what_goes_in_comes_out(tmp_path, config, schema):
    actors = [Actor(number, schema=schema, chunk_rows=3 + number) for number in range(3)]
    plans = [Plan(7), Plan(1, terminated=True), Plan(25, humans=frozenset({3, 4, 9}))]
    with StoreWriter(tmp_path, config=config) as writer:
        streams = [[c for plan in plans for c in actor.chunks(plan)] for actor in actors]
        appended = []
        while any(streams):  # the producers' chunks arrive interleaved
            for stream in streams:
                if stream:
                    appended.append(stream.pop(0))
                    assert writer.append(appended[-1]).status == ChunkStatus.STAGED
        acks = {ack.producer: ack.sequence for ack in writer.commit()}
        assert acks == {actor.name: actor.sequence for actor in actors}
        reader = StoreReader(tmp_path)
        assert_holds(reader, appended)
        assert reader.schema.hash == schema.hash
        for episode in reader.episodes():  # rows of an episode lie next to each other
            assert len(episode.extents) == 1
            assert episode.result.length == episode.rows - 1
        reader.close()
    assert verify(tmp_path).ok


def test_nothing_is_acknowledged_or_seen_before_its_commit(writer, chunks):
    reader = None
    for chunk in chunks:
        answer = writer.append(chunk)
        assert answer.ack.sequence == 0
        assert answer.ack.store == writer.store
        reader = reader or StoreReader(writer.path)
        assert not reader.refresh() or not len(reader.tables.extents)
    (ack,) = writer.commit()
    assert ack.sequence == len(chunks)
    assert reader.refresh()
    assert reader.tables.extents[0, 5] == 11
    assert writer.commit() == []
    reader.close()


def test_an_acknowledgement_tells_when_its_chunk_came_and_how_long_that_is_ago(writer, chunks):
    for chunk in chunks[:-1]:
        writer.append(chunk)
    before_ns = time.monotonic_ns()
    writer.append(chunks[-1])
    after_ns = time.monotonic_ns()
    time.sleep(0.02)
    (ack,) = writer.commit()
    assert before_ns <= ack.arrived_ns <= after_ns
    assert 20_000_000 <= ack.held_ns <= time.monotonic_ns() - ack.arrived_ns
    (again,) = writer.acknowledged()
    assert again.arrived_ns == ack.arrived_ns
    assert again.held_ns > ack.held_ns
    path = writer.path
    writer.close()
    with StoreWriter(path, config=QUICK) as opened:  # nobody knows any more
        (ack,) = opened.acknowledged()
        assert (ack.sequence, ack.arrived_ns, ack.held_ns) == (3, 0, 0)


def test_a_chunk_that_comes_again_is_recognised(writer, chunks):
    receipts(writer, chunks)
    assert receipts(writer, chunks) == [ChunkStatus.DUPLICATE] * 3  # staged only
    writer.commit()
    answer = writer.append(chunks[1])
    assert answer.status == ChunkStatus.DUPLICATE
    assert answer.ack.sequence == 3
    path = writer.path
    writer.close()
    with StoreWriter(path, config=QUICK) as again:
        assert receipts(again, chunks) == [ChunkStatus.DUPLICATE] * 3
        assert [ack.sequence for ack in again.acknowledged()] == [3]
    reader = StoreReader(path)
    assert_holds(reader, chunks)
    reader.close()


def test_chunks_that_come_early_wait_and_are_not_acknowledged(writer):
    chunks = Actor(chunk_rows=2).chunks(Plan(11))
    first, *rest = chunks
    assert receipts(writer, rest[::-1]) == [ChunkStatus.EARLY] * 5
    assert writer.commit() == []
    answer = writer.append(first)
    assert answer.status == ChunkStatus.STAGED
    assert [chunk.id.sequence for chunk in answer.staged] == [1, 2, 3, 4, 5, 6]  # once each
    assert writer.append(rest[0]).staged == ()
    (ack,) = writer.commit()
    assert ack.sequence == 6
    reader = StoreReader(writer.path)
    assert_holds(reader, chunks)
    reader.close()


def test_what_waited_and_finds_no_room_leaves_the_one_before_it_stored(writer, monkeypatch):
    """The one that had just come was stored, and its answer said that the disk was full: nobody counted it."""
    first, second, third = Actor(chunk_rows=2).chunks(Plan(5))
    assert receipts(writer, [third, second]) == [ChunkStatus.EARLY] * 2
    with monkeypatch.context() as patched:
        written = []

        def require_space(store, nbytes):
            if len(written) == 2:
                raise StoreFull("disk", got="0 bytes free", expected=f"{nbytes}")

        write = writer._write
        patched.setattr(writer, "_write", lambda *given: write(*given) or written.append(given))
        patched.setattr("user_learner.replay.writer.require_space", require_space)
        answer = writer.append(first)
    assert answer.status == ChunkStatus.STAGED
    assert [chunk.id.sequence for chunk in answer.staged] == [1, 2]
    (ack,) = writer.commit()
    assert ack.sequence == 2
    assert [chunk.id.sequence for chunk in writer.append(third).staged] == [3]


def test_early_chunks_are_held_within_a_limit_and_come_again(tmp_path):
    chunks = Actor(chunk_rows=2).chunks(Plan(19))
    limit = 3 * (chunks[0].nbytes + 1024)
    with StoreWriter(tmp_path, config=QUICK.replace(reorder_bytes=limit)) as writer:
        receipts(writer, chunks[1:][::-1])  # of these the three that come soonest are held
        writer.append(chunks[0])
        assert writer.commit()[0].sequence == 4
        assert set(receipts(writer, chunks)) == {ChunkStatus.DUPLICATE, ChunkStatus.STAGED}
        assert writer.commit()[0].sequence == 10


def changed(chunk, **columns):
    return replace(chunk, columns={**chunk.columns, **columns})


def with_value(chunk, name, row, value):
    column = chunk.columns[name].copy()
    column[row] = value
    return changed(chunk, **{name: column})


REFUSALS = {
    "not a number": (lambda c: with_value(c, "action", 1, np.nan), "spec", "'action'.*row 1"),
    "infinite reward": (lambda c: with_value(c, "reward", 0, np.inf), "spec", "'reward'"),
    "shape": (
        lambda c: changed(c, action=np.zeros((4, 3), np.float32)),
        "schema_mismatch",
        r"action.shape: '\[2\]' became '\[3\]'",
    ),
    "dtype": (
        lambda c: changed(c, reward=c.columns["reward"].astype("float64")),
        "schema_mismatch",
        "reward.dtype: 'float32' became 'float64'",
    ),
    "missing": (
        lambda c: replace(c, columns={k: v for k, v in c.columns.items() if k != "action"}),
        "schema_mismatch",
        "action: only in the first",
    ),
    "more": (
        lambda c: changed(c, **{"observation.torque": np.zeros((4, 7), np.float32)}),
        "schema_mismatch",
        "observation.torque: only in the second",
    ),
    "rows": (lambda c: changed(c, reward=np.zeros(3, np.float32)), "spec", "column"),
    "hash": (lambda c: replace(c, schema_hash="0" * 64), "schema_mismatch", "schema hash"),
    "who": (lambda c: with_value(c, "acted_by", 0, 9), "store", "acted_by.*9"),
    "end": (lambda c: with_value(c, "terminated", 1, True), "store", "after the end"),
    "final": (lambda c: with_value(c, "final", 0, True), "store", "after the end"),
    "producer": (
        lambda c: replace(c, episode=EpisodeKey("somebody", 1, 0)), "store", "same producer",
    ),
    "first row": (lambda c: replace(c, first_row=-1), "store", "first_row"),
    "first row far": (lambda c: replace(c, first_row=2**63), "store", "first_row"),
    "number": (lambda c: replace(c, id=ChunkId("actor1", 1, 0)), "store", "sequence"),
    "incarnation": (lambda c: replace(c, id=ChunkId("actor1", -1, 2)), "store", "incarnation"),
    "overlap": (lambda c: replace(c, first_row=3), "store", "stored already"),
    "source": (lambda c: replace(c, source=EpisodeSource.EVALUATION), "store", "source"),
    "name": (lambda c: replace(c, robot="x" * 300), "store", "robot"),
}  # fmt: skip


@pytest.mark.parametrize("kind", REFUSALS)
def test_what_cannot_be_stored_is_refused_with_the_reason(writer, chunks, kind):
    change, code, words = REFUSALS[kind]
    writer.append(chunks[0])
    answer = writer.append(change(chunks[1]))
    assert answer.status == ChunkStatus.REFUSED
    assert answer.ack.error_code == code
    assert answer.ack.refused == change(chunks[1]).id.sequence
    assert re.search(words, answer.ack.error), answer.ack.error
    assert receipts(writer, chunks[1:]) == [ChunkStatus.STAGED] * 2  # nothing is left of it
    writer.commit()
    reader = StoreReader(writer.path)
    assert_holds(reader, chunks)
    reader.close()


def test_a_chunk_that_is_too_large_is_refused(tmp_path, chunks):
    with StoreWriter(tmp_path, config=QUICK.replace(max_chunk_bytes=100)) as writer:
        answer = writer.append(chunks[0])
        assert answer.status == ChunkStatus.REFUSED
        assert "at most" in answer.ack.error
    with StoreWriter(tmp_path, config=QUICK.replace(max_chunk_rows=3)) as writer:
        assert writer.append(chunks[0]).status == ChunkStatus.REFUSED


def test_rows_after_the_end_of_an_episode_are_refused(writer):
    actor = Actor(chunk_rows=4)
    chunks = actor.chunks(Plan(8, terminated=True))  # 4 steps, 4 steps, the final observation
    late = replace(chunks[1], id=ChunkId("actor1", 1, 3), first_row=8)
    assert receipts(writer, [*chunks[:2], late]) == [ChunkStatus.STAGED] * 2 + [ChunkStatus.REFUSED]
    assert writer.append(chunks[2]).status == ChunkStatus.STAGED
    after = replace(chunks[2], id=ChunkId("actor1", 1, 4), first_row=9, result=None)
    answer = writer.append(after)
    assert answer.status == ChunkStatus.REFUSED
    assert "after its end" in answer.ack.error


def test_a_chunk_without_rows_brings_a_result_or_stands_for_a_refused_one(writer):
    actor = Actor(chunk_rows=4)
    chunks = actor.chunks(Plan(11))
    hole = actor.empty(chunks[1])
    assert receipts(writer, [chunks[0], hole, chunks[2]]) == [ChunkStatus.STAGED] * 3
    closing = actor.empty(actor.chunks(Plan(1))[0])  # an episode that never got a row
    assert writer.append(closing).status == ChunkStatus.STAGED
    writer.commit()
    reader = StoreReader(writer.path)
    first, second = reader.episodes()
    assert (first.rows, first.gaps, len(first.extents)) == (12, 4, 2)
    assert (second.rows, second.result.outcome.name) == (0, "TIMEOUT")
    reader.close()
    report = verify(writer.path)
    assert report.ok
    assert any("4 rows never came" in line for line in report.warnings)


def test_a_chunk_without_rows_can_be_all_that_a_commit_has(writer):
    """As when an actor comes back and closes the episode that its end cut off."""
    actor = Actor(chunk_rows=12)
    first, last = actor.chunks(Plan(11, final=False)), actor.chunks(Plan(1))[0]
    receipts(writer, first)
    writer.commit()
    (before,) = writer.acknowledged()
    assert writer.append(actor.empty(last)).status is ChunkStatus.STAGED
    (ack,) = writer.commit()
    assert ack.sequence == before.sequence + 1
    assert verify(writer.path).ok


def test_a_store_takes_the_schema_of_its_first_chunk_or_the_one_it_is_given(tmp_path, chunks):
    with StoreWriter(tmp_path / "a", config=QUICK) as writer:
        assert writer.schema is None
        odd = replace(chunks[0], columns={"reward": np.zeros(1, np.float32)})
        assert writer.append(odd).status == ChunkStatus.REFUSED
        assert writer.schema is None
        writer.append(chunks[0])
        assert writer.schema.hash == SCHEMA.hash
    with StoreWriter(tmp_path / "b", SCHEMA, QUICK) as writer:
        image = Actor(schema=IMAGE_SCHEMA).chunks(Plan(3))[0]
        answer = writer.append(image)
        assert answer.status == ChunkStatus.REFUSED
        assert answer.ack.error_code == "schema_mismatch"
        assert "observation.image_wrist: only in the second" in answer.ack.error
    with StoreWriter(tmp_path / "b", config=QUICK) as writer:
        assert writer.schema.to_dict() == SCHEMA.to_dict()  # bounds, units, names as given
    with pytest.raises(SchemaMismatch, match="image_wrist: only in the second"):
        StoreWriter(tmp_path / "b", IMAGE_SCHEMA, QUICK)
    StoreWriter(tmp_path / "b", SCHEMA, QUICK).close()  # the lock was given back


def test_strange_columns_are_kept_as_they_are(tmp_path):
    spec = RobotSpec(
        "odd",
        {
            "empty": ArraySpec((0,)),
            "scalar": ArraySpec((), "float64"),
            "with/slash": ArraySpec((4097,), "uint8"),
            "half": ArraySpec((3,), "float16"),
            "flags": ArraySpec((5,), "bool"),
            "deep": ArraySpec((2, 1, 3, 2), "int16"),
        },
        ArraySpec((1100,)),  # an action with a file of its own
    )
    schema, rng = TrajectorySchema.of(spec), np.random.default_rng(0)
    rows = {n: np.stack([s.sample(rng) for _ in range(4)]) for n, s in schema.columns.items()}
    for name in ("terminated", "truncated", "final"):
        rows[name] = np.zeros(4, bool)
    rows["acted_by"] = rows["reward_source"] = np.zeros(4, np.uint8)
    chunk = replace(Actor().chunks(Plan(4))[0], columns=rows, schema_hash=schema.hash)
    with StoreWriter(tmp_path, schema, QUICK) as writer:
        assert writer.append(chunk).status == ChunkStatus.STAGED
    reader = StoreReader(tmp_path)
    (episode,) = reader.episodes()
    assert same_columns(reader.read_episode(episode), rows)
    reader.close()


def test_episodes_go_on_in_the_next_segment(tmp_path):
    config = QUICK.replace(segment_bytes=1)  # 1024 rows, the smallest there is
    with StoreWriter(tmp_path, config=config) as writer:
        one, two = Actor(1, chunk_rows=100), Actor(2, chunk_rows=70)
        chunks = fill(writer, one, [Plan(900), Plan(2500)]) + fill(writer, two, [Plan(1500)])
    reader = StoreReader(tmp_path)
    assert_holds(reader, chunks)
    assert [len(episode.extents) for episode in reader.episodes()] == [1, 4, 2]
    reader.close()
    assert verify(tmp_path).ok
    with StoreWriter(tmp_path, config=config) as writer:  # and after a restart
        chunks += fill(writer, two, [Plan(2000)])
    reader = StoreReader(tmp_path)
    assert_holds(reader, chunks)
    reader.close()


def test_chunks_can_be_appended_while_a_commit_is_under_way(tmp_path):
    config = FSYNC.replace(commit_bytes=2000)
    with StoreWriter(tmp_path, config=config) as writer:
        actors = [Actor(number, chunk_rows=2) for number in range(4)]
        streams = [[c for _ in range(30) for c in actor.chunks(Plan(9))] for actor in actors]

        def send(stream):
            for chunk in stream:
                assert writer.append(chunk).status == ChunkStatus.STAGED

        threads = [threading.Thread(target=send, args=(stream,)) for stream in streams]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        writer.commit()
        assert {a.producer: a.sequence for a in writer.acknowledged()} == {
            actor.name: actor.sequence for actor in actors
        }
    reader = StoreReader(tmp_path)
    assert_holds(reader, [chunk for stream in streams for chunk in stream])
    reader.close()
    assert verify(tmp_path).ok


def test_what_was_not_committed_is_forgotten(tmp_path, chunks):
    writer = StoreWriter(tmp_path, config=QUICK)
    writer.append(chunks[0])
    writer.commit()
    writer.append(chunks[1])
    writer.close()
    with StoreWriter(tmp_path, config=QUICK) as writer:
        assert [ack.sequence for ack in writer.acknowledged()] == [1]
        assert receipts(writer, chunks) == [
            ChunkStatus.DUPLICATE,
            ChunkStatus.STAGED,
            ChunkStatus.STAGED,
        ]
    reader = StoreReader(tmp_path)
    assert_holds(reader, chunks)
    reader.close()


def test_one_writer_at_a_time(tmp_path, writer):
    with pytest.raises(StoreError, match="this one"):
        StoreWriter(writer.path)
    code = f"from user_learner.replay import StoreWriter; StoreWriter({str(writer.path)!r})"
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert other.returncode != 0
    assert f"is in use: got a lock held by process {os.getpid()}" in other.stderr


def test_the_lock_dies_with_its_process(tmp_path):
    code = (
        f"import time; from user_learner.replay import StoreWriter; "
        f"w = StoreWriter({str(tmp_path)!r}); print('open', flush=True); time.sleep(60)"
    )
    other = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    try:
        assert other.stdout.readline() == "open\n"
        with pytest.raises(StoreError, match=f"process {other.pid}"):
            StoreWriter(tmp_path)
    finally:
        other.kill()
        other.wait()
        other.stdout.close()
    StoreWriter(tmp_path, config=QUICK).close()


def test_a_directory_that_is_no_store(tmp_path):
    with pytest.raises(StoreError, match="no replay store"):
        StoreReader(tmp_path)
    assert list(Path(tmp_path).iterdir()) == []
    StoreWriter(tmp_path / "replay", config=QUICK).close()  # the folder of a run
    with pytest.raises(StoreError, match=f"There is {tmp_path / 'replay'}"):
        StoreReader(tmp_path)
