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
from collections.abc import Callable, Collection
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
from user_core.plugins import PluginChoice, load
from user_core.runtime.processes import came_up, last_words
from user_core.specs import RobotSpec
from user_learner.algorithms.common.shardable import SHARD
from user_learner.ranks.hosts import (
    Listening,
    OtherHosts,
    address_of,
    require_own_address,
    use_interface_to,
)
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
from user_learner.training.loop import threads_each

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
        ConfigError: There are fewer GPUs, or another process has other software.
        RankLost, RankFailed: One of them did not come.
    """

    def __init__(
        self, config: LearnerConfig, spec: RobotSpec, on_lost: Callable[[SuiteError], None]
    ) -> None:
        self.config, self._asked, self._spec, self._on_lost = config, config, spec, on_lost
        self._others: dict[int, subprocess.Popen[bytes]] = {}
        self._store: Any = None
        self._count = 1
        self._elsewhere: OtherHosts | None = None
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
        watched = self._others or self._elsewhere is not None
        if isinstance(error, RuntimeError | RankLost) and watched and not self._over.is_set():
            self._found.wait(_FIND_S)  # a connection that broke is seen before whose it was
        if self._failure is not None:
            return self._failure
        if _is_of_connection(error):
            return RankLost("training with other ranks", got=str(error), expected="that all answer")
        return error

    def __enter__(self) -> Ranks:
        place = Place.of_environment()
        here = place.here if place is not None else max(1, self.config.gpus, self.config.ranks)
        if self.config.gpus:
            require_gpus(self.config.gpus)
        elsewhere = self.config.hosts if place is None else ()
        count = self._count = place.world if place is not None else here + len(elsewhere)
        if count > 1 or self.config.gpus:
            self.config = for_place(self.config, place or Place(0, 0, count, here))
        if count == 1 and not self.config.algorithm.params.get(SHARD):
            return self
        self._folder = tempfile.TemporaryDirectory(prefix="user_ranks_")
        try:
            self._meet(place, here)
        except BaseException:
            self.__exit__()
            self._folder.cleanup()
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
        if self._failure is None and error is None:
            # NCCL lets nobody go before all do, and the others do it now.
            leaving = threading.Thread(target=leave, name="ranks", daemon=True)
            leaving.start()
            end_followers(self._others.values(), _END_S)
            leaving.join(_END_S)
        else:
            end_followers(self._others.values(), _END_S if self._failure is None else 0.0)
            leave()
        self._store = None
        self._folder.cleanup()

    def _meet(self, place: Place | None, here: int) -> None:
        if place is not None:
            self._store = open_store(place)
        else:
            names = self.config.hosts
            self._host, port = address_of(self.config.meeting) if names else ("127.0.0.1", 0)
            self._store = _keep_store(self._host, port)
            if names:
                use_interface_to(self._host, own=True)
                self._elsewhere = OtherHosts.admit(self._store, names, here)
                self._count = here + sum(self._elsewhere.count.values())
            place = Place(0, 0, self._count, here)
            for rank in range(1, here):
                self._start(rank, place)
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

    def _start(self, rank: int, first: Place) -> None:
        place = Place(rank, rank, first.world, first.here)
        self._others[rank] = start_follower(place, self._host, self._store.port, self._words(rank))

    def _words(self, rank: int) -> Path:
        return Path(self._folder.name) / f"rank{rank}.ending"

    def _watch(self) -> None:
        elsewhere = None
        if self._elsewhere is not None:
            elsewhere = Listening(self._store.clone(), self._elsewhere)
        while not self._over.wait(0.05):
            failure = None
            for rank, process in self._others.items():
                if code := process.poll():  # 0: all have finished
                    failure = self._why(rank, code)
            if failure is None and elsewhere is not None:
                failure = elsewhere.look()
            if failure is not None and not self._over.is_set():
                self._failure = failure
                self._found.set()
                self._on_lost(failure)
                return

    def _why(self, rank: int, code: int) -> SuiteError:
        what = f"rank {rank} of {self._count}"
        words = last_words.take(self._words(rank))
        if words is not None and words.reason:
            passes = words.code in codes_that_may_pass()
            return (RankLost if passes else RankFailed)(f"{what}: {words.text} [{words.code}]")
        if code < 0:
            name = signal.Signals(-code).name
            lost = -code in (signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
            return (RankLost if lost else RankFailed)(f"{what} was ended by {name}")
        return RankFailed(f"{what} ended with exit code {code}; its words are in this log")


def start_follower(place: Place, host: str, port: int, words: Path) -> subprocess.Popen[bytes]:
    """Start a process that trains with the first.

    Args:
        place: Which one it is.
        host, port: Where all meet.
        words: File in which it says why it ends.

    Returns:
        The process. It ends when its standard input does, which is when this process ends, however that comes.
    """
    kept = {
        name: value
        for name, value in os.environ.items()
        if name not in _OWN and not name.startswith("TORCHELASTIC_")
    }
    return subprocess.Popen(
        [sys.executable, "-m", "user_learner.ranks.follow"],
        stdin=subprocess.PIPE,
        env={
            **kept,
            "RANK": str(place.rank),
            "LOCAL_RANK": str(place.local),
            "LOCAL_WORLD_SIZE": str(place.here),
            "WORLD_SIZE": str(place.world),
            "MASTER_ADDR": host,
            "MASTER_PORT": str(port),
            last_words.VARIABLE: str(words),
        },
    )


def end_followers(processes: Collection[subprocess.Popen[bytes]], within_s: float = _END_S) -> None:
    """Let processes of :func:`start_follower` end, and end those that do not."""
    for process in processes:
        with contextlib.suppress(OSError):
            process.stdin.close()  # type: ignore[union-attr]
    deadline_s = time.monotonic() + within_s
    for process in processes:
        try:
            process.wait(max(0.1, deadline_s - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _keep_store(host: str, port: int) -> Any:
    """The place where all meet, kept by this process; raises ConfigError where the port is in use."""
    import torch.distributed as dist

    require_own_address(host)
    try:
        return dist.TCPStore(
            host, port, None, True, timedelta(seconds=MEET_S), wait_for_workers=False
        )
    except RuntimeError as error:
        raise ConfigError(
            "meeting", got=f"{host}:{port}: {str(error).splitlines()[0][:200]}",
            expected="an address of this host, and a port that is free",
        ) from error  # fmt: skip


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
    if place.here > 1:
        training = training.replace(threads=threads_each(training.threads, place.here))
    return config.replace(algorithm=algorithm, training=training)


def unsharded(algorithm: PluginChoice) -> PluginChoice:
    """An algorithm that keeps all of its network in one process, to be looked at where no others are."""
    if not algorithm.params.get(SHARD):
        return algorithm
    return algorithm.replace(params={**algorithm.params, SHARD: ""})


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
    if config.hosts:  # how many processes these have is heard from them
        require_own_address(address_of(config.meeting)[0])
        return
    share = Share(0, max(1, config.gpus, config.ranks), minibatches)
    share.rows(config.training.batch_size * minibatches)


def require_gpus(wanted: int) -> None:
    """Raise ConfigError unless torch can use this many GPUs."""
    import torch

    there = torch.cuda.device_count()
    if there < wanted:
        raise ConfigError(
            "gpus", got=wanted,
            expected=f"at most {there}" if there else "0, which is to learn on the device of the algorithm",
            hint=f"torch {torch.__version__} finds {there or 'none'} here; `nvidia-smi` shows them, and a CPU build of "
            "torch finds none",
        )  # fmt: skip
