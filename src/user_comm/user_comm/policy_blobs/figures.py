"""Policy versions as flows, for diagnostics."""

from __future__ import annotations

from user_comm.diagnostics import FlowFigures
from user_comm.policy_blobs.puller import PolicyPuller
from user_comm.policy_blobs.server import PolicyServer


def puller_figures(puller: PolicyPuller) -> FlowFigures:
    """What a robot or relay pulls."""
    stats, window = puller.stats, puller.window
    return FlowFigures(
        bytes=stats.bytes,
        link_bytes_s=window.rate_bytes_s,
        round_trip_s=window.round_trip_s,
        base_s=window.base_s,
        window_bytes=window.nbytes,
        again=stats.retries,
        refused=stats.refused,
        note=stats.last_error,
    )


def server_figures(server: PolicyServer) -> FlowFigures:
    """What a learner or relay serves."""
    return FlowFigures(bytes=server.served_bytes, refused=server.refused)
