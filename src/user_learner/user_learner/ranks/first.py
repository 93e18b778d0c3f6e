"""The first of the processes that train together: it starts the others and watches over them."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from user_core.config import config_fields, from_mapping, to_mapping
from user_core.errors import (
    ConfigError,
    RankFailed,
    RankLost,
    SuiteError,
    codes_that_may_pass,
)
from user_core.plugins import load
from user_core.runtime import came_up, last_words
from user_core.specs import RobotSpec
from user_learner.ranks.meeting import (
    CUDA,
    MEET_S,
    Place,
    compare,
    join,
    leave,
    open_store,
)
from user_learner.sampling.share import Share

if TYPE_CHECKING:
    from user_learner.learner import LearnerConfig

#: Time for the others to end by themselves when training is over.
_END_S = 10.0
#: Time within which it is seen that another has ended, when its connection broke.
_FIND_S = 5.0
#: In what torch says of a broken process group; its errors have no class of their own everywhere.
_OF_GROUPS = ("gloo", "nccl", "connection", "process group")
#: Not meant for them: the first alone says that the node has come up, and why it ends.
_OWN = (came_up.VARIABLE, "USER_MODULES_FILE")


class Ranks:
    """Context of a training of one or of several processes; of one it does nothing.

    Args:
        config: What to learn; ``gpus`` or ``ranks`` says by how many.
        spec: The robot that it is for.
        on_lost: Called once, in a thread of its own, when one of the others has ended: nothing will come of
            this training any more.

    Attributes:
        config: What this process is to do: on its own GPU, with its share of the cores.

    Raises:
        ConfigError: There are not so many GPUs, or another process has other software.
        RankLost, RankFailed: One of them did not come.
    """

    def __init__(
        self, config: LearnerConfig, spec: RobotSpec, on_lost: Callable[[SuiteError], None]
    ) -> None:
        self.config, self._asked, self._spec, self._on_lost = config, config, spec, on_lost
        self._others: dict[int, subprocess.Popen[bytes]] = {}
        self._store: Any = None
        self._count = 1
        self._over, self._found = threading.Event(), threading.Event()
        self._failure: SuiteError | None = None

    @property
    def others(self) -> int:
        """How many train with this one."""
        return self._count - 1

    def why_ended(self, error: BaseException) -> BaseException:
        """What to say of an error in training: where one of the others has ended, that."""
        if self._count == 1:
            return error
        if isinstance(error, RuntimeError | RankLost) and self._others and not self._over.is_set():
            self._found.wait(_FIND_S)  # a connection that broke is seen before whose it was
        if self._failure is not None:
            return self._failure
        if _is_of_connection(error):
            return RankLost("training with other ranks", got=str(error), expected="that all answer")
        return error

    def __enter__(self) -> Ranks:
        place = Place.of_environment()
        count = place.world if place is not None else max(1, self.config.gpus, self.config.ranks)
        self._count = count
        if count > 1:
            self.config = for_place(self.config, place or Place(0, 0, count))
        elif self.config.gpus:
            self.config = for_place(self.config, Place(0, 0, 1))
        if self.config.gpus:
            require_gpus(self.config.gpus)
        if count == 1:
            return self
        self._folder = tempfile.TemporaryDirectory(prefix="user_ranks_")
        try:
            self._meet(place, count)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(
        self, kind: object = None, error: BaseException | None = None, trace: object = None
    ) -> None:
        """Let the others end, and end those that do not."""
        if self._store is None:
            return
        if error is not None:
            self.why_ended(error)
        self._over.set()
        for process in self._others.values():
            with contextlib.suppress(OSError):
                process.stdin.close()  # type: ignore[union-attr]
        deadline_s = time.monotonic() + (_END_S if self._failure is None else 0.0)
        for process in self._others.values():
            try:
                process.wait(max(0.1, deadline_s - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        leave()
        self._store = None
        self._folder.cleanup()

    def _meet(self, place: Place | None, count: int) -> None:
        import torch.distributed as dist

        if place is not None:
            self._store = open_store(place)
        else:
            place = Place(0, 0, count)
            self._store = dist.TCPStore(
                "127.0.0.1", 0, count, True, timedelta(seconds=MEET_S), wait_for_workers=False
            )
            for rank in range(1, count):
                self._start(rank, count)
            watch = threading.Thread(target=self._watch, name="ranks", daemon=True)
            watch.start()
        try:
            compare(self._store, place)
            cuda = is_cuda(self.config)
            self._store.set(CUDA, str(int(cuda)))
            join(self._store, place, cuda)
            from user_learner.algorithms.common.distributed import broadcast

            broadcast({"config": what_is_learned(self._asked), "spec": self._spec.to_dict()})
        except Exception as error:
            raise self.why_ended(error) from error

    def _start(self, rank: int, count: int) -> None:
        environment = {
            **{
                name: value
                for name, value in os.environ.items()
                if name not in _OWN and not name.startswith("TORCHELASTIC_")
            },
            "RANK": str(rank),
            "LOCAL_RANK": str(rank),
            "WORLD_SIZE": str(count),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(self._store.port),
            last_words.VARIABLE: str(self._words(rank)),
        }
        self._others[rank] = subprocess.Popen(
            [sys.executable, "-m", "user_learner.ranks.follow"],
            stdin=subprocess.PIPE,  # its end is that of this process, however that comes
            env=environment,
        )

    def _words(self, rank: int) -> Path:
        return Path(self._folder.name) / f"rank{rank}.ending"

    def _watch(self) -> None:
        while not self._over.wait(0.05):
            for rank, process in self._others.items():
                if (code := process.poll()) and not self._over.is_set():  # 0: all have finished
                    self._failure = self._why(rank, code)
                    self._found.set()
                    self._on_lost(self._failure)
                    return

    def _why(self, rank: int, code: int) -> SuiteError:
        what = f"rank {rank} of {len(self._others) + 1}"
        words = last_words.take(self._words(rank))
        if words is not None and words.reason:
            passes = words.code in codes_that_may_pass()
            return (RankLost if passes else RankFailed)(f"{what}: {words.text} [{words.code}]")
        if code < 0:
            name = signal.Signals(-code).name
            lost = -code in (signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
            return (RankLost if lost else RankFailed)(f"{what} was ended by {name}")
        return RankFailed(f"{what} ended with exit code {code}; its words are in this log")


def _is_of_connection(error: BaseException) -> bool:
    """Whether torch raised it because another process does not answer, and not the training itself."""
    import torch.distributed as dist

    return isinstance(error, dist.DistError) or (
        isinstance(error, RuntimeError) and any(word in str(error).lower() for word in _OF_GROUPS)
    )


def is_follower() -> bool:
    """Whether ``torchrun`` has started this process, and not as the first."""
    place = Place.of_environment()
    return place is not None and place.rank > 0


def for_place(config: LearnerConfig, place: Place) -> LearnerConfig:
    """What one of them does: on the GPU of its number, with its share of the cores.

    Raises ConfigError where the algorithm has no ``device``.
    """
    algorithm = config.algorithm
    typed = from_mapping(load("algorithms", algorithm.plugin).Config, algorithm.params)
    device = getattr(typed, "device", None)
    if config.gpus and device is None:
        raise ConfigError(
            "gpus", got=config.gpus, expected=f"0 for {algorithm.plugin}, which has no `device`"
        )
    if device is not None and (config.gpus or device == "cuda"):
        device = f"cuda:{place.local}"
        algorithm = algorithm.replace(params={**algorithm.params, "device": device})
    training = config.training
    if not training.threads and place.world > 1:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        training = training.replace(threads=max(1, (cores or 1) // place.world))
    return config.replace(algorithm=algorithm, training=training)


def what_is_learned(config: LearnerConfig) -> dict[str, Any]:
    """Of the parameters of a learner, or of a node that is one, those that all processes need."""
    from user_learner.learner import LearnerConfig

    names = {item.name for item in config_fields(LearnerConfig)}
    return {name: value for name, value in to_mapping(config).items() if name in names}


def is_cuda(config: LearnerConfig) -> bool:
    """Whether it learns on a GPU; after :func:`for_place`."""
    return str(config.algorithm.params.get("device", "")).startswith("cuda")


def require_places(config: LearnerConfig, minibatches: int) -> None:
    """Whether this host has the GPUs, and the processes can share batches; to be asked before anything starts.

    Args:
        config: What to learn.
        minibatches: Into how many the algorithm cuts a batch.

    Raises:
        ConfigError: They are not there, or a batch cannot be divided among them.
    """
    if config.gpus:
        require_gpus(config.gpus)
    share = Share(0, max(1, config.gpus, config.ranks), minibatches)
    share.rows(config.training.batch_size * minibatches)


def require_gpus(wanted: int) -> None:
    """Raise ConfigError unless there are so many GPUs that torch can use."""
    import torch

    there = torch.cuda.device_count()
    if there < wanted:
        raise ConfigError(
            "gpus", got=wanted, expected=f"at most {there}, which torch {torch.__version__} finds here",
            hint="`nvidia-smi` shows them; a CPU build of torch finds none",
        )  # fmt: skip
