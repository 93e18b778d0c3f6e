"""Where the numbers of a training go, beside the topics of the learner: sinks, as plugins.

A sink is registered in the entry-point group ``user.metrics_sinks``. It has two calls and an end, all from one
thread of its own; it may be slow, fail, or never return, and the training goes on.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

from user_core.config import Config


class MetricsSink(ABC):
    """Takes the numbers of one training to where people look. Made as ``cls(config)``; nothing is opened then.

    Libraries are imported in :meth:`open`, which raises PluginError or ImportError where one is missing:
    the sink is then left out, with a warning. After any other error the sink is closed and opened anew some
    seconds later.
    """

    Config: ClassVar[type[Config]] = Config

    @abstractmethod
    def open(self, directory: Path, run: str) -> None:
        """Begin, or go on with a run that was there before.

        Args:
            directory: Folder of this sink in the learner's folder; it need not be there yet.
            run: Name of the run.
        """

    @abstractmethod
    def write(self, update: int, scalars: Mapping[str, float]) -> None:
        """Add one point to each curve.

        Args:
            update: Gradient updates so far; after a restart from a checkpoint it may be lower than before.
            scalars: By name, as ``algorithm/critic_loss`` or ``learner/updates_per_s``.
        """

    @abstractmethod
    def close(self) -> None:
        """End it; what is left is written. Idempotent, and harmless where nothing was opened."""
