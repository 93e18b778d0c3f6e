"""Training curves for TensorBoard."""

from __future__ import annotations

from pathlib import Path

from user_learner.training.progress import Progress


class TensorBoardWriter:
    """Writes each :class:`Progress` as scalars over updates; give it to ``on_metrics``.

    Args:
        directory: Where the event files go.

    Raises:
        ImportError: The package ``tensorboard`` is not installed.
    """

    def __init__(self, directory: Path) -> None:
        from torch.utils.tensorboard import SummaryWriter  # seconds of import time

        self._writer = SummaryWriter(str(directory), flush_secs=10)

    def __call__(self, progress: Progress) -> None:
        """Add one point to each curve; the event file is written by a thread of its own."""
        scalars = {f"algorithm/{name}": value for name, value in progress.metrics.items()}
        for name in (
            "environment_steps", "utd_ratio", "updates_per_s", "data_wait_share",
            "policy_version", "policy_period_s",
        ):  # fmt: skip
            scalars[f"learner/{name}"] = float(getattr(progress, name))
        for name, value in scalars.items():
            self._writer.add_scalar(name, value, progress.update)

    def close(self) -> None:
        """Write what is left."""
        self._writer.close()
