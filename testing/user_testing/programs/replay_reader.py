"""A learner that samples while another process writes; prints the number of steps it sees."""

import sys
import time

from user_learner.sampling import ReplaySource
from user_testing.worlds.replay import STILL, reward_of


def main(path, seed):
    config = STILL.replace(seed=seed, prefetch=2, refresh_period_s=0.01)
    with ReplaySource(path, config) as source:
        before = len(source)
        print("open", flush=True)
        while True:
            batch = source.sample(64)
            place, following = batch.observation["place"], batch.next_observation["place"]
            assert ((following - place) == [0, 0, 1]).all(), (place, following)
            assert (batch.action == place[:, 1:]).all()
            expected = [reward_of(e, r) for e, r in place[:, 1:].tolist()]
            assert batch.reward.tolist() == expected
            if len(source) != before:
                assert len(source) > before
                before = len(source)
                print(before, flush=True)
                time.sleep(0.02)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
