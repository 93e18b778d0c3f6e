"""Sink ``mlflow``: runs of MLflow, on a tracking server or in files."""

from __future__ import annotations

import math
import os
import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from user_core.config import Config, setting
from user_core.errors import PluginError
from user_core.metrics import MetricsSink


class MlflowConfig(Config):
    """Where the run goes."""

    uri: str = setting(
        "",
        doc="Tracking server, as http://HOST:5000; empty: files in the sink's own folder, which need no server.",
    )
    experiment: str = setting("user", doc="Experiment that the run belongs to.", min_length=1)


class MlflowSink(MetricsSink):
    """A run of MLflow, named as the run here; steps are gradient updates. A learner that was restarted goes on with
    it."""

    Config: ClassVar[type[Config]] = MlflowConfig

    def __init__(self, config: MlflowConfig) -> None:
        self.config = config
        self._client: Any = None
        self._run = ""

    def open(self, directory: Path, run: str) -> None:
        """Begin or resume the run."""
        # Its files are no longer developed and must be asked for; a database takes its whole package, and a server
        # more.
        os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
        try:
            from mlflow.entities import Metric
            from mlflow.tracking import MlflowClient
        except ImportError as error:
            raise PluginError(
                "the sink mlflow needs the Python package mlflow-skinny", got=str(error),
                hint="pip install -r requirements/extra_metrics.txt",
            ) from error  # fmt: skip
        self._metric = Metric
        uri = self.config.uri
        if not uri:
            directory.mkdir(parents=True, exist_ok=True)
            uri = directory.absolute().as_uri()
        client = MlflowClient(tracking_uri=uri, registry_uri=uri)
        found = client.get_experiment_by_name(self.config.experiment)
        experiment = (
            client.create_experiment(self.config.experiment)
            if found is None
            else found.experiment_id
        )
        name = run or "run"
        alike = client.search_runs([experiment], f"tags.`mlflow.runName` LIKE '{_pattern(name)}'")
        same = [one for one in alike if one.info.run_name == name]
        if same:
            self._run = same[0].info.run_id
            client.update_run(self._run, status="RUNNING")
        else:
            self._run = client.create_run(experiment, run_name=name).info.run_id
        self._client = client

    def write(self, update: int, scalars: Mapping[str, float]) -> None:
        """Add a point to each curve."""
        now_ms = time.time_ns() // 1_000_000
        points = [
            self._metric(name, float(value), now_ms, update)
            for name, value in scalars.items()
            if math.isfinite(value)
        ]
        self._client.log_batch(self._run, metrics=points)

    def close(self) -> None:
        """End the run."""
        client, self._client = self._client, None
        if client is not None:
            client.set_terminated(self._run)


def _pattern(name: str) -> str:
    """A pattern that the name matches, and others may: within the quotes of a filter, MLflow knows no escapes."""
    return re.sub(r"[^\w.-]", "_", name, flags=re.ASCII)
