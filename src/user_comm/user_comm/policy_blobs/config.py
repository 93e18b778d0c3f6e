"""Parameters of ``policy_relay``; read without ROS."""

from __future__ import annotations

from user_comm.net.sessions import LOCAL_ENDPOINT, ZenohConfig
from user_core.config import Config, setting


class PolicyRelayConfig(Config):
    """Parameters of policy_relay."""

    zenoh: ZenohConfig = setting(
        ZenohConfig(connect=(LOCAL_ENDPOINT,)),
        doc="The site's router: it leads to the learner, and robots reach this relay through it.",
    )
    key: str = setting(
        "site/policy",
        doc="Zenoh key under which it serves; robots of the site name it as `relay`.",
        min_length=1,
    )
    keep: int = setting(8, doc="Versions that are kept, to make deltas from.", ge=2)
    keep_bytes: int = setting(2**30, doc="Memory that they may take.", unit="B", ge=2**20)
