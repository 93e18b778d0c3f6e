"""Policy versions on their way out of the learner."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np

from user_core.codecs.bfloat16 import to_bfloat16
from user_core.errors import PolicyError
from user_core.interfaces import PolicySink
from user_core.specs import Array
from user_core.types import PolicyVersion
from user_learner.training.background import LatestWorker
from user_learner.training.version_counter import VersionCounter


@dataclass(frozen=True)
class Weights:
    """Weights that may become a version: arrays, and when in the training they were taken."""

    arrays: dict[str, Array]
    update: int
    environment_steps: int


class PolicyPublisher:
    """Gives weights a number and hands them to the sink, off the training thread.

    When weights come faster than the sink takes them, only the newest are published. Weights
    with numbers that are not finite are refused: no robot shall be driven by them.

    Args:
        sink: Where versions go.
        counter: Where numbers come from.
        config_hash: What the weights are made for.
        precision: ``bfloat16`` rounds float32 weights to it before they are published.
    """

    def __init__(
        self,
        sink: PolicySink,
        counter: VersionCounter,
        config_hash: str,
        precision: str = "float32",
    ) -> None:
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
        if self._round:
            arrays = {name: to_bfloat16(array) for name, array in arrays.items()}
        for name, array in arrays.items():
            if array.dtype.kind == "f" and not np.isfinite(array).all():
                raise PolicyError(
                    f"weights {name!r} of update {weights.update}",
                    got="numbers that are not finite", expected="finite numbers",
                    hint="The training diverged: smaller learning rates, or max_grad_norm",
                )  # fmt: skip
        number = self._counter.take()
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
