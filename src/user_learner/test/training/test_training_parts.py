"""Prefetching, publishing, background work and metrics."""

import errno
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from user_core.errors import StoreError
from user_core.fakes import PolicyMailbox
from user_core.runtime import files
from user_core.types import Batch, PolicyVersion
from user_learner.training import publishing
from user_learner.training.background import LatestWorker
from user_learner.training.batch_feed import BatchFeed
from user_learner.training.progress import LearnerState, Means, Progress, Rate
from user_learner.training.publishing import PolicyFile, PolicyPublisher, VersionCounter, Weights
from user_testing.waiting import wait_until


class Counting:
    """A source whose batches are numbered."""

    def __init__(self, available=True):
        self.count, self.available, self.error = 0, available, None

    def __len__(self):
        return 10 * self.available

    def sample(self, rows):
        if self.error is not None:
            raise self.error
        if not self.available:
            raise StoreError("sample", got="an empty store")
        self.count += 1
        ones = np.ones(rows)
        return Batch({"x": ones * self.count}, ones, ones, ones, {"x": ones})

    def state(self):
        return {"count": self.count}


@pytest.mark.parametrize("depth", [0, 1, 3])
def test_batches_come_in_order_each_with_the_state_after_it(depth):
    source = Counting()
    feed = BatchFeed(source, 4, depth)
    try:
        for number in range(1, 20):
            drawn = feed.take(5.0)
            assert len(drawn.batch) == 4
            assert drawn.batch.observation["x"][0] == number
            assert drawn.source_state == {"count": number}
    finally:
        feed.close()
    assert source.count <= 19 + depth + 1


def test_it_draws_ahead_but_not_further_than_told():
    source = Counting()
    feed = BatchFeed(source, 1, 3)
    try:
        feed.take(5.0)
        wait_until(lambda: source.count == 4)  # one taken, three on the way
        time.sleep(0.05)
        assert source.count == 4
    finally:
        feed.close()


@pytest.mark.parametrize("depth", [0, 2])
def test_an_empty_source_is_asked_again(depth):
    source = Counting(available=False)
    feed = BatchFeed(source, 1, depth, retry_s=0.001)
    try:
        assert feed.take(0.02) is None
        assert "empty store" in feed.reason
        source.available = True
        assert feed.take(5.0) is not None
        assert feed.reason == ""
    finally:
        feed.close()


@pytest.mark.parametrize("depth", [0, 2])
def test_what_goes_wrong_in_a_source_is_raised_where_batches_are_taken(depth):
    source = Counting()
    source.error = RuntimeError("disk on fire")
    feed = BatchFeed(source, 1, depth)
    try:
        with pytest.raises(RuntimeError, match="disk on fire"):
            feed.take(5.0)
    finally:
        feed.close()


def test_only_the_newest_waits_for_a_busy_worker():
    started, go, seen = threading.Event(), threading.Event(), []

    def work(job):
        started.set()
        go.wait(60)
        seen.append(job)

    worker = LatestWorker("test", work)
    worker.offer(1)
    assert started.wait(60)
    for job in (2, 3, 4):
        worker.offer(job)  # returns at once
    assert worker.busy
    go.set()
    assert worker.flush(10)
    assert seen == [1, 4]
    assert worker.dropped == 2
    worker.offer(5)
    worker.close()
    assert seen == [1, 4, 5]  # what was offered before close is done


def test_a_worker_survives_what_its_work_raises():
    def work(job):
        if job == "bad":
            raise OSError("disk full")

    worker = LatestWorker("test", work)
    try:
        worker.offer("bad")
        assert worker.flush(10)
        assert "disk full" in str(worker.error)
        worker.offer("good")
        assert worker.flush(10)
        assert worker.error is None
    finally:
        worker.close()


def test_versions_get_rising_numbers_and_bad_weights_get_none(tmp_path):
    box = PolicyMailbox()
    publisher = PolicyPublisher(box, VersionCounter(tmp_path / "n"), "hash")
    try:
        for update, value in ((1, 0.5), (2, np.nan), (3, 0.7)):
            publisher.offer(Weights({"w": np.full(3, value)}, update, 10 * update))
            assert publisher.flush(10)
            assert (publisher.error is not None) == (update == 2)
    finally:
        publisher.close()
    version = box.newest(after=0)
    assert (version.number, version.update, version.environment_steps) == (2, 3, 30)
    assert version.config_hash == "hash"
    assert publisher.newest == 2
    assert publisher.period_s > 0


def large_version(number):
    array = np.full(1 << 26, number, np.float32)  # 256 MB
    array.flags.writeable = False
    return PolicyVersion(number, {"w": array}, "hash")


def test_robots_do_not_wait_for_the_file_of_a_large_version(tmp_path, monkeypatch):
    told, passed = threading.Event(), []

    class Sink:
        def publish(self, version):
            passed.append(version.number)
            told.set()

    def write(path, pieces, durable):
        assert told.wait(20)  # only then
        files.write_atomically(path, pieces, durable)

    file = PolicyFile(tmp_path, Sink())
    monkeypatch.setattr(publishing, "write_atomically", write)
    made = large_version(7)
    file.publish(made)
    assert passed == [7]
    assert file.kept().number == 7

    def full(path, pieces, durable):
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(publishing, "write_atomically", full)
    with pytest.raises(OSError, match="full"):
        file.publish(made)
    assert passed == [7, 7]
    with pytest.raises(OSError, match="full"):  # a small one is not passed on without its file
        file.publish(PolicyVersion(8, {"w": np.ones(3)}, "hash"))
    assert passed == [7, 7]


def test_means_are_taken_and_begin_anew():
    means = Means()
    means.add({"a": 1.0, "b": 5.0})
    means.add({"a": 3.0})
    assert means.take() == {"a": 2.0, "b": 5.0}
    assert means.take() == {}


def test_a_rate_looks_at_the_last_seconds_only():
    now = [0.0]
    rate = Rate(window_s=5.0, clock=lambda: now[0])
    for _ in range(1000):
        now[0] += 0.01
        rate.add(1)
    assert rate.per_s() == pytest.approx(100, rel=0.03)
    now[0] += 2.5
    assert rate.per_s() == pytest.approx(50, rel=0.05)
    now[0] += 100
    assert rate.per_s() == pytest.approx(0, abs=1)
    assert len(rate._points) < 200


def test_curves_can_be_read_by_tensorboard(tmp_path):
    event_accumulator = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator"
    )
    from user_learner.metrics.tensorboard import TensorBoardConfig, TensorBoardSink
    from user_learner.metrics.writer import SinkWriter

    writer = SinkWriter("tensorboard", lambda: TensorBoardSink(TensorBoardConfig()), tmp_path)
    for update in (10, 20):
        writer(Progress(LearnerState.TRAINING, update, 5, metrics={"loss": update / 100}))
    writer.close()
    events = event_accumulator.EventAccumulator(str(tmp_path)).Reload()
    assert [(e.step, round(e.value, 3)) for e in events.Scalars("algorithm/loss")] == [
        (10, 0.1),
        (20, 0.2),
    ]
    assert "learner/updates_per_s" in events.Tags()["scalars"]


def test_curves_that_the_disk_does_not_take_do_not_end_the_training(tmp_path):
    pytest.importorskip("tensorboard")
    program = """
import resource, sys, time
from contextlib import suppress
from pathlib import Path
from user_learner.metrics import writer as metrics
from user_learner.metrics.tensorboard import TensorBoardConfig, TensorBoardSink
from user_learner.training.progress import LearnerState, Progress
metrics._RETRY_S = 0.2
writer = metrics.SinkWriter("tensorboard", lambda: TensorBoardSink(TensorBoardConfig()), Path(sys.argv[1]))
def flush():
    if (open_ := writer._sink) is not None:
        with suppress(OSError):
            open_.writer.flush()
size = lambda: sum(f.stat().st_size for f in Path(sys.argv[1]).glob("events*"))
show = lambda n: writer(Progress(LearnerState.TRAINING, n, metrics={"loss": 1.0 / n}))
show(1)
end = time.monotonic() + 60
while writer._sink is None:  # its thread imports for a while
    assert time.monotonic() < end
    time.sleep(0.01)
_, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (1, hard))  # as a full disk
while writer._retry_s == 0.0:  # its thread writes when it likes
    assert time.monotonic() < end
    show(2)
    flush()
    time.sleep(0.01)
resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
before = size()
while size() <= before:
    assert time.monotonic() < end
    show(3)
    flush()
    time.sleep(0.05)
writer.close()
print("went on")
"""
    result = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True, timeout=90
    )
    assert "went on" in result.stdout, result.stderr[-3000:]
