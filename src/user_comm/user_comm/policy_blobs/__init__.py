"""Policy versions over Zenoh: announced on a topic, pulled in small pieces.

Why pulled and not pushed: one slow or dead robot must not hold up the others, and a pull can
be retried piece by piece; ``docs/explanation/policy_sync.md`` and the measurements behind it say more.
"""

from user_comm.net.sessions import ZenohConfig, open_session
from user_comm.policy_blobs.figures import puller_figures, server_figures
from user_comm.policy_blobs.puller import PolicyPuller
from user_comm.policy_blobs.relay import PolicyRelay
from user_comm.policy_blobs.server import PolicyServer, ServerProbe

__all__ = [
    "PolicyPuller",
    "PolicyRelay",
    "PolicyServer",
    "ServerProbe",
    "ZenohConfig",
    "open_session",
    "puller_figures",
    "server_figures",
]
