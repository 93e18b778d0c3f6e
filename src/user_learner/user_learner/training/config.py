"""Parameters of the training loop."""

from __future__ import annotations

from typing import Literal

from user_core.config import Config, setting


class UtdConfig(Config):
    """How many gradient updates are made per environment step; see :class:`~user_learner.training.utd.UtdLimiter`."""

    target: float | None = setting(
        1.0,
        doc="Gradient updates per environment step; null: as many as possible.",
        gt=0,
    )
    learning_starts: int = setting(
        1000, doc="Environment steps to be collected before the first update.", ge=0
    )
    initial_updates: int = setting(
        0, doc="Updates that are due at the start, for instance on demonstrations.", ge=0
    )
    ahead_steps: float = setting(
        20.0, doc="The learner may be ahead by the updates of this many steps.", ge=0
    )
    behind_steps: float = setting(
        5000.0,
        doc="Updates of more steps than this are not caught up; the ratio then falls.",
        ge=0,
    )


class TrainingConfig(Config):
    """The training loop."""

    batch_size: int = setting(256, doc="Transitions of one gradient update.", ge=1, le=1_000_000)
    utd: UtdConfig = setting(factory=UtdConfig, doc="Ratio of updates to environment steps.")
    prefetch: int = setting(
        0,
        doc="Batches drawn ahead by a thread of their own; 0 for a source that draws ahead "
        "itself, as that of the replay store does.",
        ge=0,
        le=64,
    )
    skipped_updates: int = setting(
        10,
        doc="Updates that gave numbers that are not finite, and changed nothing by it, are skipped and counted; "
        "after so many more than that within 1000 updates the learner goes back to its newest good "
        "checkpoint.",
        ge=0,
    )
    max_updates: int | None = setting(None, doc="Updates after which training is finished.", ge=0)
    publish_period_s: float = setting(
        1.0, doc="Shortest time between two policy versions.", unit="s", ge=0
    )
    publish_type: Literal["float32", "bfloat16"] = setting(
        "float32",
        doc="Precision of published float32 weights. bfloat16 keeps 8 significant bits and costs "
        "a third of the bytes on the way to the robots.",
    )
    publish_every_updates: int = setting(1, doc="Fewest updates between two policy versions.", ge=1)
    checkpoint_period_s: float = setting(
        20.0, doc="Shortest time between two checkpoints.", unit="s", ge=0
    )
    checkpoint_every_updates: int = setting(1, doc="Fewest updates between two checkpoints.", ge=1)
    checkpoints_kept: int = setting(3, doc="Newest checkpoints that are kept.", ge=1)
    metrics_period_s: float = setting(
        1.0, doc="Time over which metrics are averaged.", unit="s", gt=0
    )
    threads: int = setting(
        0, doc="Threads of one torch operation; 0 leaves it to torch (one per core).", ge=0, le=256
    )
