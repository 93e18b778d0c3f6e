"""How long lists of episodes take: read with their edits, and filtered::

tools/run python benchmarks/data/episode_list.py --episodes 20000
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from user_core.command_line import Parser
from user_core.types import EpisodeKey
from user_learner.edits import Edit, EditedEpisodes, EditLog
from user_learner.edits.listing import EpisodeFilter, list_all, select
from user_testing.worlds.replay import many_episodes


def best(work: Callable[[], Any]) -> tuple[float, float]:
    """Shortest wall and CPU time of five, seconds."""
    wall, processor = [], []
    for _ in range(5):
        began, used = time.perf_counter(), time.process_time()
        work()
        wall.append(time.perf_counter() - began)
        processor.append(time.process_time() - used)
    return min(wall), min(processor)


def main() -> None:
    parser = Parser(description=__doc__)
    parser.add_argument("--episodes", type=int, default=20_000)
    count = parser.parse_args().episodes
    with tempfile.TemporaryDirectory() as folder:
        many_episodes(Path(folder), count)
        log = EditLog(folder)
        log.append(Edit.exclude([EpisodeKey("actor1", 1, n) for n in range(0, count, 10)]))
        log.append(Edit.tag([EpisodeKey("actor1", 1, n) for n in range(0, count, 3)], ["x"]))

        def open_list() -> None:
            with EditedEpisodes(folder) as view:
                list_all(view)

        print("open and list: {:.3f} s, of the processor {:.3f} s".format(*best(open_list)))
        with EditedEpisodes(folder) as view:
            listed = list_all(view)
            wanted = EpisodeFilter(failed=True, tags=("x",))
            print(
                "filter: {:.3f} s, of the processor {:.3f} s".format(
                    *best(lambda: select(listed, wanted))
                )
            )


if __name__ == "__main__":
    main()
