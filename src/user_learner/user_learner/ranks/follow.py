"""One of the processes that train together, but not the first: ``python -m user_learner.ranks.follow``.

It is told what to learn, and ends with the first. It knows no ROS and writes nothing but its log.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import tempfile
import threading
from pathlib import Path

from user_core.config import from_mapping
from user_core.errors import RankLost, SuiteError
from user_core.reasons import Reason
from user_core.runtime.processes import last_words
from user_core.specs import RobotSpec
from user_core.types import PolicyVersion
from user_learner.learner import LearnerConfig, open_learner
from user_learner.ranks.first import for_place
from user_learner.ranks.meeting import CUDA, Place, compare, join, leave, open_store

_log = logging.getLogger(__name__)


class _Nobody:
    """Takes policy versions: those of the first are published."""

    def publish(self, version: PolicyVersion) -> None:
        """Nothing."""


def follow(place: Place) -> None:
    """Train with the others until they have finished; raises what ends it before."""
    from user_learner.algorithms.common.distributed import broadcast

    store = open_store(place)
    compare(store, place)
    join(store, place, cuda=store.get(CUDA) == b"1")  # waits for what the first says
    said = broadcast(None)
    config = for_place(from_mapping(LearnerConfig, said["config"]), place)
    with tempfile.TemporaryDirectory(prefix="user_rank_") as folder:
        own = config.replace(
            directory=Path(folder), tensorboard=False, sinks={}, start_over=False
        )  # fmt: skip
        with open_learner(own, RobotSpec.from_dict(said["spec"]), _Nobody()) as loop:
            loop.run()
    leave()


def main() -> int:
    """Exit code: 0 when training is finished, 1 when it cannot go on."""
    place = Place.of_environment()
    if place is None:
        print("user_learner.ranks.follow is started by learner_node or torchrun", file=sys.stderr)
        return 2
    logging.basicConfig(
        level=logging.INFO, format=f"[rank {place.rank}] %(levelname)s %(name)s: %(message)s"
    )
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        for number in (signal.SIGINT, signal.SIGTERM):  # for the first, which then ends all
            signal.signal(number, signal.SIG_IGN)
        threading.Thread(target=_end_with_the_first, daemon=True).start()
    try:
        follow(place)
    except SuiteError as error:
        if not isinstance(error, RankLost):  # then another says why
            last_words.say(Reason.of(error))
        _log.error("%s", error)
        return 1
    except Exception as error:
        _log.exception("rank %d ends", place.rank)
        if not isinstance(error, RuntimeError):  # what torch raises when another is gone
            last_words.say(Reason.of(error))
        return 1
    return 0


def _end_with_the_first() -> None:
    """Its standard input ends when the first process does, or when that lets it go."""
    while os.read(0, 64):
        pass
    threading.Event().wait(8.0)  # time to end by itself, where training is over
    os._exit(1)


if __name__ == "__main__":
    code = main()
    logging.shutdown()
    os._exit(code)  # at once: the first waits for the reason
