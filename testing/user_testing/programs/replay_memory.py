"""A learner of its own, whose memory is measured: prints the most it took beyond its start."""

import os
import resource
import sys
from pathlib import Path

from user_learner.sampling import ReplaySource
from user_testing.worlds.replay import STILL


def resident_bytes():
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")


def main(path, budget, address_space):
    if int(address_space):
        resource.setrlimit(resource.RLIMIT_AS, (int(address_space), int(address_space)))
    config = STILL.replace(memory_bytes=int(budget), keep=1, read_bytes_per_s=1e12)
    with ReplaySource(path, config) as source:
        before = most = resident_bytes()
        for _ in range(600):
            batch = source.sample(64)
            following = batch.next_observation["place"] - batch.observation["place"]
            assert (following == [0, 0, 1]).all()
            most = max(most, resident_bytes())
        print(most - before, int(source.cached), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
