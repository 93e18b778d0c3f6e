"""Clocks, pacing, waiting, locks, files and prefetching."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import threading

import pytest

from user_core.config import from_mapping
from user_core.errors import ConfigError, StoreError
from user_core.runtime.backoff import Backoff, BackoffConfig
from user_core.runtime.clock import Clock
from user_core.runtime.files import replace_durably, write_atomically
from user_core.runtime.histogram import LatencyHistogram
from user_core.runtime.locks import FileLock
from user_core.runtime.pacing import Pacer
from user_core.runtime.prefetch import Prefetcher
from user_core.runtime.processes.parents import end_with_parent

MS = 1_000_000


def test_a_stamp_has_its_moment_on_the_monotonic_clock():
    clock = Clock()
    ahead_ns = clock.monotonic_of(clock.wall_ns() + 50 * MS) - clock.monotonic_ns()
    assert 0 < ahead_ns <= 50 * MS


def test_percentiles_are_upper_edges_of_their_buckets():
    histogram = LatencyHistogram()
    assert histogram.percentile_ns(99) == 0
    for ms in range(1, 101):
        histogram.add(ms * MS)
    assert 50 * MS <= histogram.percentile_ns(50) <= 57 * MS
    assert 99 * MS <= histogram.percentile_ns(99) <= 100 * MS
    assert (histogram.count, histogram.worst_ns) == (100, 100 * MS)


def test_a_histogram_with_a_window_forgets():
    histogram = LatencyHistogram(window=10)
    histogram.add(1000 * MS)
    for _ in range(18):
        histogram.add(MS)
    assert histogram.worst_ns == 1000 * MS, "it is among the last ten to twenty"
    for _ in range(2):
        histogram.add(MS)
    assert (histogram.count, histogram.worst_ns) == (21, MS)
    assert histogram.percentile_ns(100) == MS


def test_lateness_never_adds_up_and_missed_deadlines_are_skipped():
    pacer = Pacer(10 * MS)
    pacer.start(0)
    assert not pacer.reached(9 * MS)
    assert pacer.reached(12 * MS)
    assert pacer.due_ns == 20 * MS
    pacer.met(45 * MS)  # 25 ms late: the deadlines at 30 and 40 are over
    assert (pacer.due_ns, pacer.skipped, pacer.step) == (50 * MS, 2, 5)
    pacer.catch_up(49 * MS)
    assert pacer.due_ns == 50 * MS
    pacer.catch_up(50 * MS)
    assert (pacer.due_ns, pacer.skipped) == (60 * MS, 3)
    report = pacer.report()
    assert (report.cycles, report.missed) == (3, 3)
    assert report.worst_ms == 25


def test_a_grid_that_is_moved_keeps_the_numbers_of_its_steps_and_has_new_deadlines():
    pacer = Pacer(10 * MS)
    pacer.start(0)
    numbers = []
    for due_ms, later_ns in ((10, 6 * MS), (26, 0), (36, 6 * MS), (52, 0)):
        assert pacer.due_ns == due_ms * MS
        pacer.met(due_ms * MS)
        pacer.shift(later_ns)
        numbers.append(pacer.step)
    assert numbers == [2, 3, 4, 5]
    assert pacer.report().worst_ms == 0 and pacer.skipped == 0


def test_waits_grow_until_what_failed_was_healthy_for_a_while():
    backoff = Backoff(1.0, 2.0, 5.0, healthy_after_s=10.0)
    assert [backoff.failed() for _ in range(4)] == [1, 2, 4, 5]
    assert backoff.failed(worked_s=9.9) == 5
    assert backoff.failed(worked_s=10.0) == 1
    assert [Backoff.of(BackoffConfig(first_s=0.5)).failed(), BackoffConfig().longest_s] == [0.5, 2]
    for _ in range(2000):
        assert backoff.failed() <= 5  # and no overflow
    with pytest.raises(ConfigError, match="longest_s"):
        from_mapping(BackoffConfig, {"first_s": 3})


def test_a_lock_has_one_holder_and_dies_with_him(tmp_path):
    file = tmp_path / "lock"
    hold = (
        "from pathlib import Path; from user_core.runtime.locks import FileLock; import sys, time"
    )
    hold += f"; lock = FileLock(Path({str(file)!r})); print('held', flush=True); time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", hold], stdout=subprocess.PIPE) as other:
        assert other.stdout is not None and other.stdout.readline() == b"held\n"
        with pytest.raises(StoreError, match=f"store x is in use.* process {other.pid} ") as caught:
            FileLock(file, "store x", "Look elsewhere")
        assert caught.value.hint == "Look elsewhere"
        other.kill()
    lock = FileLock(file)
    with pytest.raises(StoreError, match=f"{os.getpid()}, this one"):
        FileLock(file)
    lock.release()
    lock.release()
    FileLock(file).release()


def test_a_file_is_whole_or_the_one_before(tmp_path):
    file = tmp_path / "state.json"
    write_atomically(file, "täst")
    assert file.read_text(encoding="utf-8") == "täst"
    write_atomically(file, [b"a", memoryview(b"b")], durable=False)
    assert file.read_bytes() == b"ab"

    def pieces():
        yield b"half"
        raise RuntimeError("the other half")

    with pytest.raises(RuntimeError):
        write_atomically(file, pieces())
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        with pytest.raises(OSError, match="large"):
            write_atomically(file, b"x" * 2000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert file.read_bytes() == b"ab"
    assert os.listdir(tmp_path) == ["state.json"]
    beside = tmp_path / "new"
    beside.write_bytes(b"n")
    replace_durably(beside, file)
    assert (os.listdir(tmp_path), file.read_bytes()) == (["state.json"], b"n")


@pytest.mark.parametrize("depth", [0, 3])
def test_results_come_in_the_order_in_which_they_were_begun(depth):
    begun = iter(range(100))
    names = set()

    def run(job: int) -> int:
        names.add(threading.current_thread().name)
        return job * job

    prefetcher = Prefetcher(lambda: next(begun), run, depth, workers=2, name="squares")
    assert prefetcher.first is None
    assert [prefetcher.next() for _ in range(5)] == [(n, n * n) for n in range(5)]
    assert prefetcher.first == (5 if depth else None)
    assert prefetcher.discard() == ([5, 6, 7] if depth else [])
    assert prefetcher.next() == ((8, 64) if depth else (5, 25))
    prefetcher.close()
    prefetcher.close()
    here = {threading.current_thread().name}
    assert names == here if not depth else not names & here


def test_a_result_that_is_late_is_not_lost_and_an_error_is_raised_once():
    ready = threading.Event()
    errors = [TimeoutError("of the job")]

    def run(job: int) -> int:
        assert ready.wait(30)
        if job == 1 and errors:
            raise errors.pop()
        return job

    begun = iter(range(100))
    prefetcher = Prefetcher(lambda: next(begun), run, 2)
    try:
        with pytest.raises(TimeoutError):
            prefetcher.next(timeout_s=0.001)
        ready.set()
        assert prefetcher.next(30) == (0, 0)
        with pytest.raises(TimeoutError, match="of the job"):
            prefetcher.next(30)
        assert prefetcher.next(30) == (2, 2)
    finally:
        ready.set()
        prefetcher.close()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux sends it")
def test_a_process_ends_with_what_started_it_also_with_what_was_gone_before_it_asked():
    code = "import os, subprocess, sys; subprocess.Popen(['sleep', '600'], preexec_fn={}); print(flush=True); {}"
    prepare = "lambda: end_with_parent(signal.SIGTERM, os.getppid())"
    starts = "import signal; from user_core.runtime.processes.parents import end_with_parent; "
    code = starts + code.format(prepare, "os.kill(os.getpid(), signal.SIGKILL)")
    words = [sys.executable, "-c", code]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        output, _ = process.communicate(timeout=60)  # ends when nobody has the pipe any more
    assert (output, process.returncode) == ("\n", -signal.SIGKILL)
    late = lambda: end_with_parent(signal.SIGTERM, os.getpid())  # noqa: E731 - in the child: it itself
    assert subprocess.run(["sleep", "600"], preexec_fn=late, timeout=60).returncode == 1
