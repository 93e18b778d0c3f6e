"""Parameters of the nodes of this package; readable without ROS.

The entry-point group ``user.nodes`` maps the executables to these classes, so that a whole
deployment can be checked before anything starts.
"""

from __future__ import annotations

from pathlib import Path

from user_comm.net.sessions import LOCAL_ENDPOINT, ZenohConfig
from user_core.config import Config, setting
from user_learner.learner import LearnerConfig
from user_learner.replay.config import StoreConfig
from user_learner.robot_watch import RobotWatchConfig


class LearnerNodeConfig(LearnerConfig):
    """Parameters of learner_node."""

    zenoh: ZenohConfig = setting(
        ZenohConfig(mode="router", listen=(LOCAL_ENDPOINT,)),
        doc="Where robots pull policy versions from.",
    )
    key: str = setting("user/policy", doc="Zenoh key under which versions are served.")
    offer_locally: bool = setting(
        True,
        doc="An inference_node of the same user on this host may take versions without the network, from memory or from the "
        "GPU (its local_versions). While one does so from the GPU, up to three copies of the weights are kept there.",
    )
    backlog_period_s: float = setting(
        0.05,
        doc="Time between two messages to simulations in lockstep that are held back.",
        unit="s",
        gt=0,
    )
    status_period_s: float = setting(1.0, doc="Time between two status messages.", unit="s", gt=0)


class TierConfig(Config):
    """A slower disk for old segments."""

    folder: str = setting(
        "",
        doc="Directory for them, also one of another host that is mounted; or a bucket, s3://BUCKET/PREFIX; "
        "empty: they stay.",
    )
    keep_here_mb: float = setting(
        10240.0,
        doc="Size of the newest segments that stay on the store's own disk.",
        unit="MB",
        ge=0,
    )
    fetched_mb: float = setting(
        4096.0,
        doc="Of segments in a bucket, how much may be here as well: what was fetched first goes first.",
        unit="MB",
        ge=0,
    )


class ReplayConfig(Config):
    """Parameters of replay_node."""

    path: Path = setting(doc="Directory of the store; made when it is not there.")
    store: StoreConfig = setting(
        factory=StoreConfig, doc="How the store is written, and how much it keeps."
    )
    robots: RobotWatchConfig = setting(
        factory=RobotWatchConfig, doc="When the data of one robot look wrong beside the others'."
    )
    status_period_s: float = setting(1.0, doc="Time between two status messages.", unit="s", gt=0)
    tier: TierConfig = setting(
        factory=TierConfig, doc="Where old segments go, if not away: a slower disk."
    )
    retention_period_s: float = setting(
        60.0, doc="Time between two applications of the retention policy.", unit="s", gt=0
    )
