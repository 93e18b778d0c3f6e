"""Training curves for TensorBoard."""

from __future__ import annotations

import contextlib
import logging
import time
from pathlib import Path
from typing import Any

from user_learner.training.progress import Progress

_RETRY_S = 10.0
_log = logging.getLogger(__name__)


class TensorBoardWriter:
    """Writes each :class:`Progress` as scalars over updates; give it to ``on_metrics``.

    Curves are not worth a training: what the disk does not take is left out, and a new event
    file is begun when it may be well again.

    Args:
        directory: Where the event files go.

    Raises:
        ImportError: The package ``tensorboard`` is not installed.
    """

    def __init__(self, directory: Path) -> None:
        from torch.utils.tensorboard import SummaryWriter  # seconds of import time

        self._make = lambda: SummaryWriter(str(directory), flush_secs=10)
        self._writer: Any = None
        self._retry_s = 0.0

    def __call__(self, progress: Progress) -> None:
        """Add one point to each curve; the event file is written by a thread of its own."""
        scalars = {f"algorithm/{name}": value for name, value in progress.metrics.items()}
        for name in (
            "environment_steps", "utd_ratio", "updates_per_s", "data_wait_share",
            "policy_version", "policy_period_s",
        ):  # fmt: skip
            scalars[f"learner/{name}"] = float(getattr(progress, name))
        if time.monotonic() < self._retry_s:
            return
        try:
            if self._writer is None:
                self._writer = self._make()
            for name, value in scalars.items():
                self._writer.add_scalar(name, value, progress.update)
        except OSError as error:
            _log.warning("training curves are not written for now: %s", error)
            self._retry_s = time.monotonic() + _RETRY_S
            self.close()

    def close(self) -> None:
        """Write what is left, if the disk takes it."""
        writer, self._writer = self._writer, None
        if writer is not None:
            with contextlib.suppress(OSError):
                writer.close()
