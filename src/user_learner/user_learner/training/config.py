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


class GuardConfig(Config):
    """When the last good policy version comes back by itself."""

    episodes: int = setting(
        0,
        doc="Episodes over which success and stops are counted before they are judged; 0: new versions are "
        "not watched.",
        ge=0,
        le=10_000,
    )
    by: Literal["online", "evaluation"] = setting(
        "online",
        doc="Which episodes count. Of collecting ones, those that a person corrected are no success of the "
        "policy.",
    )
    max_drop: float = setting(
        0.3,
        doc="Success may fall by this share of all episodes below what it was before.",
        gt=0,
        le=1,
    )
    max_more_stops: float = setting(
        0.3,
        doc="The share of episodes that the safety gate ended may rise by this.",
        gt=0,
        le=1,
    )
    hold_updates: int = setting(
        2000,
        doc="Gradient updates for which new versions are withheld after a return; twice as many after the "
        "next, if there was no good window between.",
        ge=1,
    )
    restores_training: bool = setting(
        False,
        doc="At a return the training goes back, too: to the checkpoint of the good version, with its optimizer; data "
        "stay. False: it goes on from where it is, and must find out by itself.",
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
        "with more than this many within 1000 updates the learner goes back to its newest good checkpoint.",
        ge=0,
    )
    guard: GuardConfig = setting(
        factory=GuardConfig, doc="When the last good policy version comes back by itself."
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
    gives_way: bool = setting(
        False,
        doc="On a GPU that an inference_node of this host uses too (its shares_gpu), launch nothing while an "
        "answer is due: between updates, and within them between short CUDA graphs, or else the blocks of a large "
        "network.",
    )
    threads: int = setting(
        0,
        doc="Threads of one torch operation; 0: one per core, but one on a host with two cores.",
        ge=0,
        le=256,
    )
