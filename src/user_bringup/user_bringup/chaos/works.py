"""When a process does again what it is for: collecting, storing or training."""

from __future__ import annotations

from user_bringup.chaos.evidence import Evidence
from user_bringup.chaos.link import LINK
from user_fleet.deployment import ProcessSpec

#: What the victim has sent before may arrive for so long, and its last action be played.
GRACE_S = 0.3


def works_since(spec: ProcessSpec, evidence: Evidence, since_s: float) -> float | None:
    """When a process was first seen at work after ``since_s``; None as long as it was not.

    A robot's hal and its actor work when an action reaches the robot, a replay store when it
    acknowledges something new, so do bridges, router and link, which data must pass; a learner when it
    trains (or has made all the updates that are due), any other node when its heartbeat says
    that it is active.
    """
    with evidence.lock:
        if spec.executable in ("hal_node", "actor_node"):
            seen = [evidence.acted_s.get(spec.namespace or "/", 0.0)]
        elif spec.executable in ("replay_node", "bridge_node", "router", LINK):
            seen = list(evidence.stored_s.values())
        elif spec.executable == "learner_node":
            seen = list(evidence.trained_s.values())
        else:
            seen = [evidence.active_s.get(spec.node_name.lstrip("/"), 0.0)]
    later = [time_s for time_s in seen if time_s > since_s + GRACE_S]
    return min(later, default=None)
