"""Sink ``wandb``: Weights & Biases, by default without a network."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

from user_core.config import Config, setting
from user_core.errors import PluginError
from user_core.metrics import MetricsSink
from user_core.runtime.files import write_atomically


class WandbConfig(Config):
    """Where the run goes at Weights & Biases."""

    project: str = setting("user", doc="Project that the run belongs to.", min_length=1)
    mode: Literal["offline", "online"] = setting(
        "offline",
        doc="offline: files in the learner's folder, which `wandb sync` sends later; online: sent at once, as the "
        "user that `wandb login` or WANDB_API_KEY says.",
    )
    entity: str = setting("", doc="Team or user; empty: that of the login.")
    tags: tuple[str, ...] = setting((), doc="Tags of the run.")


class WandbSink(MetricsSink):
    """A run at Weights & Biases. Updates are its axis; a learner that was restarted goes on with the same run."""

    Config: ClassVar[type[Config]] = WandbConfig

    def __init__(self, config: WandbConfig) -> None:
        self.config = config
        self._run: Any = None

    def open(self, directory: Path, run: str) -> None:
        """Begin or resume the run."""
        try:
            import wandb
        except ImportError as error:
            raise PluginError(
                "the sink wandb needs the Python package wandb", got=str(error),
                hint="pip install -r requirements/extra_metrics.txt",
            ) from error  # fmt: skip
        directory.mkdir(parents=True, exist_ok=True)
        known, config = directory / "run_id", self.config
        if not known.exists():
            write_atomically(known, secrets.token_hex(6))
        options: dict[str, Any] = {"resume": "allow"} if config.mode == "online" else {}
        self._run = wandb.init(
            project=config.project, entity=config.entity or None, name=run or None, tags=list(config.tags) or None,
            id=known.read_text(encoding="utf-8").strip(), dir=str(directory), mode=config.mode,
            settings=wandb.Settings(silent=True, console="off", disable_git=True, x_disable_stats=True),
            **options,
        )  # fmt: skip
        self._run.define_metric("update")
        self._run.define_metric("*", step_metric="update")

    def write(self, update: int, scalars: Mapping[str, float]) -> None:
        """Add a point to each curve."""
        self._run.log({"update": update, **scalars})

    def close(self) -> None:
        """End the run."""
        run, self._run = self._run, None
        if run is not None:
            run.finish()
