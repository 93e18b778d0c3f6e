"""A learner that only offers versions on this host, for tests of the weight plane; and what takes one, slowly.

python -m user_testing.programs.version_offers ARRAYS NUMBERS     # then lines: "offer NUMBER", "count"
python -m user_testing.programs.version_offers take HASH          # stays in the middle of it
"""

from __future__ import annotations

import json
import os
import sys
import time

import numpy as np

from user_core.codecs.weights import content_hash
from user_core.types import PolicyVersion
from user_core.weight_plane.offers import Offers
from user_core.weight_plane.taking import take

CONFIG_HASH = "c" * 64
#: Names of versions are the host's: those of other test runs are others.
RUN = int(os.environ.setdefault("USER_VERSION_OFFERS_OF", str(os.getpid())))


def version(number: int, arrays: int, numbers: int) -> PolicyVersion:
    """All its weights are its number."""
    found = {f"w{i:02}": np.full(numbers, number, np.float32) for i in range(arrays)}
    return PolicyVersion(number, found, CONFIG_HASH, 10 * number, 100 * number, RUN)


def files_in_memory() -> int:
    """Of this process, open."""
    links = [f"/proc/self/fd/{fd}" for fd in os.listdir("/proc/self/fd")]
    return sum("memfd:user weights" in os.readlink(link) for link in links if os.path.islink(link))


def main() -> None:
    """Command line."""
    if sys.argv[1] == "take":
        with take(sys.argv[2], ["memory"]) as taking:  # type: ignore[union-attr]
            print(taking.offer.number, flush=True)
            time.sleep(1e6)
    arrays, numbers = map(int, sys.argv[1:])
    with Offers() as offers:
        print("ready", flush=True)
        for line in sys.stdin:
            if line.startswith("offer"):
                made = version(int(line.split()[1]), arrays, numbers)
                name = content_hash(made)
                offers.offer(made, name)
                print(name, flush=True)
            else:
                taken = sum(offers.taken.values())
                said = {"taken": taken, "failed": offers.failed, "files": files_in_memory()}
                print(json.dumps(said), flush=True)


if __name__ == "__main__":
    main()
