"""The thread between a training and a sink: no update waits for it, and nothing that a sink does ends a training."""

from __future__ import annotations

import contextlib
import logging
import queue
import threading
import time
from collections.abc import Callable
from pathlib import Path

from user_core.errors import PluginError
from user_core.metrics import MetricsSink
from user_learner.training.progress import Progress

_RETRY_S = 10.0
#: Points that wait for a sink that is slow; beyond it the oldest are left out.
_WAITING = 1000
#: How long the end of a training waits for what a sink has not written yet.
_CLOSE_S = 10.0
_NUMBERS = (
    "environment_steps", "utd_ratio", "updates_per_s", "data_wait_share", "policy_version", "policy_period_s",
)  # fmt: skip
_log = logging.getLogger(__name__)


def scalars_of(progress: Progress) -> dict[str, float]:
    """What is drawn of a progress, by name."""
    found = {f"algorithm/{name}": float(value) for name, value in progress.metrics.items()}
    found |= {f"learner/{name}": float(getattr(progress, name)) for name in _NUMBERS}
    return found


class SinkWriter:
    """Hands each :class:`Progress` to a sink; give it to ``on_metrics``.

    A thread of its own makes the sink with the first progress (libraries take seconds to import, and the first
    update comes before), opens it and writes. What fails is said once in the log, and tried again later.

    Args:
        name: Of the sink, for the log.
        make: Makes it.
        directory: Its folder.
        run: Name of the run.

    Attributes:
        dropped: Points that did not reach the sink.
    """

    def __init__(
        self, name: str, make: Callable[[], MetricsSink], directory: Path, run: str = ""
    ) -> None:
        self._name, self._make, self._directory, self._run_name = name, make, directory, run
        self._points: queue.Queue[Progress | None] = queue.Queue()
        self._sink: MetricsSink | None = None
        self._retry_s = 0.0
        self.dropped = 0
        self._thread = threading.Thread(target=self._work, name=f"metrics {name}", daemon=True)
        self._thread.start()

    def __call__(self, progress: Progress) -> None:
        """Add one point to each curve; returns at once."""
        while self._points.qsize() >= _WAITING:
            with contextlib.suppress(queue.Empty):
                self._points.get_nowait()
                self.dropped += 1
        self._points.put(progress)

    def close(self) -> None:
        """Write what is left, if the sink takes it soon. Idempotent."""
        self._points.put(None)
        self._thread.join(_CLOSE_S)
        if self._thread.is_alive():
            _log.warning("%s does not end: what it has not written yet is left out", self._name)

    def _work(self) -> None:
        while (progress := self._points.get()) is not None:
            if time.monotonic() < self._retry_s:
                self.dropped += 1
                continue
            try:
                if self._sink is None:
                    sink = self._make()
                    sink.open(self._directory, self._run_name)
                    self._sink = sink
                self._sink.write(progress.update, scalars_of(progress))
            except (ImportError, PluginError) as error:
                _log.warning("training curves do not go to %s: %s", self._name, error)
                return
            except BaseException as error:  # also what a library means for its own process
                _log.warning("training curves do not go to %s for now: %r", self._name, error)
                self.dropped += 1
                self._retry_s = time.monotonic() + _RETRY_S
                self._end()
        self._end()

    def _end(self) -> None:
        sink, self._sink = self._sink, None
        if sink is not None:
            try:
                sink.close()
            except BaseException as error:
                _log.warning("%s does not close: %r", self._name, error)
