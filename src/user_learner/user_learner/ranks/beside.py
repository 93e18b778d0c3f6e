"""``learner_ranks``: processes of this host train with the learner of another one.

It knows no ROS, and needs no store and no configuration but where to meet: what is learned is told by the first host.
It waits for that one, and begins again with it.
"""

from __future__ import annotations

import json
import logging
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

from user_core.command_line import Parser
from user_core.errors import ConfigError, SuiteError
from user_core.runtime.processes import last_words
from user_core.runtime.scheduling import let_threads_of_torch_sleep
from user_learner.ranks import hosts
from user_learner.ranks.first import end_followers, require_gpus, start_follower
from user_learner.ranks.meeting import Place, software

_log = logging.getLogger(__name__)
_ANSWER_S, _AGAIN_S, _LOOK_S = 10.0, 2.0, 0.1


class RanksHere:
    """The processes of this host, started again and again until :meth:`stop`.

    Args:
        meeting: ``HOST:PORT`` of the first host.
        name: Of this host, as the learner's ``hosts`` has it.
        count: Processes; with GPUs one for each.
    """

    def __init__(self, meeting: str, name: str, count: int) -> None:
        self._host, self._port = hosts.address_of(meeting)
        self._name, self._count = name, count
        self._stopping = threading.Event()

    def stop(self, *_: Any) -> None:
        """End the processes, and return."""
        self._stopping.set()

    def run(self) -> None:
        """Until :meth:`stop`. Raises ConfigError where the first host refuses this one."""
        told = ""
        while not self._stopping.is_set():
            store, why = self._connect()
            if store is None:
                if why != told:
                    _log.info("waiting for the learner at %s:%d: %s", self._host, self._port, why)
                told = why
                self._stopping.wait(_AGAIN_S)
                continue
            told = ""
            try:
                place = self._place(store)
                if place is not None:
                    self._train(store, *place)
            except RuntimeError as error:  # of the store: the first has ended
                _log.info(
                    "the learner at %s:%d has ended: %s", self._host, self._port, str(error)[:200]
                )
            self._stopping.wait(_AGAIN_S)

    def _connect(self) -> tuple[Any, str]:
        """The store of the first host; or None, and why not."""
        import torch.distributed as dist

        try:  # first by a plain connection: torch waits long, and logs much
            socket.create_connection((self._host, self._port), _AGAIN_S).close()
            made = dist.TCPStore(self._host, self._port, None, False, timedelta(seconds=_ANSWER_S))
        except OSError as error:
            return None, error.strerror or str(error)
        except RuntimeError as error:
            return None, f"what is there is no learner's: {str(error).splitlines()[0][:200]}"
        return made, ""

    def _place(self, store: Any) -> tuple[int, int] | None:
        """Lowest rank of this host and number of all; None where the first has ended, or this one is to."""
        expected = json.loads(store.get(hosts.EXPECTED))
        if self._name not in expected:
            raise ConfigError(
                f"host {self._name}", got="not expected by the learner", expected=expected,
                hint="name:= of learner_ranks must be one of the learner's hosts",
            )  # fmt: skip
        mine = {"ranks": self._count, "software": software()}
        store.set(hosts.COME + self._name, json.dumps(mine))
        while not self._stopping.is_set():
            if store.check([hosts.REFUSED + self._name]):
                raise ConfigError(store.get(hosts.REFUSED + self._name).decode())
            if store.check([hosts.PLACE + self._name]):
                said = json.loads(store.get(hosts.PLACE + self._name))
                return int(said["first"]), int(said["world"])
            self._stopping.wait(_LOOK_S)
        return None

    def _train(self, store: Any, first: int, world: int) -> None:
        _log.info("ranks %d to %d of %d", first, first + self._count - 1, world)
        with tempfile.TemporaryDirectory(prefix="user_ranks_") as folder:
            words = {
                rank: Path(folder) / f"{rank}.ending" for rank in range(first, first + self._count)
            }
            processes = {
                rank: start_follower(
                    Place(rank, rank - first, world, self._count), self._host, self._port, file
                )
                for rank, file in words.items()
            }
            try:
                self._watch(store, processes, words)
            finally:
                end_followers(processes.values())

    def _watch(
        self, store: Any, processes: dict[int, subprocess.Popen[bytes]], words: dict[int, Path]
    ) -> None:
        beat, next_s = 0, 0.0
        while not self._stopping.is_set():
            if time.monotonic() >= next_s:
                next_s = time.monotonic() + hosts.BEAT_S
                beat += 1
                store.set(hosts.BEAT + self._name, str(beat))
            codes = {rank: process.poll() for rank, process in processes.items()}
            for rank, code in codes.items():
                if code:
                    said = _why(code, words[rank])
                    _log.warning("rank %d ended: %s", rank, said["text"])
                    store.set(f"{hosts.ENDED}{rank}", json.dumps(said))
                    return
            if all(code == 0 for code in codes.values()):
                return
            self._stopping.wait(_LOOK_S)
        for rank in processes:
            said = {"text": "learner_ranks was stopped", "code": "", "lost": True}
            store.set(f"{hosts.ENDED}{rank}", json.dumps(said))


def _why(code: int, file: Path) -> dict[str, Any]:
    words = last_words.take(file)
    if words is not None and words.reason:
        return {"text": f"{words.text} [{words.code}]", "code": words.code, "lost": False}
    if code < 0:
        return {"text": f"ended by {signal.Signals(-code).name}", "code": "", "lost": True}
    # what ended it is elsewhere: one that fails by itself has said why
    return {"text": f"ended with exit code {code}", "code": "", "lost": True}


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point of ``learner_ranks``."""
    parser = Parser("learner_ranks", description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--meeting", required=True, help="HOST:PORT of the learner, its `meeting`")
    parser.add_argument("--name", default="", help="of this host among the learner's `hosts`")
    parser.add_argument("--gpus", type=int, default=0, help="one process for each")
    parser.add_argument("--ranks", type=int, default=1, help="processes where there are no GPUs")
    given = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    let_threads_of_torch_sleep()
    try:
        if given.gpus:
            require_gpus(given.gpus)
        host, _ = hosts.address_of(given.meeting)
        hosts.use_interface_to(host, own=False)
        count = given.gpus or max(1, given.ranks)
        here = RanksHere(given.meeting, given.name or socket.gethostname(), count)
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, here.stop)
        here.run()
    except (SuiteError, OSError) as error:
        _log.error("%s", error)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
