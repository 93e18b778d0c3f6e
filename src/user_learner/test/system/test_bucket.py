"""Old segments in a bucket: a real server that speaks S3 (moto's), killed processes, an endpoint that is down."""

from __future__ import annotations

import random
import sys
import threading
import time
from contextlib import closing

import numpy as np
import pytest

from user_core.errors import ConfigError, StoreCorrupt, StoreError
from user_core.reasons import BUCKET_AWAY
from user_learner.cli.data import main
from user_learner.cli.replay import main as replay_command
from user_learner.replay import RetentionConfig, StoreReader, StoreWriter
from user_learner.replay import bucket as segment_bucket
from user_learner.replay.bucket import (
    LEAVING_SUFFIX,
    MARK,
    bring,
    fetch,
    in_bucket,
    missing,
    set_limit,
)
from user_learner.replay.index import INDEX_NAME
from user_learner.replay.maintenance import verify
from user_learner.replay.segments import LEAVING, SEGMENTS, check_sizes
from user_learner.sampling import ReplaySource, SamplerConfig, fetching
from user_learner.sampling.fetching import Fetcher
from user_learner.upkeep import retention
from user_learner.upkeep.backup import backup, restore
from user_learner.upkeep.compression import compress
from user_learner.upkeep.tiering import bring_back, move_old
from user_testing.processes import killed_after
from user_testing.waiting import wait_until
from user_testing.worlds.replay import QUICK, Actor, Plan, assert_same, contents, fill

boto3 = pytest.importorskip("boto3")
server = pytest.importorskip("moto.server")

SMALL = QUICK.replace(segment_bytes=1)  # 1024 rows
URL = "s3://archive/of/robots"


class Bucket:
    """A server with one bucket, and what is in it."""

    def __init__(self) -> None:
        self.server = server.ThreadedMotoServer("127.0.0.1", 0, verbose=False)
        self.server.start()
        self.endpoint = "http://{}:{}".format(*self.server.get_host_and_port())
        self.client = boto3.client(
            "s3", endpoint_url=self.endpoint, aws_access_key_id="a", aws_secret_access_key="b",
            region_name="us-east-1",
        )  # fmt: skip

    def empty(self) -> None:
        for key in self.names():
            self.client.delete_object(Bucket="archive", Key=key)

    def names(self) -> list[str]:
        found = self.client.list_objects_v2(Bucket="archive", MaxKeys=1000)
        return [one["Key"] for one in found.get("Contents", ())]


@pytest.fixture(scope="module")
def _served():
    made = Bucket()
    made.client.create_bucket(Bucket="archive")
    yield made
    made.server.stop()


@pytest.fixture
def bucket(_served, monkeypatch):
    _served.empty()
    monkeypatch.setenv("AWS_ENDPOINT_URL", _served.endpoint)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "nobody")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "a secret of nobody")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    return _served


@pytest.fixture
def down(monkeypatch):
    """Says from when on nothing answers."""
    return lambda: monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")


def make(path, episodes=40, rows=200):
    actor = Actor(1)
    with StoreWriter(path, config=SMALL) as writer:
        fill(writer, actor, [Plan(rows)] * episodes)
    return actor


def directories(store):
    return sorted(path for path in (store / SEGMENTS).iterdir() if path.is_dir())


def away(store):
    return [path for path in directories(store) if missing(path)]


def test_segments_in_a_bucket_are_read_as_before(tmp_path, bucket):
    store = tmp_path / "store"
    actor = make(store)
    before = contents(store)
    report = move_old(store, URL, 0, fetched_bytes=0)
    assert report.moved > 3 and report.here == 1 and report.nbytes
    assert len(away(store)) == report.moved == report.there
    assert all(key.startswith("of/robots/") for key in bucket.names())
    assert move_old(store, URL, 0, fetched_bytes=0).moved == 0
    assert_same(before, contents(store))  # they come one by one, and go again
    assert len(away(store)) == report.moved - 1
    assert verify(store).ok
    with StoreWriter(store, config=SMALL) as writer:
        assert writer.warnings == []
        fill(writer, actor, [Plan(200)] * 8)
        kept = {key.split("/")[-2] for key in bucket.names()}
        gone = writer.retain(RetentionConfig(max_rows=5000))
    assert gone and verify(store).ok
    move_old(store, URL, 10**9, fetched_bytes=0)  # what was dropped goes there, too
    left = {key.split("/")[-2] for key in bucket.names()}
    assert {name[:8] for name in kept - left} == {f"{one.segment:08d}" for one in gone}
    assert not list((store / LEAVING).iterdir())
    after = contents(store)
    assert bring_back(store).moved == len(left) and not bucket.names()
    assert not list(store.rglob(MARK)) and not away(store)
    assert_same(after, contents(store))
    assert b"secret of nobody" not in b"".join(
        file.read_bytes() for file in store.rglob("*") if file.is_file()
    )


def test_a_wrong_endpoint_or_bucket_is_said_before_there_is_anything_to_move(
    tmp_path, bucket, down
):
    store = tmp_path / "store"
    make(store, episodes=1)
    assert main(["tier", str(store), URL, "--keep-mb", "1000"]) == 0 and not bucket.names()
    with pytest.raises(StoreError, match="Make the bucket first"):
        move_old(store, "s3://another", 10**9)
    down()
    with pytest.raises(StoreError, match="Is the endpoint up") as first:
        move_old(store, URL, 10**9)
    with pytest.raises(StoreError) as again:
        move_old(store, URL, 10**9)
    assert str(again.value) == str(first.value), "a node says once what is the same"


def test_a_backup_and_a_restored_store_are_whole_without_the_bucket(tmp_path, bucket, down):
    store = tmp_path / "store"
    make(store)
    before = contents(store)
    move_old(store, URL, 0, fetched_bytes=0)
    backup(store, tmp_path / "backup")
    down()
    assert verify(tmp_path / "backup").ok and restore(tmp_path / "backup", tmp_path / "new").ok
    assert_same(before, contents(tmp_path / "new"))


def test_an_index_that_is_lost_is_built_again_once_all_is_here(tmp_path, bucket):
    store = tmp_path / "store"
    make(store)
    before = contents(store)
    move_old(store, URL, 0, fetched_bytes=0)
    (store / INDEX_NAME).unlink()
    for path in store.glob(INDEX_NAME + "-*"):
        path.unlink()
    with pytest.raises(StoreError, match="--back"):
        StoreWriter(store, config=SMALL)
    assert main(["tier", str(store), "--back"]) == 0
    with StoreWriter(store, config=SMALL):
        pass
    assert_same(before, contents(store))


def test_compressed_columns_move_and_moved_ones_stay_as_they_are(tmp_path, bucket):
    from user_learner.replay.config import CompressionConfig
    from user_testing.worlds.replay import IMAGE_SCHEMA

    store = tmp_path / "store"
    with StoreWriter(store, config=SMALL) as writer:
        fill(writer, Actor(1, schema=IMAGE_SCHEMA), [Plan(300)] * 8)
    before = contents(store)
    compress(store, CompressionConfig(raw_bytes=0))
    assert move_old(store, URL, 0, fetched_bytes=10**10).moved
    assert compress(store, CompressionConfig(raw_bytes=0)).segments == 0
    move_old(store, URL, 0, fetched_bytes=0)
    assert away(store)
    assert_same(before, contents(store))


def test_what_the_bucket_has_is_not_believed_blindly(tmp_path, bucket):
    store = tmp_path / "store"
    make(store)
    move_old(store, URL, 0, fetched_bytes=0)
    path = away(store)[0]
    name = next(iter(in_bucket(path).files))
    key = next(key for key in bucket.names() if f"/{path.name}-" in key and key.endswith(name))
    whole = bucket.client.get_object(Bucket="archive", Key=key)["Body"].read()
    bucket.client.put_object(Bucket="archive", Key=key, Body=whole[:-1] + b"?")
    with pytest.raises(StoreCorrupt, match="SHA-256"):
        fetch(path)
    assert missing(path) and not list(path.glob(".*"))
    assert any(path.name in line or "segment" in line for line in verify(store).errors)
    bucket.client.delete_object(Bucket="archive", Key=key)
    with pytest.raises(StoreError, match="from a backup"):
        fetch(path)
    bucket.client.put_object(Bucket="archive", Key=key, Body=whole)
    assert fetch(path) and verify(store).ok


def test_what_cannot_be_reached_is_not_called_damaged(tmp_path, bucket, down, capsys):
    store = tmp_path / "store"
    make(store)
    move_old(store, URL, 0, fetched_bytes=0)
    gone = len(away(store))
    down()
    report = verify(store)
    assert not report.ok and not report.errors and not report.damages
    assert len(report.unread) == gone and "AWS_ENDPOINT_URL" in report.unread[0]
    assert replay_command(["verify", str(store), "--repair"]) == 2
    assert "damaged" not in capsys.readouterr().out.replace("nothing that was read is damaged", "")
    with closing(StoreReader(store)) as reader:
        assert not reader.tables.damages


def test_files_that_go_back_to_the_bucket_meanwhile_are_no_damage(tmp_path, bucket):
    """Another process makes room between the look at what is away and that at the sizes."""
    store = tmp_path / "store"
    make(store)
    move_old(store, URL, 0, fetched_bytes=0)
    with closing(StoreReader(store)) as reader:
        path = away(store)[0]
        assert check_sizes(path, reader.layout, 1, 0) == ""
        assert fetch(path)
        name = next(iter(in_bucket(path).files))
        (path / name).write_bytes(b"")
        assert name in check_sizes(path, reader.layout, 1, 0)


def test_what_was_to_be_removed_there_and_moved_again_stays(tmp_path, bucket):
    """Each segment has one place: what is late to be removed there must not take the new copy with it."""
    store = tmp_path / "store"
    make(store)
    before = contents(store)
    move_old(store, URL, 0, fetched_bytes=10**10)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(segment_bucket.Bucket, "remove", _refused)
        bring_back(store)
        assert list((store / LEAVING).iterdir())
        move_old(store, URL, 0, fetched_bytes=0)
    move_old(store, URL, 0, fetched_bytes=0)
    assert away(store) and not list((store / LEAVING).iterdir())
    assert_same(before, contents(store))


def _refused(bucket, prefix):
    raise StoreError(prefix, got="AccessDenied", expected="to be allowed")


def test_what_goes_as_a_whole_is_not_brought_first(tmp_path, bucket, monkeypatch):
    store, brought = tmp_path / "store", []
    make(store)
    move_old(store, URL, 0, fetched_bytes=0)
    monkeypatch.setattr(retention, "bring", lambda path: (brought.append(path), bring(path)))
    with StoreWriter(store, config=SMALL) as writer:
        gone = retention.retain(writer, RetentionConfig(max_rows=4000, keep=("tagged",)))
    assert len(gone) > 3 and len(brought) == 1  # an episode begins in it that stays
    assert verify(store).ok


def test_an_endpoint_that_is_none_is_said(tmp_path, bucket, monkeypatch):
    make(tmp_path / "store", episodes=6)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "minio.lab:9000")
    with pytest.raises(StoreError, match="AWS_ENDPOINT_URL"):
        move_old(tmp_path / "store", URL, 0)


def test_a_segment_that_cannot_come_does_not_keep_others_away(tmp_path, bucket):
    store = tmp_path / "store"
    make(store)
    move_old(store, URL, 0, fetched_bytes=0)
    set_limit(store, 10**10)
    lost = away(store)[0]
    for key in bucket.names():
        if f"/{lost.name}-" in key:
            bucket.client.delete_object(Bucket="archive", Key=key)
    fetcher = Fetcher([store], exchange_s=0.01)
    fetcher.start()
    try:
        wait_until(lambda: away(store) == [lost] and bool(fetcher.troubles()))
        assert "from a backup" in fetcher.troubles()[0]
    finally:
        fetcher.stop()


@pytest.mark.parametrize("url", ["s3://", "s3://Not_A_Bucket/x", "s3:///x"])
def test_a_url_that_is_none_is_refused(tmp_path, url):
    make(tmp_path / "store", episodes=6)
    with pytest.raises(ConfigError, match="s3://BUCKET/PREFIX"):
        move_old(tmp_path / "store", url, 0)


def test_without_an_answer_or_a_bucket_everything_stays_here(tmp_path, bucket, down, monkeypatch):
    store = tmp_path / "store"
    make(store)
    before = contents(store)
    with pytest.raises(StoreError, match="Make the bucket first"):
        move_old(store, "s3://nowhere/x", 0)
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    with pytest.raises(StoreError, match="AWS_ACCESS_KEY_ID"):
        move_old(store, URL, 0)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "nobody")
    down()
    with pytest.raises(StoreError, match="AWS_ENDPOINT_URL"):
        move_old(store, URL, 0)
    assert not away(store)
    assert_same(before, contents(store))


def test_draws_are_from_what_is_here_and_take_up_what_comes(tmp_path, bucket):
    store = tmp_path / "store"
    make(store)
    move_old(store, URL, 0, fetched_bytes=0)
    most = sum(e.rows - 1 for e in _episodes(store))
    set_limit(store, 10**10)
    with closing(ReplaySource(store, SamplerConfig(refresh_period_s=0.05))) as source:
        first = len(source)
        assert 0 < first < most
        assert len(source.sample(64).reward) == 64
        assert source.warnings == []
        wait_until(lambda: len(source) == most)
        rows = np.concatenate([source.sample(256).extras["row"].copy() for _ in range(40)])
        assert len(np.unique(rows >> 10)) == len(directories(store))
        assert source.warnings == []


def test_one_segment_is_exchanged_for_another_where_little_may_be_here(tmp_path, bucket):
    store = tmp_path / "store"
    make(store)
    move_old(store, URL, 0, fetched_bytes=1)
    fetcher, seen = Fetcher([store], exchange_s=0.01), set()
    fetcher.start()
    try:
        total = len(away(store))

        def all_seen():
            seen.update(
                path for path in directories(store) if (path / MARK).exists() and not missing(path)
            )
            return len(seen) == total

        wait_until(all_seen)
    finally:
        fetcher.stop()
    assert len(away(store)) >= total - 1


@pytest.mark.parametrize("memory_bytes", [0, 640 * 2**10])
def test_draws_go_on_while_segments_are_exchanged(tmp_path, bucket, monkeypatch, memory_bytes):
    """Mapped, and by way of the sample cache, which meets files that have just gone."""
    monkeypatch.setattr(fetching, "EXCHANGE_S", 0.05)
    store, seen, warnings = tmp_path / "store", set(), set()
    make(store, episodes=60)
    move_old(store, URL, 0, fetched_bytes=8 * 70_000)
    most = len(directories(store))
    config = SamplerConfig(refresh_period_s=0.05, memory_bytes=memory_bytes)
    with closing(ReplaySource(store, config)) as source:

        def all_seen():
            batch = source.sample(64)
            assert np.isfinite(batch.reward).all()
            seen.update((batch.extras["row"] >> 10).tolist())
            warnings.update(source.warnings)
            return len(seen) == most

        wait_until(all_seen)
        assert source.cached == bool(memory_bytes)
    assert not warnings


@pytest.mark.parametrize("often", [1, 3])
def test_a_segment_that_goes_between_two_looks_is_no_loss(tmp_path, often):
    make(tmp_path / "store", episodes=6)
    with closing(ReplaySource(tmp_path / "store", SamplerConfig(refresh_period_s=0.01))) as source:
        looks = []

        def look():
            looks.append(1)
            if len(looks) <= often:
                raise FileNotFoundError("no such segment")

        source.refresh = look
        wait_until(lambda: len(looks) > often)
        assert len(source.warnings) == (often > 1)


def test_an_endpoint_that_is_down_is_said_once_and_draws_go_on(tmp_path, bucket, down):
    store = tmp_path / "store"
    make(store)
    move_old(store, URL, 0, fetched_bytes=0)
    down()
    with closing(ReplaySource(store, SamplerConfig(refresh_period_s=0.05))) as source:
        wait_until(lambda: bool(source.warnings))
        longest = 0.0
        for _ in range(200):
            began = time.monotonic()
            source.sample(64)
            longest = max(longest, time.monotonic() - began)
        assert longest < 2.0  # a call to the endpoint that waited would take longer
        assert len(source.warnings) == 1
        assert [reason.code for reason in source.reasons()] == [BUCKET_AWAY]


def test_a_reader_that_wants_what_another_makes_room_for_gets_it(tmp_path, bucket):
    """Two processes' worth of reading with room for one segment: each read is right, however they meet."""
    store = tmp_path / "store"
    make(store)
    before = contents(store)
    move_old(store, URL, 0, fetched_bytes=1)
    failed = []

    def read():
        try:
            assert_same(before, contents(store))
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=read) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed


_WORK = """
import sys
from user_learner.upkeep.tiering import bring_back, move_old
from user_learner.replay.bucket import fetch, missing
from user_learner.replay.segments import SEGMENTS
from pathlib import Path
store, url = sys.argv[1:]
print("ready", flush=True)
while True:
    move_old(store, url, 0, fetched_bytes=0)
    for path in sorted((Path(store) / SEGMENTS).iterdir())[:3]:
        fetch(path)
    bring_back(store)
"""


def _killed(store, delay_s):
    killed_after([sys.executable, "-c", _WORK, str(store), URL], delay_s)


def test_a_mark_that_a_kill_left_half_written_keeps_nobody_out(tmp_path, bucket):
    store = tmp_path / "store"
    make(store, episodes=12)
    move_old(store, URL, 0)
    (store / LEAVING).mkdir(exist_ok=True)
    half = store / LEAVING / f".{directories(store)[0].name}-1{LEAVING_SUFFIX}.tmp"
    half.write_bytes(b'{"url": "s3')
    with StoreWriter(store, config=SMALL) as writer:
        assert writer.warnings == []
    assert verify(store).ok
    move_old(store, URL, 0)
    assert not half.exists()


@pytest.mark.parametrize(
    "kills", [3, pytest.param(40, marks=[pytest.mark.slow, pytest.mark.timeout(900)])]
)
def test_kills_at_any_moment_lose_nothing(tmp_path, bucket, kills):
    store, rng = tmp_path / "store", random.Random(5)
    make(store, episodes=12)
    before = contents(store)
    for _ in range(kills):
        _killed(store, rng.uniform(0.0, 1.0))
        with StoreWriter(store, config=SMALL) as writer:
            assert writer.warnings == []
    assert verify(store).ok
    assert_same(before, contents(store))
    bring_back(store)
    assert not bucket.names() and not list(store.rglob(".*.fetched"))
    assert_same(before, contents(store))


def _episodes(store):
    with closing(StoreReader(store)) as reader:
        return list(reader.episodes())
