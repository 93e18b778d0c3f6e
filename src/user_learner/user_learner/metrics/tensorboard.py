"""Sink ``tensorboard``: event files in the learner's folder."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from user_core.config import Config, setting
from user_core.metrics import MetricsSink


class TensorBoardConfig(Config):
    """Nothing but how often the disk is written."""

    flush_s: float = setting(10.0, doc="Time between two writes to the disk.", unit="s", gt=0)


class TensorBoardSink(MetricsSink):
    """Event files; `tensorboard --logdir FOLDER` shows them. A new file is begun after each error of the disk."""

    Config: ClassVar[type[Config]] = TensorBoardConfig

    def __init__(self, config: TensorBoardConfig) -> None:
        self.config = config
        self.writer: Any = None

    def open(self, directory: Path, run: str) -> None:
        """Begin an event file."""
        from torch.utils.tensorboard import SummaryWriter

        self.writer = SummaryWriter(str(directory), flush_secs=self.config.flush_s)

    def write(self, update: int, scalars: Mapping[str, float]) -> None:
        """Add a point to each curve."""
        for name, value in scalars.items():
            self.writer.add_scalar(name, value, update)

    def close(self) -> None:
        """End the file."""
        writer, self.writer = self.writer, None
        if writer is not None:
            with contextlib.suppress(OSError):
                writer.close()
