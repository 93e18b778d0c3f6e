"""Policy versions on their way out of the learner: numbered, checked, published, kept in a file."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from user_core.codecs.policy_blob import to_bfloat16
from user_core.codecs.weights import content_hash, read_version, version_pieces
from user_core.errors import PolicyError, StoreError, SuiteError
from user_core.interfaces import PolicySink
from user_core.runtime.files import write_atomically
from user_core.specs import Array
from user_core.types import PolicyVersion
from user_learner.training.background import LatestWorker

if TYPE_CHECKING:
    from torch import Tensor


class VersionCounter:
    """Counts in a file of its own, because a checkpoint may be older than the newest version.

    A number is durable before it is used, so that none is ever used twice, whatever is lost.

    Args:
        path: The file; made at the first number.

    Raises:
        StoreError: The file holds something else.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        text = path.read_text().strip() if path.exists() else "0"
        if not text.isascii() or not text.isdigit():
            raise StoreError(
                f"policy version counter {path}", got=text[:80], expected="a number",
                hint="Write a number above that of the newest published version into it",
            )  # fmt: skip
        self._last = int(text)

    @property
    def last(self) -> int:
        """The number given out last; 0 before the first."""
        return self._last

    def raise_to(self, number: int) -> None:
        """Make sure that the next number is above this one."""
        self._last = max(self._last, number)

    def take(self) -> int:
        """Give out the next number; durable when this returns. Raises OSError."""
        number = self._last + 1
        write_atomically(self._path, f"{number}\n")
        self._last = number
        return number


@dataclass(frozen=True)
class Weights:
    """Weights that may become a version: arrays, and when in the training they were taken."""

    arrays: Mapping[str, Array]
    update: int
    environment_steps: int


class Snapshots(Protocol):
    """Makes copies of weights where they are, see :class:`user_core.weight_plane.offers.Offers`."""

    @property
    def on_gpu(self) -> bool:
        """Whether anybody wants them on a GPU; else there is nothing to be asked for."""

    def snapshot(
        self, tensors: Mapping[str, Tensor], rounded: bool, pace: Callable[[], object]
    ) -> Mapping[str, Array] | None:
        """A copy that is brought to the host when it is looked at; None: there is none."""


class PolicyPublisher:
    """Gives weights a number and hands them to the sink, off the training thread.

    When weights come faster than the sink takes them, only the newest are published. Weights
    with numbers that are not finite are refused, so that no robot is driven by them.

    Args:
        sink: Where versions go.
        counter: Where numbers come from.
        config_hash: What the weights are made for.
        precision: ``bfloat16`` rounds float32 weights to it before they are published.
        on_version: Called with number and arrays of each version before robots can have it, in a thread of
            its own.
    """

    def __init__(
        self,
        sink: PolicySink,
        counter: VersionCounter,
        config_hash: str,
        precision: str = "float32",
        on_version: Callable[[int, Mapping[str, Array]], None] | None = None,
    ) -> None:
        self._on_version = on_version
        self._round = precision == "bfloat16"
        self.newest = 0
        self.period_s = 0.0
        self._sink, self._counter, self._config_hash = sink, counter, config_hash
        self._last_s: float | None = None
        self._worker: LatestWorker[Weights] = LatestWorker("policy publisher", self._publish)

    @property
    def error(self) -> Exception | None:
        """Why the last version could not be published, if so."""
        return self._worker.error

    @property
    def superseded(self) -> int:
        """Versions that were never published because a newer one came first."""
        return self._worker.dropped

    def offer(self, weights: Weights) -> None:
        """Publish these weights next; returns at once."""
        self._worker.offer(weights)

    def flush(self, timeout_s: float | None = None) -> bool:
        """Wait until all is published."""
        return self._worker.flush(timeout_s)

    def close(self) -> None:
        """Publish what was offered, and end. Idempotent."""
        self._worker.close()

    def _publish(self, weights: Weights) -> None:
        arrays = weights.arrays
        if self._round and not getattr(arrays, "rounded", False):  # a snapshot is, on the GPU
            arrays = {name: to_bfloat16(array) for name, array in arrays.items()}
        for name in _not_finite(arrays):
            raise PolicyError(
                f"weights {name!r} of update {weights.update}",
                got="numbers that are not finite", expected="finite numbers",
                hint="The training diverged: smaller learning rates, or max_grad_norm",
            )  # fmt: skip
        number = self._counter.take()
        if self._on_version is not None:
            self._on_version(number, arrays)
        self._sink.publish(
            PolicyVersion(
                number,
                arrays,
                self._config_hash,
                weights.update,
                weights.environment_steps,
                time.time_ns(),
            )
        )
        now_s = time.monotonic()
        if self._last_s is not None:
            self.period_s = now_s - self._last_s
        self.newest, self._last_s = number, now_s


def _not_finite(arrays: Mapping[str, Array]) -> Iterable[str]:
    """Names of arrays with numbers that are not finite."""
    on_gpu: Callable[[], list[str]] | None = getattr(arrays, "not_finite", None)
    if on_gpu is not None:
        return on_gpu()
    kinds = ((name, array) for name, array in arrays.items() if array.dtype.kind == "f")
    return (name for name, array in kinds if not np.isfinite(array).all())


POLICY_FILE = "policy.safetensors"
#: A version of this many bytes is passed on while its file is being written, which takes seconds.
_LARGE_BYTES = 1 << 28


class PolicyFile:
    """A :class:`~user_core.interfaces.PolicySink` that keeps the newest version in a file, and
    passes every version on.

    The file is replaced whole; it is not flushed to the disk, because checkpoints hold the
    same weights durably. A large version is passed on meanwhile: after a kill in these seconds
    the file may be of the version before, which robots get then until training has passed it.
    """

    def __init__(self, directory: Path, sink: PolicySink) -> None:
        self.path, self._sink = Path(directory) / POLICY_FILE, sink
        self.path.parent.mkdir(parents=True, exist_ok=True)

    def kept(self) -> PolicyVersion | None:
        """The version in the file; None where there is none, or none that can be read."""
        try:
            return read_version(self.path)
        except (SuiteError, OSError):
            return None

    def set_aside(self) -> None:
        """Keep the version in the file under a name of its own."""
        if (version := self.kept()) is not None:
            os.replace(self.path, self.path.with_name(f"policy.v{version.number}.safetensors"))

    def publish(self, version: PolicyVersion) -> None:
        """Write the file, then pass the version on; of a large one both at the same time. Raises OSError."""
        if sum(array.nbytes for array in version.arrays.values()) < _LARGE_BYTES:
            self._write(version)
            self._sink.publish(version)
            return
        content_hash(version)  # once for both
        with ThreadPoolExecutor(1, "policy file") as beside:
            written = beside.submit(self._write, version)
            self._sink.publish(version)
        written.result()

    def _write(self, version: PolicyVersion) -> None:
        write_atomically(self.path, version_pieces(version), durable=False)
