"""Sink ``trackio``: Hugging Face's Trackio, a dashboard on one's own machine."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from user_core.config import Config, setting
from user_core.errors import PluginError
from user_core.metrics import MetricsSink


class TrackioConfig(Config):
    """Where the run goes."""

    project: str = setting("user", doc="Project that the run belongs to.", min_length=1)
    directory: str = setting(
        "", doc="Folder of Trackio's files; empty: where `trackio show` looks without being told."
    )


class TrackioSink(MetricsSink):
    """A run of Trackio, in its files on this machine; `trackio show` opens the dashboard."""

    Config: ClassVar[type[Config]] = TrackioConfig

    def __init__(self, config: TrackioConfig) -> None:
        self.config = config
        self._run: Any = None

    def open(self, directory: Path, run: str) -> None:
        """Begin or resume the run."""
        if self.config.directory:  # it is read at the import
            os.environ["TRACKIO_DIR"] = self.config.directory
        try:
            import trackio
        except ImportError as error:
            raise PluginError(
                "the sink trackio needs the Python package trackio", got=str(error),
                hint="pip install -r requirements/extra_metrics.txt",
            ) from error  # fmt: skip
        self._run = trackio.init(
            project=self.config.project, name=run or None, resume="allow", embed=False,
            auto_log_gpu=False, auto_log_cpu=False,
        )  # fmt: skip

    def write(self, update: int, scalars: Mapping[str, float]) -> None:
        """Add a point to each curve."""
        known = {n: v for n, v in scalars.items() if math.isfinite(v)}  # it knows no NaN
        self._run.log(known, step=update)

    def close(self) -> None:
        """End the run."""
        run, self._run = self._run, None
        if run is not None:
            run.finish()
