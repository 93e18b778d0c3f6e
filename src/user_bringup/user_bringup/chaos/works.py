"""When a process does again what it is for: collecting, storing or training."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from user_bringup.chaos.evidence import Evidence
from user_bringup.chaos.link import LINK
from user_fleet.deployment import ProcessSpec

#: What the victim has sent before may arrive for so long, and its last action be played.
GRACE_S = 0.3


def works_since(
    spec: ProcessSpec, evidence: Evidence, since_s: float, producers: Collection[str] = ()
) -> float | None:
    """When a process was first seen at work after ``since_s``; None as long as it was not.

    A robot's hal and its actor work when an action reaches the robot, a replay store when it
    acknowledges something new, so do bridges, routers and link, which data must pass; a learner
    when it trains (or has made all the updates that are due), any other node when its heartbeat
    says that it is active.

    Args:
        spec: The process.
        evidence: What was seen.
        since_s: Monotonic seconds.
        producers: Actors whose data must pass it (:func:`producers_behind`); empty: any.
    """
    with evidence.lock:
        if spec.executable in ("hal_node", "actor_node"):
            seen = [evidence.acted_s.get(spec.namespace or "/", 0.0)]
        elif spec.executable in ("replay_node", "bridge_node", "router", LINK):
            stored = evidence.stored_s.items()
            seen = [time_s for name, time_s in stored if not producers or name in producers]
        elif spec.executable == "learner_node":
            seen = list(evidence.trained_s.values())
        else:
            seen = [evidence.active_s.get(spec.node_name.lstrip("/"), 0.0)]
    later = [time_s for time_s in seen if time_s > since_s + GRACE_S]
    return min(later, default=None)


def producers_behind(spec: ProcessSpec, processes: Iterable[ProcessSpec]) -> set[str]:
    """The actors on a process's own host, by their names as producers of experience; none on a
    learner's: there all come together."""
    return {
        str(other.parameters.get("name") or other.node_name.strip("/").replace("/", "."))
        for other in processes
        if other.executable == "actor_node" and other.host == spec.host
    }
