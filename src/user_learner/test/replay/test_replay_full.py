"""Full disks: nothing is lost or torn, and it goes on once there is room."""

import os
import resource
import subprocess
from contextlib import contextmanager

import pytest

from user_core.errors import StoreError, StoreFull
from user_learner.replay import ChunkStatus, StoreReader, StoreWriter
from user_learner.replay.maintenance import verify
from user_testing.worlds.replay import FSYNC, IMAGE_SCHEMA, QUICK, Actor, Plan, assert_holds, fill


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 8 MiB."""
    if os.geteuid() != 0:
        pytest.skip("mounting a small file system needs root")
    path = tmp_path / "disk"
    path.mkdir()
    mount = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", path], capture_output=True, text=True
    )
    if mount.returncode:
        pytest.skip(f"cannot mount a small file system here: {mount.stderr.strip()}")
    try:
        yield path
    finally:
        subprocess.run(["umount", "-l", path], check=True)


def deliver(writer, chunks, acknowledged):
    """Send from behind the acknowledged number on, as an outbox does."""
    for chunk in chunks[acknowledged:]:
        assert writer.append(chunk).status in (ChunkStatus.STAGED, ChunkStatus.DUPLICATE)
    writer.commit()


@pytest.mark.root
@pytest.mark.parametrize("ballast_bytes", [0, 3_000_000, 7_600_000, 7_900_000, 8_300_000])
def test_a_full_disk_stops_the_store_and_room_lets_it_go_on(small_disk, ballast_bytes):
    ballast = small_disk / "ballast"
    actor = Actor(1, schema=IMAGE_SCHEMA, chunk_rows=20)
    chunks = [chunk for _ in range(20) for chunk in actor.chunks(Plan(90))]
    config = FSYNC.replace(commit_bytes=300_000, segment_bytes=1)
    path = small_disk / "store"
    with StoreWriter(path, IMAGE_SCHEMA, config) as writer:
        fill(writer, Actor(2, schema=IMAGE_SCHEMA), [Plan(3)])
        blocks = os.statvfs(small_disk)
        room = blocks.f_bavail * blocks.f_frsize
        ballast.write_bytes(bytes(min(ballast_bytes, max(0, room - 4096 * (ballast_bytes % 7)))))
        with pytest.raises(StoreFull) as caught:
            deliver(writer, chunks, 0)
        assert caught.value.code == "store_full"
        acks = {ack.producer: ack.sequence for ack in writer.acknowledged()}
        assert acks["actor2"] == 1
        report = verify(path)
        assert report.ok, report.errors
        with pytest.raises(StoreFull):  # it stays full, and stays whole
            deliver(writer, chunks, acks.get("actor1", 0))
        reader = StoreReader(path)
        held = {episode.key: episode.rows for episode in reader.episodes()}
        reader.close()
        assert sum(held.values()) == 4 + sum(len(c) for c in chunks[: acks.get("actor1", 0)])
        subprocess.run(["mount", "-o", "remount,size=64m", small_disk], check=True)
        acks = {ack.producer: ack.sequence for ack in writer.acknowledged()}
        deliver(writer, chunks, acks.get("actor1", 0))
    report = verify(path)
    assert report.ok, report.errors
    reader = StoreReader(path)
    assert_holds(reader, [*Actor(2, schema=IMAGE_SCHEMA).chunks(Plan(3)), *chunks])
    reader.close()


@contextmanager
def largest_file(nbytes):
    """No file may become larger: as a quota, or a disk that is full, for what is behind it."""
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (nbytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))


@pytest.mark.parametrize("limit_bytes", [30_000, 60_000, 200_000])
def test_a_write_that_fails_half_way_leaves_nothing_torn(tmp_path, limit_bytes):
    actor = Actor(1, schema=IMAGE_SCHEMA, chunk_rows=7)
    chunks = actor.chunks(Plan(100))
    config = QUICK.replace(commit_bytes=1)
    with StoreWriter(tmp_path, config=config) as writer:
        for chunk in chunks[:2]:
            writer.append(chunk)
        # SQLite has no word for a file that is too large, and says that its disk failed
        kind = StoreError if limit_bytes == 200_000 else StoreFull
        with largest_file(limit_bytes), pytest.raises(kind, match="cannot"):
            deliver(writer, chunks, 0)
        before = writer.acknowledged()[0].sequence
        assert before >= 2
        assert verify(tmp_path).ok
        with largest_file(limit_bytes), pytest.raises(kind):
            deliver(writer, chunks, 0)
        deliver(writer, chunks, before)
    reader = StoreReader(tmp_path)
    assert_holds(reader, chunks)
    reader.close()
    assert verify(tmp_path).ok


def test_some_room_is_left_on_the_disk(tmp_path):
    chunks = Actor().chunks(Plan(3))
    free = os.statvfs(tmp_path)
    config = QUICK.replace(min_free_bytes=free.f_bavail * free.f_frsize * 2)
    with StoreWriter(tmp_path, config=config) as writer:
        with pytest.raises(StoreFull, match="min_free_bytes"):
            writer.append(chunks[0])
        assert writer.commit() == []
        ack = writer.refusal(chunks[0], StoreFull("disk"))
        assert (ack.refused, ack.error_code) == (1, "store_full")
