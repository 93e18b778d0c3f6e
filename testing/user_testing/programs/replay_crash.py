"""A replay node and its actors in one process, to be killed: appends chunks, prints acks.

Each line on standard output is ``producer sequence``: what has been acknowledged. On start
it sends again from behind the acknowledged number, as outboxes do, some of it twice.
"""

import random
import sys

from user_core.types import EpisodeSource
from user_learner.replay import StoreWriter
from user_testing.worlds.replay import FSYNC, Actor, Plan


def streams(actors):
    """All chunks that the actors will ever make; the same in every life of the process."""
    found = {}
    for number in range(actors):
        actor, rng = Actor(number, chunk_rows=3), random.Random(number)
        chunks = []
        for _ in range(100):
            source = EpisodeSource.ONLINE if rng.random() < 0.8 else EpisodeSource.DEMONSTRATION
            plan = Plan(rng.randint(1, 30), source, rng.random() < 0.5, rng.random() < 0.9)
            chunks += actor.chunks(plan)
        found[actor.name] = chunks
    return found


def main(path, seed):
    rng = random.Random(seed)
    config = FSYNC.replace(commit_bytes=rng.choice([1, 2000, 20000]), segment_bytes=1)
    writer = StoreWriter(path, config=config)
    acks = {ack.producer: ack.sequence for ack in writer.acknowledged()}
    sources = streams(3)
    at = {name: max(0, acks.get(name, 0) - rng.randint(0, 3)) for name in sources}
    print("open", flush=True)
    while True:
        name = rng.choice(list(sources))
        if at[name] < len(sources[name]):
            writer.append(sources[name][at[name]])
            at[name] += 1
        if rng.random() < 0.05:
            for ack in writer.commit():
                print(ack.producer, ack.sequence, flush=True)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
