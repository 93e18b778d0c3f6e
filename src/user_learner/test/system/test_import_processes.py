"""Episodes that processes read are those that a thread reads, and a process that is killed costs none."""

from __future__ import annotations

import os
import signal
import threading
import time
from contextlib import closing

import numpy as np
import psutil
import pytest

from user_learner.data.importing import import_data
from user_learner.replay import StoreReader, StoreWriter
from user_learner.replay.maintenance import verify
from user_testing.waiting import wait_until

h5py = pytest.importorskip("h5py")


def written(path, episodes=8, steps=30):
    """As robomimic writes it; the third episode has a value that is not finite."""
    rng = np.random.default_rng(0)
    with h5py.File(path, "w") as file:
        for number in range(episodes):
            group = file.create_group(f"data/demo_{number}")
            group["actions"] = rng.uniform(-1, 1, (steps, 4)).astype(np.float32)
            group["rewards"], group["dones"] = np.zeros(steps), np.arange(steps) == steps - 1
            state = rng.normal(size=(steps + 1, 3)).astype(np.float32)
            if number == 2:
                state[5] = np.nan
            group["obs/state"], group["next_obs/state"] = state[:-1], state[1:]
            images = rng.integers(0, 255, (steps + 1, 32, 32, 3), np.uint8)
            group["obs/image"], group["next_obs/image"] = images[:-1], images[1:]
    return path


def taken(path, store, processes):
    with StoreWriter(store) as target:
        report = import_data(path, target, options={"period_s": 0.1}, processes=processes)
    with closing(StoreReader(store)) as reader:
        rows = [(e.key, reader.read_episode(e)) for e in reader.episodes()]
    return report, rows


def test_processes_read_what_a_thread_reads(tmp_path):
    path = written(tmp_path / "data.hdf5")
    by_thread, wanted = taken(path, tmp_path / "one", 0)
    by_two, found = taken(path, tmp_path / "two", 2)
    assert by_thread.episodes == by_two.episodes == 7
    assert by_thread.skipped == by_two.skipped and len(by_two.skipped) == 1
    assert [key for key, _ in found] == [key for key, _ in wanted]
    for (_, ours), (_, theirs) in zip(found, wanted, strict=True):
        assert ours.keys() == theirs.keys()
        assert all(ours[name].tobytes() == theirs[name].tobytes() for name in ours)
    again, _ = taken(path, tmp_path / "two", 2)
    assert again.episodes == 0 and again.duplicates == again.unread == 7
    assert not _readers()


def test_a_process_that_is_killed_costs_no_episode(tmp_path):
    path = written(tmp_path / "data.hdf5", episodes=60)
    over = threading.Event()

    def kill():
        while not over.is_set():
            for reader in _readers():
                os.kill(reader.pid, signal.SIGKILL)
                return
            time.sleep(0.001)

    thread = threading.Thread(target=kill)
    thread.start()
    try:
        report, rows = taken(path, tmp_path / "store", 2)
    finally:
        over.set()
        thread.join()
    assert report.episodes == len(rows) == 59 and verify(tmp_path / "store").ok
    wait_until(lambda: not _readers())


def _readers():
    """Processes of ours that read; not the one that watches over shared memory."""
    found = []
    for child in psutil.Process().children():
        try:
            words = " ".join(child.cmdline())
        except psutil.Error:
            continue
        if "spawn_main" in words:
            found.append(child)
    return found
