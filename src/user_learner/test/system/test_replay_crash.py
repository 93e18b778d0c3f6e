"""Real processes, really killed."""

import random
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from user_learner.replay import StoreReader, StoreWriter
from user_learner.replay.maintenance import verify
from user_learner.sampling import ReplaySource
from user_testing.programs.replay_crash import streams
from user_testing.worlds.replay import QUICK, STILL, Actor, Plan, assert_holds, fill

CHILD = "user_testing.programs.replay_crash"
READER = "user_testing.programs.replay_reader"


def start(program, *arguments):
    words = [sys.executable, "-m", program, *map(str, arguments)]
    return subprocess.Popen(words, stdout=subprocess.PIPE, text=True)


def live_and_kill(path, seed):
    """One life of the writer, ended by SIGKILL at a random moment; what it acknowledged."""
    rng = random.Random(seed)
    child, acks = start(CHILD, path, seed), {}
    try:
        assert child.stdout.readline() == "open\n"
        lines = rng.randint(0, 12)
        for _ in range(lines):
            line = child.stdout.readline()
            name, sequence = line.split()
            acks[name] = int(sequence)
        time.sleep(rng.random() * 0.02)  # not at a moment that the writer has a part in
    finally:
        child.kill()
    for line in child.stdout:
        if line.endswith("\n"):
            name, sequence = line.split()
            acks[name] = int(sequence)
    child.stdout.close()
    child.wait()
    return acks


@pytest.mark.parametrize("seed", [1, 2])
def test_killed_again_and_again_nothing_acknowledged_is_lost_or_doubled(tmp_path, seed):
    sources, acknowledged = streams(3), {}
    for life in range(6):
        acknowledged.update(live_and_kill(tmp_path, seed * 100 + life))
        report = verify(tmp_path)  # before anybody mends anything
        assert report.ok, report.errors
        reader = StoreReader(tmp_path)
        stored = dict(reader.connection.execute("SELECT producer, sequence FROM producers"))
        for name, sequence in acknowledged.items():
            assert stored[name] >= sequence
        chunks = [c for name, sequence in stored.items() for c in sources[name][:sequence]]
        assert_holds(reader, chunks)
        reader.close()
    assert sum(acknowledged.values()) > 0
    with StoreWriter(tmp_path, config=QUICK) as writer:  # the rest arrives, some of it again
        for chunks in sources.values():
            for chunk in chunks:
                assert writer.append(chunk).status in ("staged", "duplicate")
        writer.commit()
        assert not writer.warnings
    reader = StoreReader(tmp_path)
    assert_holds(reader, [chunk for chunks in sources.values() for chunk in chunks])
    reader.close()
    assert verify(tmp_path).ok


def test_readers_in_other_processes_see_whole_episodes_only_and_ever_more(tmp_path):
    with StoreWriter(tmp_path, config=QUICK) as writer:
        actors = [Actor(number, chunk_rows=5) for number in range(3)]
        fill(writer, actors[0], [Plan(20)])
        readers = [start(READER, tmp_path, seed) for seed in range(2)]
        try:
            for reader in readers:
                assert reader.stdout.readline() == "open\n"
            stop = threading.Event()

            def write():
                rng = np.random.default_rng(0)
                while not stop.is_set():
                    for actor in actors:
                        fill(writer, actor, [Plan(int(rng.integers(1, 120)))])

            thread = threading.Thread(target=write)
            thread.start()
            try:
                seen = [[int(r.stdout.readline()) for _ in range(4)] for r in readers]
            finally:
                stop.set()
                thread.join()
            for growth in seen:
                assert growth == sorted(set(growth))  # each saw the store grow every time
        finally:
            for reader in readers:
                reader.kill()
                reader.wait()
                reader.stdout.close()


def test_readers_share_the_pages_of_the_files(tmp_path):
    from user_testing.worlds.replay import IMAGE_SCHEMA

    with StoreWriter(tmp_path, config=QUICK) as writer:
        fill(writer, Actor(schema=IMAGE_SCHEMA, chunk_rows=100), [Plan(4000)])
    with ReplaySource(tmp_path, STILL) as source:
        for _ in range(40):
            source.sample(256)
        mapped = shared_with_the_page_cache()
    assert mapped > 10 * 2**20  # bytes of the store in this process that are nobody's copy


def shared_with_the_page_cache():
    """Bytes of mapped column files that this process has touched."""
    total, ours = 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if "-" in line.split(" ")[0] and ":" not in line.split(" ")[0]:
            ours = line.endswith(".col")
        elif ours and line.startswith("Rss:"):
            total += int(line.split()[1]) * 1024
    return total
