"""What a graph recorder has seen of a run: who works, what was sent, which versions were announced."""

from __future__ import annotations

import threading
import zlib
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from user_bringup.chaos.faults import LINK
from user_fleet.deployment import ProcessSpec

ChunkName = tuple[str, int, int]


@dataclass
class Evidence:
    """Filled by a graph recorder, from its thread; under :attr:`lock`. Times are monotonic seconds.

    Attributes:
        acted_s: By namespace of a robot, when an observation last showed a newly applied action.
        stored_s: By producer, when an acknowledgement last covered something new.
        trained_s: By topic, when a learner last said that it trains, or keeps to its ratio.
        active_s: By full name of a node, when its heartbeat last said that it is active.
        acknowledged: Newest sequence number by producer and incarnation.
        chunks: Rows and checksum of every chunk that was seen on its way.
        changed: Chunks that were seen with two contents.
        versions: Content hash of every policy version that was announced, by number.
        trouble: What must not happen, and did.
    """

    acted_s: dict[str, float] = field(default_factory=dict)
    stored_s: dict[str, float] = field(default_factory=dict)
    trained_s: dict[str, float] = field(default_factory=dict)
    active_s: dict[str, float] = field(default_factory=dict)
    acknowledged: dict[tuple[str, int], int] = field(default_factory=dict)
    chunks: dict[ChunkName, tuple[int, int]] = field(default_factory=dict)
    changed: list[ChunkName] = field(default_factory=list)
    versions: dict[int, str] = field(default_factory=dict)
    trouble: list[str] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)
    _applied: dict[str, int] = field(default_factory=dict)
    _newest: dict[int, int] = field(default_factory=dict)

    def acted(self, namespace: str, applied_ns: int, now_s: float) -> None:
        """An observation came, with the time at which the last action was applied."""
        if applied_ns and applied_ns != self._applied.get(namespace):
            self._applied[namespace] = applied_ns
            self.acted_s[namespace] = now_s

    def acknowledge(self, key: tuple[str, int], sequence: int, now_s: float) -> None:
        """A store says what it has of a producer's incarnation."""
        if sequence > self.acknowledged.get(key, 0):
            self.acknowledged[key] = sequence
            self.stored_s[key[0]] = now_s

    def chunk(self, name: ChunkName, columns: Mapping[str, Any]) -> None:
        """A chunk is on its way, perhaps not for the first time."""
        seen = checksum(columns)
        if self.chunks.setdefault(name, seen) != seen:
            self.changed.append(name)

    def announced(self, number: int, content_hash: str, domain: int = 0) -> None:
        """A policy version is announced in a ROS domain, perhaps not for the first time."""
        newest = self._newest.setdefault(domain, number)
        if self.versions.setdefault(number, content_hash) != content_hash:
            self.trouble.append(f"policy version {number} was announced with two contents")
        elif number < newest:
            self.trouble.append(f"policy version {number} came after {newest}")
        else:
            self._newest[domain] = number


def checksum(columns: Mapping[str, Any]) -> tuple[int, int]:
    """Rows, and CRC-32 over all columns by name."""
    value, rows = 0, 0
    for name in sorted(columns):
        array = np.ascontiguousarray(columns[name])
        value = zlib.crc32(array.reshape(-1).view(np.uint8).data, value) if array.size else value
        rows = len(array)
    return rows, value


#: What the victim has sent before may arrive for this long, and its last action be played.
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
