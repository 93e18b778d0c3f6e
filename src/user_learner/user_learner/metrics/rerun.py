"""Sink ``rerun``: curves for Rerun's viewer, as a file or live, by its SDK."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from user_core.config import Config, setting
from user_core.errors import PluginError
from user_core.metrics import MetricsSink


class RerunConfig(Config):
    """Where the curves go."""

    viewer: str = setting(
        "",
        doc="Viewer that runs, as rerun+http://HOST:9876/proxy; empty: a file (.rrd) for each start of the learner.",
    )


class RerunSink(MetricsSink):
    """One scalar for each curve, named as it is, over the timeline ``update``."""

    Config: ClassVar[type[Config]] = RerunConfig

    def __init__(self, config: RerunConfig) -> None:
        self.config = config
        self._recording: Any = None
        self._scalars: Any = None

    def open(self, directory: Path, run: str) -> None:
        """Begin a file, or to send."""
        try:
            import rerun
        except ImportError as error:
            raise PluginError(
                "the sink rerun needs the Python package rerun-sdk", got=str(error),
                hint="pip install rerun-sdk (500 MB; tried with 0.41)",
            ) from error  # fmt: skip
        name = run or "run"
        recording = rerun.RecordingStream(f"user {name}")
        if self.config.viewer:
            recording.connect_grpc(self.config.viewer)
        else:
            directory.mkdir(parents=True, exist_ok=True)
            recording.save(directory / f"{name}_{time.time_ns()}.rrd")
        self._recording, self._scalars = recording, rerun.Scalars

    def write(self, update: int, scalars: Mapping[str, float]) -> None:
        """Add a point to each curve."""
        self._recording.set_time("update", sequence=update)
        for name, value in scalars.items():
            if math.isfinite(value):
                self._recording.log(name, self._scalars(float(value)))

    def close(self) -> None:
        """End the file."""
        recording, self._recording = self._recording, None
        if recording is not None:
            recording.flush()
            recording.disconnect()
